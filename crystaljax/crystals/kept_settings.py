"""A part of a crystal in the standard setting of a space group that it has.

`kept_groups` finds these. Here is what they are: the map from the crystal's cell to the
setting and back, the other choices of axes and origin, and which places in the cell the
group makes equal.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from crystaljax.crystals import (
    orbits,
    standard_choice,
    standard_groups,
    structure,
)

# Å. Within which an image of a kept site is at a kept site.
TOLERANCE = 0.03
# Lattice parameters agree to this share where a group requires it.
_MAX_STRAIN = 2e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """A space group that a part of a crystal has, and its standard primitive setting.

    A point x of the crystal's cell is ``matrix @ x + shift`` in the setting.

    Attributes:
        matrix: (3, 3), whole numbers; the columns are the cell's vectors in terms of
            those of the primitive cell.
        shift: (3,).
        kept: the part as orbits, with the lattice.
    """

    matrix: np.ndarray
    shift: np.ndarray
    kept: orbits.OrbitCrystal

    @property
    def space_group(self) -> int:
        """1-230."""
        return self.kept.space_group

    @property
    def num_cells(self) -> int:
        """Primitive cells in the crystal's cell."""
        return round(abs(np.linalg.det(self.matrix)))

    def to_cell(
        self, coords: Float[np.ndarray, "sites 3"]
    ) -> Float[np.ndarray, "copies 3"]:
        """Sites of a primitive cell → all of them in the crystal's cell, in [0, 1)."""
        inverse = np.linalg.inv(self.matrix)
        first = (coords - self.shift) @ inverse.T
        copies = first[:, None] + lattice_points(self.matrix)
        return structure.wrap_sites(copies.reshape(-1, 3))

    def cell_lattice(
        self, primitive: Float[np.ndarray, "3 3"]
    ) -> Float[np.ndarray, "3 3"]:
        """Rows of a primitive lattice → rows of the crystal's cell."""
        return self.matrix.T @ primitive


def lattice_points(matrix: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "points 3"]:
    """Translations of the primitive cell within a cell, in terms of the cell."""
    count = round(abs(np.linalg.det(matrix)))
    inverse = np.linalg.inv(matrix)
    steps = np.array(list(np.ndindex(count, count, count)), float)
    points = np.rint(steps @ inverse.T * count) % count
    return np.unique(points, axis=0) / count


def kind(setting: Setting) -> object:
    """What the same group found twice has in common."""
    kept = setting.kept
    kinds = zip(kept.atomic_numbers.tolist(), kept.positions.tolist(), strict=True)
    return setting.space_group, setting.num_cells, tuple(sorted(kinds))


# ------------------------------------------------------------------------- alternatives
@dataclasses.dataclass(frozen=True, eq=False)
class Alternatives:
    """A setting with the other choices of axes and origin.

    Attributes:
        settings: one for each set of Wyckoff positions that the kept orbits can have,
            parameters as plain as can be. Along polar directions the origin is where
            the kept orbit is that settles it (`anchor_of_kept`).
        targets: of each, which position those of the first setting become.
        variants: of each, all descriptions in which the kept orbits have these
            positions, itself among them, with their targets.
        symmetries: maps of positions that leave the kept part as it is, the identity
            among them: what they relate are the same crystals.
    """

    settings: list[Setting]
    targets: list[tuple[int, ...]]
    variants: list[list[tuple[Setting, tuple[int, ...]]]]
    symmetries: list[tuple[int, ...]]

    def key(
        self, targets: Sequence[int], assignment: Sequence[tuple[int, ...]]
    ) -> tuple[tuple[int, ...], ...]:
        """What all descriptions of positions have in common.

        Args:
            targets: of the setting in which they are described.
            assignment: the positions.
        """
        back = np.argsort(targets)
        return min(
            tuple(
                tuple(sorted(symmetry[back[each]] for each in filled))
                for filled in assignment
            )
            for symmetry in self.symmetries
        )


def describe_anew(setting: Setting) -> Alternatives:
    """All choices of axes and origin, as far as they differ for the kept part."""
    kept = setting.kept
    group = standard_groups.load_group(kept.space_group)
    made: dict[object, dict[object, tuple[Setting, tuple[int, ...]]]] = {}
    symmetries: dict[tuple[int, ...], None] = {}
    reference = _parameters_key(_at_origin(group, setting))
    for change, shift in dict.fromkeys([(0, 0), *standard_choice.list_short(kept)]):
        changes, shifts = group.changes, group.shifts
        targets = tuple(shifts.targets[shift][changes.targets[change]].tolist())
        matrix = changes.linear[change]
        moved = matrix @ setting.shift + changes.translations[change]
        other = _at_origin(
            group,
            Setting(
                np.rint(matrix @ setting.matrix),
                moved + shifts.translations[shift],
                standard_choice.transform(kept, change, shift),
            ),
        )
        key = _parameters_key(other)
        made.setdefault(kind(other), {}).setdefault((key, targets), (other, targets))
        if key == reference:
            symmetries[targets] = None
    variants = [list(each.values()) for each in made.values()]
    settings, targets = zip(*(each[0] for each in variants), strict=True)
    return Alternatives(list(settings), list(targets), variants, list(symmetries))


def _parameters_key(setting: Setting) -> tuple[object, ...]:
    kept = setting.kept
    strain = np.rint(kept.strain / 0.02).astype(int).tolist()
    parameters = (np.rint(kept.parameters * 200).astype(int) % 200).tolist()
    kinds = zip(
        kept.atomic_numbers.tolist(), kept.positions.tolist(), parameters, strict=True
    )
    return tuple(strain), tuple((a, b, tuple(c)) for a, b, c in sorted(kinds))


def anchor_of_kept(kept: orbits.OrbitCrystal) -> int:
    """The kept orbit that settles the origin along polar directions."""
    group = standard_groups.load_group(kept.space_group)
    order = np.lexsort((kept.positions, kept.atomic_numbers))
    first = standard_choice.find_anchor(
        group, kept.atomic_numbers[order], kept.positions[order]
    )
    return int(order[first])


def _at_origin(group: standard_groups.Group, setting: Setting) -> Setting:
    kept, polar = setting.kept, group.num_polar
    parameters, shift = kept.parameters.copy(), setting.shift
    if polar:
        anchor = anchor_of_kept(kept)
        move = parameters[anchor, :polar].copy()
        basis = group.positions[int(kept.positions[anchor])].basis
        freedom = np.array([group.positions[i].freedom for i in kept.positions])
        assert (freedom >= polar).all()
        parameters[:, :polar] -= move
        shift = shift - basis[:, :polar] @ move
    fixed = anchor_of_kept(kept) if polar else None
    parameters = standard_choice.plainest(group, kept.positions, parameters, fixed)
    changed = dataclasses.replace(kept, parameters=parameters % 1)
    return dataclasses.replace(setting, kept=changed, shift=shift)


# ------------------------------------------------------------------------ same crystals
def operations_in_cell(
    setting: Setting,
) -> tuple[Int[np.ndarray, "operations 3 3"], Float[np.ndarray, "operations 3"]]:
    """Operations of a setting's group that the crystal's cell has."""
    group = standard_groups.load_group(setting.space_group)
    return in_cell(setting.matrix, setting.shift, group.rotations, group.translations)


def are_equivalent(
    numbers: tuple[Int[np.ndarray, " some"], Int[np.ndarray, " others"]],
    coords: tuple[Float[np.ndarray, "some 3"], Float[np.ndarray, "others 3"]],
    lattice: Float[np.ndarray, "3 3"],
    operations: tuple[np.ndarray, np.ndarray],
) -> bool:
    """Whether an operation brings some sites of a cell to others.

    Args:
        numbers: atomic numbers of both.
        coords: of both, fractional.
        lattice: Å.
        operations: of the rest of the crystal, `operations_in_cell`.
    """
    if sorted(numbers[0].tolist()) != sorted(numbers[1].tolist()):
        return False
    rotations, translations = operations
    images = np.einsum("kij,sj->ksi", rotations, coords[0]) + translations[:, None]
    apart = images[:, :, None] - coords[1]
    distances = np.linalg.norm((apart - np.round(apart)) @ lattice, axis=-1)
    distances[:, numbers[0][:, None] != numbers[1]] = np.inf
    return bool((distances.min(axis=2).max(axis=1) < TOLERANCE).any())


def has_operations(
    crystal: structure.Crystal, operations: tuple[np.ndarray, np.ndarray]
) -> bool:
    """Whether operations of a cell bring all sites of a crystal to its sites."""
    rotations, translations = operations
    stays = find_kept(
        rotations,
        translations,
        crystal.atomic_numbers,
        crystal.frac_coords,
        crystal.lattice,
    )
    return len(stays) == len(rotations)


def in_cell(matrix, shift, rotations, translations):
    """Operations of a primitive setting that a cell has, with all translations."""
    inverse = np.linalg.inv(matrix)
    turned = inverse @ rotations @ matrix
    whole = np.abs(turned - np.rint(turned)).max(axis=(1, 2)) < 1e-6
    turned = np.rint(turned[whole]).astype(int)
    moved = (rotations[whole] @ shift + translations[whole] - shift) @ inverse.T
    points = lattice_points(matrix)
    moved = (moved[:, None] + points).reshape(-1, 3)
    return np.repeat(turned, len(points), axis=0), moved % 1


def find_kept(rotations, translations, numbers, coords, lattice) -> np.ndarray:
    """Indices of operations that bring sites to sites and leave the lattice alone."""
    images = np.einsum("kij,sj->ksi", rotations, coords) + translations[:, None]
    apart = images[:, :, None] - coords
    distances = np.linalg.norm((apart - np.round(apart)) @ lattice, axis=-1)
    distances[:, numbers[:, None] != numbers] = np.inf
    metric = lattice @ lattice.T
    turned = np.swapaxes(rotations, 1, 2) @ metric @ rotations
    strained = np.abs(turned - metric).max(axis=(1, 2)) / np.trace(metric)
    fits = (distances.min(axis=2).max(axis=1) < TOLERANCE) & (strained < _MAX_STRAIN)
    return np.flatnonzero(fits)
