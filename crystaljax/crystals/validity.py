"""Checks of single crystals: finite, volume, shortest distance.

A crystal is valid here as in the field (CDVAE and what followed it): all numbers are
finite, the volume is at least 1 Å³ (the paper drops smaller cells), and no two atoms,
periodic images included, are closer than 0.5 Å. That is a low bar: it says that a
calculator can start from the crystal, not that it is a good one.

What can be computed on a crystal is asked here too: `find_cell_problem` for everything,
`find_relaxation_problem` for potentials.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from ase.geometry import minkowski_reduction
from jaxtyping import Bool, Float

from crystaljax.crystals import elements, structure

MIN_VOLUME = 1.0  # Å³
MIN_DISTANCE = 0.5  # Å
# Beyond these a cell is no crystal, and what works on it may not come to an end.
MAX_LENGTH = 1000.0  # Å
MIN_CELL_VOLUME = 1e-3  # Å³
# Volume over the product of the three lengths. The determinant of a float32 lattice
# has about this relative error.
MIN_FLATNESS = 1e-5

# Of cells that potentials take: thinner ones and coinciding sites give neighbour lists
# that fill the memory, or infinite forces. H2, the shortest bond there is, has 0.74 Å.
MIN_HEIGHT = 1.0  # Å, between opposite faces of the reduced cell
MAX_VOLUME_PER_SITE = 1000.0  # Å³

# In a Minkowski-reduced cell the shortest vector between two sites is among these
# images of the one whose fractional components are at most 1/2: its own components stay
# under 3/2 in three dimensions (Nguyen and Stehlé 2009).
_IMAGES = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
# Pairs of sites computed together: a few arrays of this size fit into a cache.
_MAX_STACKED_PAIRS = 100_000


@dataclasses.dataclass(frozen=True)
class Validity:
    """What was found about one crystal; what could not be computed is NaN.

    Attributes:
        finite: all coordinates and lattice entries are finite.
        volume: Å³.
        volume_per_atom: Å³.
        shortest_distance: Å, between any two atoms, images of one site included.
        shortest_distance_ratio: the smallest distance over the sum of the two covalent
            radii; 1 is a bond, below about 0.6 atoms overlap.
        valid: by the definition of this module.
        reason: why it is not valid, in words; empty if it is.
    """

    finite: bool
    volume: float
    volume_per_atom: float
    shortest_distance: float
    shortest_distance_ratio: float
    valid: bool
    reason: str


def is_finite(crystal: structure.Crystal) -> bool:
    """Whether all coordinates and lattice entries are finite."""
    return bool(
        np.isfinite(crystal.frac_coords).all() and np.isfinite(crystal.lattice).all()
    )


def cell_volume(crystal: structure.Crystal) -> float:
    """Volume of the cell, Å³, positive for left-handed vectors too."""
    lattice = np.asarray(crystal.lattice, dtype=np.float64)
    # That of numbers which are not finite, or not to the third power, is not either;
    # an elimination divides by whatever is the largest, numbers next to 0 among them.
    with np.errstate(all="ignore"):
        return float(abs(np.linalg.det(lattice)))


def find_cell_problem(crystal: structure.Crystal) -> str:
    """Why nothing should be computed on this crystal, in words; empty if it can be.

    A crystal that passes need not be valid: it has sites, elements that are known,
    finite numbers, and a cell that is neither gigantic nor flat to within rounding.
    """
    return find_cell_problems([crystal])[0]


def find_cell_problems(crystals: Sequence[structure.Crystal]) -> list[str]:
    """`find_cell_problem` of many at once, many times as fast for each of them."""
    lattices = np.array([each.lattice for each in crystals], float).reshape(-1, 3, 3)
    is_finite = np.all(np.isfinite(lattices), axis=(1, 2), keepdims=True)[:, 0, 0]
    safe = np.where(is_finite[:, None, None], lattices, 0.0)
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(safe, axis=-1)
        volumes = np.abs(np.linalg.det(safe))
    limit = structure.MAX_COORDINATE
    smallest = np.maximum(MIN_CELL_VOLUME, MIN_FLATNESS * lengths.prod(axis=1))
    problems = []
    for index, crystal in enumerate(crystals):
        numbers = np.asarray(crystal.atomic_numbers)
        problem = ""
        if crystal.num_sites == 0:
            problem = "the crystal has no sites"
        elif numbers.min() < 1 or numbers.max() > elements.NUM_ELEMENTS:
            problem = f"an atomic number is outside 1-{elements.NUM_ELEMENTS}"
        elif not (is_finite[index] and np.isfinite(crystal.frac_coords).all()):
            problem = "a coordinate or lattice entry is not finite"
        elif (farthest := np.abs(crystal.frac_coords).max()) > limit:
            problem = f"a fractional coordinate of {farthest:.4g} is over {limit:g}"
        elif (longest := lengths[index].max()) > MAX_LENGTH:
            problem = f"a lattice vector of {longest:.4g} Å is over {MAX_LENGTH:g} Å"
        elif volumes[index] < smallest[index]:
            problem = (
                f"the lattice vectors span no cell: its volume is "
                f"{volumes[index]:.3g} Å³"
            )
        problems.append(problem)
    return problems


def reduce_lattice(lattice: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """Minkowski-reduced basis of the same lattice, shortest vector first.

    Its lengths are the three successive minima: no basis has shorter vectors.
    """
    reduced, _ = minkowski_reduction.minkowski_reduce(
        np.asarray(lattice, dtype=np.float64)
    )
    reduced = np.array(reduced)
    return reduced[np.argsort(np.linalg.norm(reduced, axis=-1))]


def pair_distances(crystal: structure.Crystal) -> Float[np.ndarray, "sites sites"]:
    """Shortest distance between every two sites, Å, over all periodic images.

    On the diagonal: from a site to its nearest own image. Exact for any skewed cell.
    The crystal must pass `find_cell_problem`.
    """
    lattice = np.asarray(crystal.lattice, dtype=np.float64)
    reduced = reduce_lattice(lattice)
    coords = np.asarray(crystal.frac_coords, dtype=np.float64)
    # Wrapped first: far-off coordinates would lose digits.
    coords = (coords - np.floor(coords)) @ lattice @ np.linalg.inv(reduced)
    first, second = np.triu_indices(crystal.num_sites, k=1)
    deltas = coords[second] - coords[first]
    deltas -= np.round(deltas)
    vectors = (deltas @ reduced)[:, None] + _IMAGES @ reduced
    distances = np.full((crystal.num_sites,) * 2, np.linalg.norm(reduced[0]))
    shortest = np.sqrt(np.min(np.sum(vectors**2, axis=-1), axis=-1))
    distances[first, second] = distances[second, first] = shortest
    return distances


def have_close_sites(
    crystals: Sequence[structure.Crystal], distance: float = MIN_DISTANCE
) -> Bool[np.ndarray, " crystals"]:
    """Whether two atoms, images included, are closer than ``distance`` (Å).

    The crystals must pass `find_cell_problem`. Far faster than `pair_distances`, since
    it looks at one image of a pair: the k-th fractional component of a vector of
    length d is at most d times the length of the k-th reciprocal vector. Where that
    bound does not leave one image (cells thinner than twice the distance), all images
    are examined.
    """
    close = np.zeros(len(crystals), bool)
    by_size: dict[int, list[int]] = {}
    for index, crystal in enumerate(crystals):
        by_size.setdefault(crystal.num_sites, []).append(index)
    for num_sites, indices in by_size.items():
        step = max(1, _MAX_STACKED_PAIRS // num_sites**2)
        for begin in range(0, len(indices), step):
            some = indices[begin : begin + step]
            close[some] = _have_close_sites([crystals[i] for i in some], distance)
    return close


def _have_close_sites(
    crystals: Sequence[structure.Crystal], distance: float
) -> Bool[np.ndarray, " crystals"]:
    """Of crystals that have equally many sites."""
    lattices = np.array([each.lattice for each in crystals], float)
    coords = np.array([each.frac_coords for each in crystals], float)
    reciprocal = np.linalg.norm(np.linalg.inv(lattices), axis=1)
    bounds = distance * reciprocal
    near = np.ones((len(crystals), coords.shape[1], coords.shape[1]), bool)
    for axis in range(3):
        apart = coords[:, :, None, axis] - coords[:, None, :, axis]
        apart -= np.round(apart)
        near &= np.abs(apart) <= bounds[:, None, None, axis]
    near &= ~np.eye(coords.shape[1], dtype=bool)
    close = np.zeros(len(crystals), bool)
    which, first, second = np.nonzero(near)
    apart = coords[which, first] - coords[which, second]
    apart -= np.round(apart)
    vectors = np.einsum("pi,pij->pj", apart, lattices[which])
    close[which[np.sum(vectors**2, axis=-1) < distance**2]] = True
    for index in np.flatnonzero((bounds >= 0.5).any(axis=1)).tolist():
        close[index] = pair_distances(crystals[index]).min() < distance
    return close


def check(crystal: structure.Crystal) -> Validity:
    """Checks one crystal. Never raises for what a sampler may come up with."""
    finite = is_finite(crystal)
    volume = cell_volume(crystal) if finite else np.nan
    validity = Validity(
        finite=finite,
        volume=volume,
        volume_per_atom=volume / crystal.num_sites if crystal.num_sites else np.nan,
        shortest_distance=np.nan,
        shortest_distance_ratio=np.nan,
        valid=False,
        reason=find_cell_problem(crystal),
    )
    if validity.reason:
        return validity
    distances = pair_distances(crystal)
    radii = elements.load_covalent_radii()[np.asarray(crystal.atomic_numbers) - 1]
    shortest = float(distances.min())
    problems = []
    if volume < MIN_VOLUME:
        problems.append(f"the volume of {volume:.3g} Å³ is under {MIN_VOLUME:g} Å³")
    if shortest < MIN_DISTANCE:
        problems.append(
            f"the shortest distance of {shortest:.3g} Å is under {MIN_DISTANCE:g} Å"
        )
    return dataclasses.replace(
        validity,
        shortest_distance=shortest,
        shortest_distance_ratio=float((distances / (radii[:, None] + radii)).min()),
        valid=not problems,
        reason="; ".join(problems),
    )


def find_relaxation_problem(crystal: structure.Crystal) -> str:
    """Why a crystal cannot be handed to a potential, in words; empty if it can be."""
    if problem := find_cell_problem(crystal):
        return problem
    volume = cell_volume(crystal)
    if volume / crystal.num_sites > MAX_VOLUME_PER_SITE:
        return f"volume {volume / crystal.num_sites:.3g} Å³ per site"
    # Reduced first: a skewed description of a good lattice has small heights too.
    reciprocal = np.linalg.inv(reduce_lattice(crystal.lattice))
    if 1 / np.linalg.norm(reciprocal, axis=0).max() <= MIN_HEIGHT:
        return f"cell is flat: volume {volume:.3g} Å³"
    if (closest := pair_distances(crystal).min()) < MIN_DISTANCE:
        return f"two sites are {closest:.3g} Å apart"
    return ""
