"""A part of a crystal that stays, for networks that see a crystal site by site.

They know cells in the form of their training structures: a reduced basis, a site at the
origin. The template goes into such a form and comes back from it.
"""

import dataclasses

import numpy as np
from jaxtyping import Integer

from crystaljax.crystals import elements, kept_sites, niggli, structure
from crystaljax.sampling import conditions as conditions_lib
from crystaljax.sampling import kept_parts
from crystaljax.system import errors


@dataclasses.dataclass(frozen=True, eq=False)
class KeptCell:
    """A kept part in the form that a network knows, and the way back.

    Attributes:
        part: the kept sites, in the template's cell.
        change: (3, 3), integers: rows of the reduced basis in terms of the cell's.
        origin: (3,), of the form, in terms of the reduced basis.
        lattice: what becomes of the template's, `kept_parts.LATTICES`.
    """

    part: structure.Crystal
    change: np.ndarray
    origin: np.ndarray
    lattice: str = kept_parts.KEPT

    def reduced(self) -> tuple[np.ndarray, np.ndarray]:
        """Kept coordinates, and the lattice, in the form."""
        coords = self.part.frac_coords @ np.linalg.inv(self.change) - self.origin
        lattice = structure.orient(self.change @ self.part.lattice)
        return structure.wrap_sites(coords), lattice

    def restore(
        self, made: structure.Crystal, is_kept: np.ndarray
    ) -> structure.Crystal:
        """What a network made, in the template's cell, kept sites first, as they were.

        Args:
            made: in the form.
            is_kept: bool (sites,), its sites that are kept.
        """
        new = ~is_kept[: made.num_sites]
        coords = (made.frac_coords[new] + self.origin) @ self.change
        if self.lattice == kept_parts.KEPT:
            lattice = self.part.lattice
        elif self.lattice == kept_parts.SCALED:
            volumes = np.abs(np.linalg.det([made.lattice, self.part.lattice]))
            lattice = self.part.lattice * np.cbrt(volumes[0] / volumes[1])
        else:
            lattice = np.linalg.inv(self.change) @ made.lattice
        return structure.Crystal(
            np.concatenate([self.part.atomic_numbers, made.atomic_numbers[new]]),
            np.concatenate([self.part.frac_coords, structure.wrap_sites(coords)]),
            lattice,
        )


def build_cell(
    template: kept_sites.Template, origin: str, lattice: str = kept_parts.KEPT
) -> KeptCell:
    """A template in the form of a data set.

    Args:
        template: with what is kept of it.
        origin: `data.reading.CanonicalForm.origin`: "none" leaves the cell as it is,
            "input" the origin; others put a kept site of the rarest species there.
        lattice: what becomes of the template's.

    Raises:
        UserError: the lattice cannot be reduced.
    """
    part, change = template.part, np.eye(3)
    if origin != "none":
        changes, problems = niggli.niggli_changes(part.lattice[None])
        if problems[0]:
            raise errors.UserError(f"template {template.path}: {problems[0]}")
        change = changes[0]
    place = np.zeros(3)
    if origin not in ("none", "input"):
        numbers = part.atomic_numbers
        counts = (numbers[:, None] == numbers).sum(axis=1)
        ranks = elements.mendeleev_number()[numbers]
        first = int(np.lexsort((ranks, counts))[0])
        place = part.frac_coords[first] @ np.linalg.inv(change)
    return KeptCell(part, change, place, lattice)


def attach(
    conditions: conditions_lib.Conditions, cell: KeptCell
) -> conditions_lib.Conditions:
    """Conditions whose first sites of each kept species are the kept ones."""
    coords, lattice = cell.reduced()
    count, width = conditions.atomic_numbers.shape
    kept = conditions_lib.KeptSites(
        np.zeros((count, width, 3), np.float32),
        np.tile(lattice.astype(np.float32), (count, 1, 1)),
        np.zeros((count, width), bool),
        np.full(count, cell.lattice == kept_parts.KEPT),
    )
    order: dict[bytes, np.ndarray] = {}
    for row, numbers in enumerate(np.asarray(conditions.atomic_numbers)):
        key = numbers.tobytes()
        if key not in order:
            order[key] = _places(numbers, cell.part.atomic_numbers)
        kept.is_kept[row, order[key]] = True
        kept.frac_coords[row, order[key]] = coords
    return dataclasses.replace(conditions, kept=kept)


def _places(
    numbers: Integer[np.ndarray, " sites"], kept: Integer[np.ndarray, " kept"]
) -> Integer[np.ndarray, " kept"]:
    """Among the sites of a cell, one for each that is kept."""
    places = []
    for index, number in enumerate(kept.tolist()):
        earlier = int((kept[:index] == number).sum())
        places.append(int(np.flatnonzero(numbers == number)[earlier]))
    return np.array(places)
