"""A part of a crystal that stays where it is: on the device, and after it."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from crystaljax.crystals import (
    kept_settings,
    standard_choice,
    standard_groups,
    structure,
    wyckoff_assignments,
)
from crystaljax.models import orbit_flow, prototype_library, wyckoff_model

# What becomes of the template's lattice.
KEPT, SCALED, FREE = LATTICES = ("kept", "scaled", "free")
# A known structure fits a kept part whose parameters (periods) and strains are so near.
_NEAR_PARAMETERS = 0.06
_NEAR_STRAIN = 0.2


@dataclasses.dataclass(frozen=True, eq=False)
class KeptPart:
    """A part of a crystal in a space group that it allows.

    Attributes:
        setting: the group, and where its axes lie.
        part: the sites that are kept, in the template's cell.
        lattice: one of `LATTICES`.
    """

    setting: kept_settings.Setting
    part: structure.Crystal
    lattice: str = KEPT

    def rows_of(
        self,
        question: prototype_library.Question,
        assignment: wyckoff_assignments.Assignment,
    ) -> Int[np.ndarray, " kept"]:
        """Among all orbits, the row of each that is kept: the first of its kind."""
        numbers, positions = wyckoff_model.orbits_of(question, assignment)
        kept = self.setting.kept
        rows, taken = [], set()
        for number, position in zip(kept.atomic_numbers, kept.positions, strict=True):
            same = np.flatnonzero((numbers == number) & (positions == position))
            row = next(each for each in same.tolist() if each not in taken)
            taken.add(row)
            rows.append(row)
        return np.array(rows)

    @property
    def keeps_strain(self) -> np.ndarray:
        """Which strains are known, bool (6,)."""
        is_known = np.full(standard_groups.MAX_STRAINS, self.lattice != FREE)
        is_known[0] &= self.lattice == KEPT
        return is_known

    def fixed_places(
        self,
        question: prototype_library.Question,
        assignment: wyckoff_assignments.Assignment,
    ) -> tuple[Int[np.ndarray, " sites"], Float[np.ndarray, "sites 3"]] | None:
        """Elements and coordinates of the rest, in the template's cell.

        None where a position of it has a free parameter.
        """
        numbers, positions = wyckoff_model.orbits_of(question, assignment)
        group = standard_groups.load_group(question.space_group)
        is_new = np.ones(len(numbers), bool)
        is_new[self.rows_of(question, assignment)] = False
        filled = [group.positions[each] for each in positions[is_new].tolist()]
        if any(each.freedom for each in filled):
            return None
        sites = self.setting.to_cell(np.concatenate([each.offsets for each in filled]))
        sizes = [each.multiplicity * self.setting.num_cells for each in filled]
        return np.repeat(numbers[is_new], sizes), sites

    def is_settled(
        self,
        question: prototype_library.Question,
        assignment: wyckoff_assignments.Assignment,
    ) -> bool:
        """Whether nothing is left that a network could choose."""
        places = self.fixed_places(question, assignment)
        return self.lattice == KEPT and places is not None

    def arrange(
        self,
        question: prototype_library.Question,
        assignment: wyckoff_assignments.Assignment,
        known: Float[np.ndarray, "orbits 3"],
        strain: Float[np.ndarray, "6"],
        size_strain: float,
    ) -> Float[np.ndarray, "orbits 3"] | None:
        """A known structure's parameters, the kept orbits first among their kind.

        Args:
            question: about the crystal.
            assignment: of it and of the known structure.
            known: parameters of that structure.
            strain: of it, the first relative to the volume that the atoms would fill.
            size_strain: the first strain of a cell that the atoms would fill.

        Returns:
            None where the kept part is another in that structure.
        """
        apart = self.setting.kept.strain - strain
        apart[0] -= size_strain
        if np.abs(apart[self.keeps_strain]).max(initial=0) > _NEAR_STRAIN:
            return None
        kept = self.setting.kept
        numbers, positions = wyckoff_model.orbits_of(question, assignment)
        starts: Sequence[int | None] = [None]
        polar = standard_groups.load_group(question.space_group).num_polar
        if polar and len(kept.positions):
            # Where the origin lies along polar directions is a matter of choice.
            anchor = kept_settings.anchor_of_kept(kept)
            same = numbers == kept.atomic_numbers[anchor]
            same &= positions == kept.positions[anchor]
            starts = np.flatnonzero(same).tolist()
        for start in starts:
            moved = known.copy()
            if start is not None:
                moved[:, :polar] -= moved[start, :polar]
            order = self._bring(moved, question, assignment, start)
            if order is not None:
                return moved[order]
        return None

    def _bring(
        self,
        known: Float[np.ndarray, "orbits 3"],
        question: prototype_library.Question,
        assignment: wyckoff_assignments.Assignment,
        start: int | None,
    ) -> Int[np.ndarray, " orbits"] | None:
        """The order in which known orbits are where the kept ones are.

        Parameters of known orbits become those of the same sites that are nearest.
        None where they are not near; ``start`` is the one at the anchor.
        """
        kept = self.setting.kept
        group = standard_groups.load_group(question.space_group)
        numbers, positions = wyckoff_model.orbits_of(question, assignment)
        rows = self.rows_of(question, assignment).tolist()
        anchor = None if start is None else kept_settings.anchor_of_kept(kept)
        of_row: dict[int, int] = {}
        # The anchor first: it has no choice.
        for index in sorted(range(len(rows)), key=lambda each: each != anchor):
            position = group.positions[int(kept.positions[index])]
            same = (numbers == numbers[rows[index]]) & (
                positions == positions[rows[index]]
            )
            left = np.setdiff1d(np.flatnonzero(same), list(of_row.values()))
            if index == anchor:
                left = np.array([start])
            ways = known[left][:, None]
            if index != anchor and position.freedom:
                ways = standard_choice.equivalents(position, known[left])
            gaps = ways - kept.parameters[index]
            gaps = np.abs(gaps - np.round(gaps)).max(axis=2)
            which, way = np.unravel_index(gaps.argmin(), gaps.shape)
            if gaps[which, way] > _NEAR_PARAMETERS:
                return None
            of_row[rows[index]] = int(left[which])
            known[left[which]] = ways[which, way]
        order = np.arange(len(known))
        for row in order.tolist():
            if row not in of_row:
                same = (numbers == numbers[row]) & (positions == positions[row])
                left = np.setdiff1d(np.flatnonzero(same), list(of_row.values()))
                of_row[row] = int(left[0])
        return np.array([of_row[row] for row in order.tolist()])

    def finish(
        self,
        question: prototype_library.Question,
        assignment: wyckoff_assignments.Assignment,
        coords: Float[np.ndarray, "sites 3"],
        lattice: Float[np.ndarray, "3 3"],
    ) -> structure.Crystal:
        """The template's cell with its kept sites as they were, and the others.

        Args:
            question: about the crystal.
            assignment: of its positions.
            coords: of all sites of the primitive cell, orbit after orbit.
            lattice: of the primitive cell, Å.
        """
        numbers, positions = wyckoff_model.orbits_of(question, assignment)
        group = standard_groups.load_group(question.space_group)
        sizes = [group.positions[each].multiplicity for each in positions]
        is_new = np.ones(len(numbers), bool)
        is_new[self.rows_of(question, assignment)] = False
        of_site = np.repeat(is_new, sizes)
        made = np.repeat(np.repeat(numbers, sizes)[of_site], self.setting.num_cells)
        if self.lattice == KEPT:
            rows = self.part.lattice
        elif self.lattice == SCALED:
            volume = abs(np.linalg.det(lattice)) * self.setting.num_cells
            ratio = volume / abs(np.linalg.det(self.part.lattice))
            rows = self.part.lattice * np.cbrt(ratio)
        else:
            rows = structure.orient(self.setting.cell_lattice(lattice))
        return structure.Crystal(
            np.concatenate([self.part.atomic_numbers, made]).astype(int),
            np.concatenate(
                [self.part.frac_coords, self.setting.to_cell(coords[of_site])]
            ),
            rows,
        )


def positions_of(
    setting: kept_settings.Setting, species: Sequence[int]
) -> wyckoff_assignments.Assignment:
    """Which positions the kept orbits of each species fill."""
    kept = setting.kept
    return tuple(
        tuple(sorted(kept.positions[kept.atomic_numbers == each].tolist()))
        for each in species
    )


def build_kept(
    parts: Sequence[
        tuple[
            KeptPart | None,
            prototype_library.Question,
            wyckoff_assignments.Assignment,
        ]
    ],
    num_orbits: int,
) -> orbit_flow.KeptOrbits | None:
    """What a batch keeps, with the question and the positions of each crystal.

    Returns:
        None where nothing is kept.
    """
    if all(part is None for part, *_ in parts):
        return None
    count, width = len(parts), standard_groups.MAX_STRAINS
    kept = orbit_flow.KeptOrbits(
        np.zeros((count, num_orbits), bool),
        np.zeros((count, num_orbits, 3), np.float32),
        np.zeros((count, width), bool),
        np.zeros((count, width), np.float32),
    )
    for row, (part, question, assignment) in enumerate(parts):
        if part is not None:
            orbits_of_part = part.rows_of(question, assignment)
            kept.is_kept[row, orbits_of_part] = True
            kept.parameters[row, orbits_of_part] = part.setting.kept.parameters
            kept.keeps_strain[row] = part.keeps_strain
            kept.strain[row] = part.setting.kept.strain
    return kept
