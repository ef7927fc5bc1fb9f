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
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Integer

from crystaljax.crystals import elements, structure
from crystaljax.crystals import niggli as reduced_bases
from crystaljax.system import errors

Origin = Literal["site", "mendeleev", "input"]
ORIGINS: tuple[Origin, ...] = ("site", "mendeleev", "input")

# What is equal on the coarse grid is compared on this finer one, 1e-5 of a period.
FINE_CELLS = 2048
# Step for lengths in the last comparison, Å.
LENGTH_STEP = 1e-4
# Coordinates this close below 1 are 0.
WRAP_TOLERANCE = 1e-6

# Sites of the crystals that are worked on together: enough to hide the cost of calls,
# few enough for what is tried on them (24 bases, many origins) to stay in a cache.
_MAX_STACKED_SITES = 2000


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
        raise errors.UserError(f"unknown origin {origin!r}; expected one of {ORIGINS}")
    lattices = np.array([each.lattice for each in crystals], float).reshape(-1, 3, 3)
    changes, problems = reduced_bases.niggli_changes(lattices)
    results: list[structure.Crystal | ValueError] = list(crystals)
    by_size: dict[int, list[int]] = {}
    for index, crystal in enumerate(crystals):
        problem = problems[index]
        if not (problem or np.isfinite(crystal.frac_coords).all()):
            problem = "a coordinate is not finite"
        if problem:
            results[index] = errors.UserError(problem)
        else:
            by_size.setdefault(crystal.num_sites, []).append(index)
    if not by_size:
        return results
    is_good = np.array([not problem for problem in problems])
    niggli = np.where(is_good[:, None, None], changes @ lattices, np.eye(3))
    owner, basis = reduced_bases.equivalent_bases(niggli)
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

    matrices, inverses = reduced_bases.changes_of_basis()[:2]
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
    position = np.mod(
        coords * reduced_bases.COARSE_CELLS + reduced_bases.CELL_OFFSET,
        reduced_bases.COARSE_CELLS,
    )
    cell = np.floor(position)
    inside = position - cell
    # mod of a tiny negative number is the period itself.
    coarse = _pack(
        np.mod(cell, reduced_bases.COARSE_CELLS).astype(np.int32),
        reduced_bases.COARSE_CELLS,
    )
    coarse += (ranks * reduced_bases.COARSE_CELLS**3).astype(np.int32)
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
    steps = [lengths / LENGTH_STEP, cosines * (reduced_bases.COARSE_CELLS * FINE_CELLS)]
    return np.floor(np.concatenate(steps, axis=1) + reduced_bases.CELL_OFFSET).astype(
        np.int64
    )


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
