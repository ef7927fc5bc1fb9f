"""Primitive, Niggli-reduced cells as pymatgen's StructureMatcher makes them.

To the last bit, so that what is compared is what StructureMatcher compares, but several
times as fast. Even so a cell takes about as long as a comparison: make each one once.
"""

import dataclasses
import functools
import itertools
import math

import numpy as np
from jaxtyping import Float, Int
from pymatgen.core import Element, Lattice, Structure

from crystaljax.crystals import bridge, structure, validity
from crystaljax.matching import bases

# Structure.get_primitive_structure's tolerance, Å, as StructureMatcher calls it.
_SITE_TOLERANCE = 0.25
# Looser than pymatgen by this (fractional), so that rounding cannot decide.
_SLACK = 1e-9
# Lattice points that pymatgen's Niggli reduction may list; it takes all those within
# the longest lattice vector.
_MAX_POINTS = 1_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class ReducedCell:
    """A primitive, Niggli-reduced cell.

    Attributes:
        atomic_numbers: int (sites,).
        frac_coords: float (sites, 3).
        lattice: vectors as rows, Å.
    """

    atomic_numbers: Int[np.ndarray, " sites"]
    frac_coords: Float[np.ndarray, "sites 3"]
    lattice: Lattice

    @functools.cached_property
    def volume(self) -> float:
        """Å³."""
        return float(self.lattice.volume)

    @functools.cached_property
    def composition(self) -> tuple[int, ...]:
        """Atomic numbers in ascending order."""
        return tuple(sorted(self.atomic_numbers.tolist()))

    @functools.cached_property
    def relative_lengths(self) -> Float[np.ndarray, "3"]:
        """Lengths over the cube root of the volume, ascending."""
        return np.sort(self.lattice.lengths) / self.volume ** (1 / 3)

    @functools.cached_property
    def relative_minima(self) -> Float[np.ndarray, "3"]:
        """The same of the shortest basis there is, the successive minima."""
        reduced = validity.reduce_lattice(np.array(self.lattice.matrix))
        return np.linalg.norm(reduced, axis=-1) / self.volume ** (1 / 3)


def reduce_cell(crystal: structure.Crystal) -> ReducedCell:
    """The cell that StructureMatcher compares.

    The crystal must pass `validity.find_cell_problem`. A cell so elongated that
    pymatgen would run out of time or memory gets a Minkowski-reduced basis instead.

    Raises:
        Exception: of many kinds, where pymatgen cannot reduce a distorted cell.
    """
    crystal = structure.wrapped_if_far(crystal)
    numbers = np.asarray(crystal.atomic_numbers).astype(int)
    coords = np.asarray(crystal.frac_coords, dtype=np.float64)
    lattice = Lattice(np.asarray(crystal.lattice, dtype=np.float64))
    if _is_elongated(lattice):
        return _reduce_elongated(crystal)
    niggli = bases.reduce_niggli(lattice)
    # Lattice.__eq__, written out: NumPy's allclose takes longer than all of this.
    apart = np.abs(niggli.matrix - lattice.matrix)
    if (apart <= 1e-8 + 1e-5 * np.abs(lattice.matrix)).all():
        niggli = lattice
    else:
        # Site by site, as pymatgen: products of whole arrays round otherwise.
        inverse = niggli.inv_matrix
        coords = np.array([(each @ lattice.matrix) @ inverse for each in coords]) % 1
    if not _is_surely_primitive(numbers, coords, niggli):
        primitive = _to_pymatgen(numbers, coords, niggli).get_primitive_structure()
        numbers, coords = _sites(primitive)
        niggli = primitive.lattice
    return ReducedCell(numbers, coords, niggli)


def _to_pymatgen(
    numbers: Int[np.ndarray, " sites"],
    coords: Float[np.ndarray, "sites 3"],
    lattice: Lattice,
) -> Structure:
    species = [Element.from_Z(number) for number in numbers.tolist()]
    return Structure(lattice, species, coords)


def _sites(primitive: Structure) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.array([site.specie.Z for site in primitive])
    return numbers, np.array(primitive.frac_coords, dtype=np.float64)


def _is_elongated(lattice: Lattice) -> bool:
    # No spacing of planes is under the volume over the longest length squared, so that
    # most cells need no closer look.
    longest = max(math.hypot(*row) for row in lattice.matrix.tolist())
    if (2 * longest**3 / lattice.volume + 1) ** 3 < _MAX_POINTS:
        return False
    rows = bases.reduce_basis(lattice.matrix.tolist())
    reduced = lattice if rows is None else Lattice(rows)
    return bases.count_points(reduced, max(reduced.lengths)) > _MAX_POINTS


def _reduce_elongated(crystal: structure.Crystal) -> ReducedCell:
    primitive = bridge.to_pymatgen(crystal).get_primitive_structure(reduce=False)
    numbers, coords = _sites(primitive)
    reduced = Lattice(validity.reduce_lattice(np.array(primitive.lattice.matrix)))
    coords = coords @ primitive.lattice.matrix @ reduced.inv_matrix
    return ReducedCell(numbers, coords % 1, reduced)


def _is_surely_primitive(
    numbers: Int[np.ndarray, " sites"],
    coords: Float[np.ndarray, "sites 3"],
    lattice: Lattice,
) -> bool:
    """Whether get_primitive_structure would return the same cell.

    It looks for a smaller cell whose vectors are translations that map every site close
    to one of its species. Where the only such translation is 0, the vectors of a cell
    smaller by a factor would have to be lattice vectors to within the tolerance; but
    one of their components is a multiple of 1/factor and no integer.
    """
    groups = [coords[numbers == number] for number in sorted(set(numbers.tolist()))]
    factor = math.gcd(*map(len, groups))
    if factor == 1:
        return True
    tolerance = _SITE_TOLERANCE / np.array(lattice.lengths)
    if tolerance.max() > 1 / factor - _SLACK:
        return False
    smallest = min(groups, key=len)
    translations = (smallest - smallest[0])[1:]
    limit = 2 * tolerance + _SLACK
    # First by one site of each species, which leaves few or none, then by all.
    for only_first, group in itertools.product((True, False), groups):
        origins = group[:1] if only_first else group
        apart = (group[:, None] - origins)[:, :, None] - translations
        apart -= np.round(apart)
        is_mapped = (np.abs(apart) < limit).all(axis=-1).any(axis=0).all(axis=0)
        translations = translations[is_mapped]
        if not len(translations):
            return True
    return False
