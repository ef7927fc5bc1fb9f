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
from collections.abc import Sequence
from typing import Literal

import numpy as np
import spglib
from jaxtyping import Float, Int, Integer

from crystaljax import elements, structure

Origin = Literal["site", "mendeleev", "input"]
ORIGINS: tuple[Origin, ...] = ("site", "mendeleev", "input")

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

# Sites of the crystals that are worked on together: enough to hide the cost of calls,
# few enough for what is tried on them (24 bases, many origins) to stay in a cache.
_MAX_STACKED_SITES = 2000
# Of spglib, the first its default.
_NIGGLI_TOLERANCES = (1e-5, 1e-4, 1e-3)
_NOT_REDUCED = "the lattice cannot be reduced; is it extremely skewed?"
# The six entries of a metric: three squared lengths, then the products for α, β, γ.
_METRIC_ENTRIES = ((0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1))


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
            these) at the origin; "mendeleev" takes the first by Mendeleev number
            instead, and looks at species in this order when it chooses among equivalent
            bases, so that crystals of one prototype are alike whatever their elements
            are called; "input" keeps the origin where it is.

    Raises:
        ValueError: the lattice has no volume or cannot be reduced, a coordinate is not
            finite, or ``origin`` is unknown.
    """
    (result,) = canonical_crystals([crystal], origin)
    if isinstance(result, ValueError):
        raise result
    return result


def canonical_crystals(
    crystals: Sequence[structure.Crystal], origin: Origin = "site"
) -> list[structure.Crystal | ValueError]:
    """`canonical_crystal` of many at once, several times as fast for each of them.

    Returns:
        In the order of the input, the crystal, or why it has no such form.

    Raises:
        ValueError: ``origin`` is unknown.
    """
    if origin not in ORIGINS:
        raise ValueError(f"unknown origin {origin!r}; expected one of {ORIGINS}")
    lattices = np.array([each.lattice for each in crystals], float).reshape(-1, 3, 3)
    changes, problems = _niggli_changes(lattices)
    results: list[structure.Crystal | ValueError] = list(crystals)
    by_size: dict[int, list[int]] = {}
    for index, crystal in enumerate(crystals):
        problem = problems[index]
        if not (problem or np.isfinite(crystal.frac_coords).all()):
            problem = "a coordinate is not finite"
        if problem:
            results[index] = ValueError(problem)
        else:
            by_size.setdefault(crystal.num_sites, []).append(index)
    if not by_size:
        return results
    is_good = np.array([not problem for problem in problems])
    niggli = np.where(is_good[:, None, None], changes @ lattices, np.eye(3))
    owner, basis = _equivalent_bases(niggli)
    ends = np.searchsorted(owner, np.arange(len(crystals) + 1)).tolist()
    for num_sites, indices in by_size.items():
        step = max(1, _MAX_STACKED_SITES // num_sites)
        for begin in range(0, len(indices), step):
            some = indices[begin : begin + step]
            bases = [basis[ends[i] : ends[i + 1]] for i in some]
            frac_coords = np.array([crystals[i].frac_coords for i in some], float)
            stacked = _canonical_stack(
                np.array([crystals[i].atomic_numbers for i in some]),
                frac_coords @ np.linalg.inv(changes[some]),
                niggli[some],
                np.repeat(np.arange(len(some)), [len(each) for each in bases]),
                np.concatenate(bases),
                origin,
            )
            for index, *arrays in zip(some, *stacked, strict=True):
                results[index] = structure.Crystal(*arrays)
    return results


def _canonical_stack(
    atomic_numbers: Int[np.ndarray, "crystals sites"],
    frac_coords: Float[np.ndarray, "crystals sites 3"],
    lattices: Float[np.ndarray, "crystals 3 3"],
    owner: Int[np.ndarray, " bases"],
    basis: Int[np.ndarray, " bases"],
    origin: Origin,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Canonical form of crystals in Niggli cells that have equally many sites.

    Owner and basis are what `_equivalent_bases` gives for these crystals.
    """
    if origin == "mendeleev":
        ranks = elements.mendeleev_number()[atomic_numbers]
    else:
        ranks = _alphabetical_rank()[atomic_numbers]
    by_species = np.argsort(ranks, axis=1, kind="stable")
    ranks = np.take_along_axis(ranks, by_species, 1)
    atomic_numbers = np.take_along_axis(atomic_numbers, by_species, 1)
    frac_coords = np.take_along_axis(frac_coords, by_species[..., None], 1)

    matrices, inverses = changes_of_basis()[:2]
    coords = frac_coords[owner] @ inverses[basis]
    bases = matrices[basis] @ lattices[owner]
    if origin != "input":
        first, count = _rarest(ranks)
        # A copy of each basis for each site of the rarest species.
        copies = count[owner]
        copy_of = np.repeat(np.arange(len(owner)), copies)
        number = np.arange(len(copy_of)) - (np.cumsum(copies) - copies)[copy_of]
        owner, bases = owner[copy_of], bases[copy_of]
        coords = coords[copy_of]
        site = first[owner] + number
        coords -= np.take_along_axis(coords, site[:, None, None], 1)

    chosen, order = _first_in_order(owner, coords, ranks[owner], bases)
    if origin == "mendeleev":
        names = _alphabetical_rank()[np.take_along_axis(atomic_numbers, order, 1)]
        by_name = np.argsort(names, axis=1, kind="stable")
        order = np.take_along_axis(order, by_name, 1)
    return (
        np.take_along_axis(atomic_numbers, order, 1),
        _wrap(np.take_along_axis(coords[chosen], order[..., None], 1)),
        structure.orient(bases[chosen]),
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


def _niggli_changes(
    lattices: Float[np.ndarray, "crystals 3 3"],
) -> tuple[Float[np.ndarray, "crystals 3 3"], list[str]]:
    """Changes of basis to right-handed Niggli cells; and what is wrong, if anything."""
    problems = [""] * len(lattices)
    is_finite = np.all(np.isfinite(lattices), axis=(1, 2), keepdims=True)[:, 0, 0]
    lattices = np.where(is_finite[:, None, None], lattices, np.eye(3))
    volumes = np.linalg.det(lattices)
    flat = np.abs(volumes) <= 1e-9 * np.linalg.norm(lattices, axis=-1).prod(axis=1)
    reduced = lattices.copy()
    for index, lattice in enumerate(lattices):
        if not is_finite[index]:
            problems[index] = "a lattice entry is not finite"
        elif flat[index]:
            problems[index] = (
                f"lattice vectors span {abs(volumes[index]):g} Å³; expected three that "
                "are not in a plane"
            )
        elif (found := _niggli_lattice(lattice)) is not None:
            reduced[index] = found
        else:
            problems[index] = _NOT_REDUCED
    # Exact integers, so that no error of the reduction enters.
    lattices = np.where(flat[:, None, None], np.eye(3), lattices)
    changes = np.round(reduced @ np.linalg.inv(lattices))
    determinants = np.linalg.det(changes)
    for index in np.flatnonzero(np.abs(np.abs(determinants) - 1) > 1e-3):
        problems[index] = problems[index] or _NOT_REDUCED
    # (-x) @ (-lattice) is the same crystal; a mirror image would not be.
    changes *= np.sign(determinants * volumes)[:, None, None]
    return changes, problems


def _niggli_lattice(lattice: Float[np.ndarray, "3 3"]) -> np.ndarray | None:
    # Cells that are degenerate to about the tolerance exhaust its iterations; a looser
    # one leaves a basis that is as short within `LENGTH_TOLERANCE`.
    for tolerance in _NIGGLI_TOLERANCES:
        reduced = spglib.niggli_reduce(lattice, tolerance)
        if reduced is not None:
            return reduced
    # So do very skewed cells; a Delaunay cell is less skewed.
    delaunay = spglib.delaunay_reduce(lattice)
    return None if delaunay is None else spglib.niggli_reduce(delaunay)


@functools.cache
def changes_of_basis() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Right-handed changes of basis with entries in {-1, 0, 1}.

    Returns:
        matrices: shape (3480, 3, 3).
        inverses: theirs, shape (3480, 3, 3), whole numbers too.
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
    matrices = matrices[keep].astype(float)
    return (
        matrices,
        np.round(np.linalg.inv(matrices)),
        vectors.astype(float),
        index_of[candidates[keep]],
    )


@functools.cache
def _metric_changes() -> Float[np.ndarray, "3480 6 6"]:
    """What each change of basis makes of a metric written as six numbers."""
    matrices = changes_of_basis()[0]
    rows, columns = _METRIC_ENTRIES
    units = np.zeros((6, 3, 3))
    units[np.arange(6), rows, columns] = units[np.arange(6), columns, rows] = 1
    changed = np.einsum("bij,ujk,blk->buil", matrices, units, matrices)
    return np.swapaxes(changed[:, :, rows, columns], 1, 2)


@functools.lru_cache(maxsize=4096)
def _bases_with_rows(allowed: tuple[int, int, int]) -> Int[np.ndarray, " bases"]:
    """Changes of basis whose row k is among the vectors of the bit mask allowed[k]."""
    rows = changes_of_basis()[3]
    fits = (np.array(allowed) >> rows) & 1
    return np.flatnonzero(fits.all(axis=1))


def _equivalent_bases(
    lattices: Float[np.ndarray, "crystals 3 3"],
) -> tuple[Int[np.ndarray, " bases"], Int[np.ndarray, " bases"]]:
    """Changes of basis from Niggli cells to those as good within the tolerance.

    All bases of a crystal give the same preferred cell, so they differ by the proper
    automorphisms of the lattice (as it is within the tolerance): at most 24.

    Returns:
        Whose each basis is, ascending; and which change of basis.
    """
    metrics = lattices @ np.swapaxes(lattices, 1, 2)
    vectors = changes_of_basis()[2]
    norms = np.einsum("vi,cij,vj->cv", vectors, metrics, vectors)
    diagonal = np.diagonal(metrics, axis1=1, axis2=2)
    shortest = np.sort(diagonal, axis=1) * (1 + LENGTH_TOLERANCE) ** 2
    is_short = norms[:, None] <= shortest[..., None]
    allowed = is_short @ (1 << np.arange(len(vectors)))
    # Lattices of one kind allow the same rows, and there are few kinds.
    kinds, kind_of = np.unique(allowed, axis=0, return_inverse=True)
    flat = metrics[:, *_METRIC_ENTRIES]
    owners, chosen = [], []
    for number, kind in enumerate(kinds):
        members = np.flatnonzero(kind_of.ravel() == number)
        bases = _bases_with_rows(tuple(kind.tolist()))
        preference = _preference(flat[members], bases)
        is_best = preference == preference.min(axis=1, keepdims=True)
        member, basis = np.nonzero(is_best)
        owners.append(members[member])
        chosen.append(bases[basis])
    owner, basis = np.concatenate(owners), np.concatenate(chosen)
    order = np.argsort(owner, kind="stable")
    return owner[order], basis[order]


def _preference(
    metrics: Float[np.ndarray, "crystals 6"], bases: Int[np.ndarray, " bases"]
) -> Int[np.ndarray, "crystals bases"]:
    """The lower, the better the basis; crystals whose lattices allow the same bases."""
    changes = _metric_changes()[bases].reshape(-1, 6)
    changed = (metrics @ changes.T).reshape(len(metrics), len(bases), 6)
    lengths = np.sqrt(changed[..., :3])
    products = lengths[..., (1, 0, 0)] * lengths[..., (2, 2, 1)]
    coarse = _coarse_cosine(changed[..., 3:] / products)
    # Niggli's types: all angles acute, or none. Flipping two vectors always gives one.
    has_type = (coarse > 0).all(axis=-1) | (coarse <= 0).all(axis=-1)
    # Most acute first (60° rather than 90° for fcc); then right angles first, so that
    # the 120° of a hexagonal cell is γ. In one number: none of these exceeds 64.
    preference = -coarse.sum(axis=-1)
    for value in (*np.moveaxis(np.abs(coarse), -1, 0), *np.moveaxis(coarse, -1, 0)):
        preference = preference * 128 + value
    return np.where(has_type, preference, np.iinfo(np.int64).max)


def _coarse_cosine(cosines: np.ndarray) -> np.ndarray:
    return np.floor(cosines * COARSE_CELLS + CELL_OFFSET).astype(np.int64)


def _first_in_order(
    owner: Int[np.ndarray, " candidates"],
    coords: Float[np.ndarray, "candidates sites 3"],
    ranks: Int[np.ndarray, "candidates sites"],
    lattices: Float[np.ndarray, "candidates 3 3"],
) -> tuple[Int[np.ndarray, " crystals"], Int[np.ndarray, "crystals sites"]]:
    """Of each crystal, the candidate whose arrays come first, and its site order.

    Coordinates on the coarse grid decide, then cell parameters and coordinates on the
    fine one. What is equal in all of them is equal to 1e-5, and either will do.
    """
    position = np.mod(coords * COARSE_CELLS + CELL_OFFSET, COARSE_CELLS)
    cell = np.floor(position)
    inside = position - cell
    # mod of a tiny negative number is the period itself.
    coarse = _pack(np.mod(cell, COARSE_CELLS).astype(np.int32), COARSE_CELLS)
    coarse += (ranks * COARSE_CELLS**3).astype(np.int32)
    best = _lexicographic_minima(np.sort(coarse, axis=-1), owner)

    fine = _pack(np.floor(inside[best] * FINE_CELLS).astype(np.int64), FINE_CELLS)
    both = coarse[best].astype(np.int64) * FINE_CELLS**3 + fine
    order = np.argsort(both, axis=-1, kind="stable")
    keys = np.concatenate(
        [_fine_parameters(lattices[best]), np.take_along_axis(fine, order, -1)], axis=1
    )
    minima = _lexicographic_minima(keys, owner[best])
    # One of each crystal: they are equal, and owners ascend.
    _, first = np.unique(owner[best[minima]], return_index=True)
    return best[minima[first]], order[minima[first]]


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
    keys: Integer[np.ndarray, "candidates width"],
    owner: Int[np.ndarray, " candidates"],
) -> Int[np.ndarray, " minima"]:
    """Of each owner, the rows that come first in lexicographic order; equals all.

    Owners ascend, and so do the indices returned.
    """
    best = np.arange(len(keys))
    starts = _starts(owner)
    for column in range(keys.shape[1]):
        if len(best) == len(starts):
            break
        values = keys[best, column]
        smallest = np.minimum.reduceat(values, starts)
        lengths = np.append(starts[1:], len(best)) - starts
        keep = values == np.repeat(smallest, lengths)
        if not keep.all():
            best = best[keep]
            starts = _starts(owner[best])
    return best


def _starts(owner: Int[np.ndarray, " entries"]) -> Int[np.ndarray, " owners"]:
    """Where the entries of each owner begin."""
    return np.append(0, 1 + np.flatnonzero(owner[1:] != owner[:-1]))


def _rarest(
    ranks: Int[np.ndarray, "crystals sites"],
) -> tuple[Int[np.ndarray, " crystals"], Int[np.ndarray, " crystals"]]:
    """Where the sites of the rarest species begin, and how many they are.

    Sites are in the order of their species' ranks; so, of equally rare ones, the first
    is taken.
    """
    num_sites = ranks.shape[1]
    is_first = np.diff(ranks, axis=1, prepend=-1) != 0
    crystal, first = np.nonzero(is_first)
    # Up to the next species, or to the end of the crystal.
    flat = crystal * num_sites + first
    count = np.diff(flat, append=ranks.size)
    order = np.lexsort((first, count, crystal))
    rarest = order[_starts(crystal[order])]
    return first[rarest], count[rarest]


def _wrap(frac_coords: Float[np.ndarray, "*sites 3"]) -> Float[np.ndarray, "*sites 3"]:
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
