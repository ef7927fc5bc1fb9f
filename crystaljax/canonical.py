"""One form for equal crystals: reduced basis, orientation, origin and site order.

A crystal can be written in any basis, orientation, origin and site order. A network
that compares numbers needs one of them, and needs it to be stable: crystals that differ
by noise should not differ by a permuted axis. Exact reduction (Niggli) is not stable
where lengths or angles agree by symmetry, which is the common case. So every reduced
basis that is as good *within a tolerance* is tried, with every origin allowed, and the
one whose sites come first in a coarse order is taken. A mirror image is a different
crystal and is never made: all changes of basis keep the handedness.
"""

import functools
import itertools
from typing import Literal

import numpy as np
import spglib
from jaxtyping import Float, Int

from crystaljax import elements, structure

Origin = Literal["site", "input"]
ORIGINS: tuple[Origin, ...] = ("site", "input")

# Vectors this much longer than the shortest possible still count as equally short.
LENGTH_TOLERANCE = 0.01
# Coordinates (and cosines) are compared on this grid first. 48 has the divisors 2, 3,
# 4, 6, 8, 12 and 16, so the fractions that crystals are made of lie on grid points ...
COARSE_CELLS = 48
# ... and cells reach from -0.463 to 0.537 around a grid point: their boundaries stay
# clear of fifths, sevenths, ninths ... and of halves of cells (1/32), by 3e-5 at least.
CELL_OFFSET = 0.463
# What is equal on the coarse grid is compared on this finer one, 1e-5 of a period.
FINE_CELLS = 2048
# Step for lengths in the last comparison, Å.
LENGTH_STEP = 1e-4
# Coordinates this close below 1 are 0.
WRAP_TOLERANCE = 1e-6


def canonical_crystal(
    crystal: structure.Crystal, origin: Origin = "site"
) -> structure.Crystal:
    """The same crystal in the form that equal crystals share.

    The number of sites is kept. The basis is Niggli-reduced within a tolerance, the
    lattice in standard orientation; species are in alphabetical order of their symbols,
    sites of a species in order of their coordinates, in [0, 1).

    Args:
        crystal: any basis, right- or left-handed, any orientation and site order.
        origin: "site" puts a site of the rarest species (of the alphabetically first of
            these) at the origin; "input" keeps the origin where it is.

    Raises:
        ValueError: the lattice has no volume or cannot be reduced, a coordinate is not
            finite, or ``origin`` is unknown.
    """
    if origin not in ORIGINS:
        raise ValueError(f"unknown origin {origin!r}; expected one of {ORIGINS}")
    frac_coords, lattice = _niggli(crystal)
    species = _alphabetical_rank()[crystal.atomic_numbers]
    by_species = np.argsort(species, kind="stable")
    species, frac_coords = species[by_species], frac_coords[by_species]

    bases = _equivalent_bases(lattice @ lattice.T)
    lattices = bases @ lattice
    # coordinates: (bases, origins, sites, 3)
    coords = frac_coords @ np.round(np.linalg.inv(bases))
    coords = coords[:, None]
    if origin == "site":
        rarest = coords[:, 0, species == _rarest(species)]
        coords = coords - rarest[:, :, None]

    basis, which_origin, order = _first_in_order(coords, species, lattices)
    chosen = coords[basis, which_origin][order]
    return structure.Crystal(
        atomic_numbers=np.asarray(crystal.atomic_numbers)[by_species][order],
        frac_coords=_wrap(chosen),
        lattice=structure.orient(lattices[basis]),
    )


def ordered_crystal(crystal: structure.Crystal) -> structure.Crystal:
    """The same cell in standard orientation, species in alphabetical order.

    Basis, origin and the order within a species stay as they are: for networks that
    were trained on cells as their data base has them.

    Raises:
        ValueError: the lattice has no volume.
    """
    lattice = np.asarray(crystal.lattice, dtype=float)
    frac_coords = np.asarray(crystal.frac_coords, dtype=float)
    if np.linalg.det(lattice) < 0:
        # (-x) @ (-lattice) is the same crystal; a mirror image would not be.
        lattice, frac_coords = -lattice, -frac_coords
    numbers = np.asarray(crystal.atomic_numbers)
    order = np.argsort(_alphabetical_rank()[numbers], kind="stable")
    return structure.Crystal(
        atomic_numbers=numbers[order],
        frac_coords=_wrap(frac_coords[order]),
        lattice=structure.orient(lattice),
    )


def _niggli(
    crystal: structure.Crystal,
) -> tuple[Float[np.ndarray, "sites 3"], Float[np.ndarray, "3 3"]]:
    """Coordinates and right-handed lattice in spglib's Niggli basis."""
    lattice = np.asarray(crystal.lattice, dtype=float)
    frac_coords = np.asarray(crystal.frac_coords, dtype=float)
    if not (np.isfinite(lattice).all() and np.isfinite(frac_coords).all()):
        raise ValueError("a coordinate or lattice entry is not finite")
    volume = np.linalg.det(lattice)
    if abs(volume) <= 1e-9 * np.prod(np.linalg.norm(lattice, axis=1)):
        raise ValueError(
            f"lattice vectors span {abs(volume):g} Å³; expected three that are not in "
            "a plane"
        )
    reduced = spglib.niggli_reduce(lattice)
    if reduced is None:
        # Very skewed cells exhaust its iterations; a Delaunay cell is less skewed.
        delaunay = spglib.delaunay_reduce(lattice)
        reduced = None if delaunay is None else spglib.niggli_reduce(delaunay)
    if reduced is None:
        raise ValueError("the lattice cannot be reduced; is it extremely skewed?")
    # Exact integers, so that no error of the reduction enters.
    change = np.round(reduced @ np.linalg.inv(lattice))
    if abs(abs(np.linalg.det(change)) - 1) > 1e-3:
        raise ValueError("the lattice cannot be reduced; is it extremely skewed?")
    if np.linalg.det(change) * volume < 0:
        # (-x) @ (-lattice) is the same crystal; a mirror image would not be.
        change = -change
    return frac_coords @ np.linalg.inv(change), change @ lattice


@functools.cache
def _unimodular() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right-handed changes of basis with entries in {-1, 0, 1}.

    Returns:
        matrices: shape (3480, 3, 3).
        vectors: shape (13, 3), their rows up to sign.
        rows: shape (3480, 3), which of the vectors each row is.
    """
    signed = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
    # Of v and -v, the one whose first nonzero entry is positive comes later.
    vectors = signed[14:]
    index_of = np.abs(np.arange(27) - 13) - 1
    candidates = np.array(list(itertools.product(range(27), repeat=3)))
    matrices = signed[candidates]
    first, second, third = np.moveaxis(matrices, 1, 0)
    keep = np.sum(np.cross(first, second) * third, axis=-1) == 1
    return (
        matrices[keep].astype(float),
        vectors.astype(float),
        index_of[candidates[keep]],
    )


def _equivalent_bases(
    metric: Float[np.ndarray, "3 3"],
) -> Float[np.ndarray, "bases 3 3"]:
    """Changes of basis from a Niggli cell to those as good within the tolerance.

    All give the same preferred cell, so they differ by the proper automorphisms of
    the lattice (as it is within the tolerance), of which there are at most 24.
    """
    matrices, vectors, rows = _unimodular()
    norms = np.sum(vectors @ metric * vectors, axis=-1)
    shortest = np.sort(np.diag(metric)) * (1 + LENGTH_TOLERANCE) ** 2
    short = norms[:, None] <= shortest
    # One row after the other, since few matrices pass the first.
    keep = np.flatnonzero(short[rows[:, 0], 0])
    keep = keep[short[rows[keep, 1], 1]]
    keep = keep[short[rows[keep, 2], 2]]
    bases = matrices[keep]

    metrics = bases @ metric @ np.swapaxes(bases, 1, 2)
    lengths = np.sqrt(np.diagonal(metrics, axis1=1, axis2=2))
    cosines = metrics / (lengths[:, :, None] * lengths[:, None, :])
    coarse = _coarse_cosine(cosines[:, (1, 0, 0), (2, 2, 1)])
    # Niggli's types: all angles acute, or none. Flipping two vectors always gives one.
    has_type = (coarse > 0).all(axis=1) | (coarse <= 0).all(axis=1)
    bases, coarse = bases[has_type], coarse[has_type]
    # Most acute first (60° rather than 90° for fcc); then right angles first, so that
    # the 120° of a hexagonal cell is γ.
    preference = np.concatenate(
        [-coarse.sum(axis=1, keepdims=True), np.abs(coarse), coarse], axis=1
    )
    return bases[_lexicographic_minima(preference)]


def _coarse_cosine(cosines: np.ndarray) -> np.ndarray:
    return np.floor(cosines * COARSE_CELLS + CELL_OFFSET).astype(np.int64)


def _first_in_order(
    coords: Float[np.ndarray, "bases origins sites 3"],
    species: Int[np.ndarray, " sites"],
    lattices: Float[np.ndarray, "bases 3 3"],
) -> tuple[int, int, Int[np.ndarray, " sites"]]:
    """Basis, origin and site order whose arrays come first.

    Coordinates on the coarse grid decide, then cell parameters and coordinates on the
    fine one. What is equal in all of them is equal to 1e-5, and either will do.
    """
    num_origins, num_sites = coords.shape[1:3]
    coords = coords.reshape(-1, num_sites, 3)
    position = np.mod(coords * COARSE_CELLS + CELL_OFFSET, COARSE_CELLS)
    cell = np.floor(position).astype(np.int64)
    # mod of a tiny negative number is the period itself.
    coarse = _pack(np.mod(cell, COARSE_CELLS), COARSE_CELLS)
    coarse += species * COARSE_CELLS**3
    best = _lexicographic_minima(np.sort(coarse, axis=-1))

    coarse, inside = coarse[best], (position - cell)[best]
    fine = _pack(np.floor(inside * FINE_CELLS).astype(np.int64), FINE_CELLS)
    order = np.lexsort((fine, coarse), axis=-1)
    if len(best) > 1:
        parameters = _fine_parameters(lattices)[best // num_origins]
        sorted_fine = np.take_along_axis(fine, order, axis=-1)
        first = _lexicographic_minima(
            np.concatenate([parameters, sorted_fine], axis=1)
        )[0]
    else:
        first = 0
    basis, which_origin = divmod(int(best[first]), num_origins)
    return basis, which_origin, order[first]


def _fine_parameters(lattices: Float[np.ndarray, "bases 3 3"]) -> np.ndarray:
    """Lengths and cosines as integers, in fine steps."""
    lengths = np.linalg.norm(lattices, axis=-1)
    unit = lattices / lengths[..., None]
    cosines = (unit @ np.swapaxes(unit, 1, 2))[:, (1, 0, 0), (2, 2, 1)]
    steps = [lengths / LENGTH_STEP, cosines * (COARSE_CELLS * FINE_CELLS)]
    return np.floor(np.concatenate(steps, axis=1) + CELL_OFFSET).astype(np.int64)


def _pack(cells: Int[np.ndarray, "*shape 3"], base: int) -> Int[np.ndarray, "*shape"]:
    """Three integers → one that sorts like them."""
    return (cells[..., 0] * base + cells[..., 1]) * base + cells[..., 2]


def _lexicographic_minima(
    keys: Int[np.ndarray, "candidates width"],
) -> Int[np.ndarray, " minima"]:
    """Indices of the rows that come first in lexicographic order; equal rows all."""
    best = np.arange(len(keys))
    for column in range(keys.shape[1]):
        if len(best) == 1:
            break
        values = keys[best, column]
        best = best[values == values.min()]
    return best


def _rarest(species: Int[np.ndarray, " sites"]) -> int:
    # argmin takes the first of equals, and species are in alphabetical order.
    ranks, counts = np.unique(species, return_counts=True)
    return int(ranks[np.argmin(counts)])


def _wrap(frac_coords: Float[np.ndarray, "sites 3"]) -> Float[np.ndarray, "sites 3"]:
    wrapped = frac_coords - np.floor(frac_coords)
    return np.where(wrapped >= 1 - WRAP_TOLERANCE, 0.0, wrapped)


@functools.cache
def _alphabetical_rank() -> Int[np.ndarray, " numbers"]:
    """Rank of each atomic number's symbol among all symbols."""
    symbols = [
        elements.symbol(number) for number in range(1, len(elements.SYMBOLS) + 1)
    ]
    rank = np.zeros(len(symbols) + 1, dtype=np.int64)
    rank[1 + np.argsort(symbols)] = np.arange(len(symbols))
    return rank
