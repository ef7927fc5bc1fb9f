"""Structures that a data set has already: equal canonical tensors.

Millions of structures are compared without comparing all pairs, and without copying the
sites of all of them.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from crystaljax.data import columnar

# Largest difference at which two canonical tensors are the same structure: fractional
# coordinates, and lattice entries in Å.
TOLERANCE = 0.01

# Sets of structures this small are compared in pairs, and sets larger than this are
# halved first.
_SMALL_SET = 4
_LARGE_SET = 64

# Entries of a lattice in standard orientation that are not 0 throughout.
_LATTICE_ENTRIES = ((0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2))


def distinct(
    columns: columnar.Columns,
    left: Int[np.ndarray, " left"] | None = None,
    tolerance: float = TOLERANCE,
) -> Bool[np.ndarray, " left"]:
    """False where an earlier structure is the same.

    The same is: the same cell formula, and canonical tensors that differ nowhere by
    more than the tolerance (periodic coordinates; lattice entries in Å). The earlier
    one need not be one that stays.

    Not all pairs are compared. Structures of a formula are sorted along one entry of
    the tensor after the other, and sets are cut where neighbours lie further apart than
    the tolerance; sets that have no such gap are halved, with what is near the cut on
    both sides. Only structures that crowd within a few tolerances in every entry take
    time that grows with the square of their number.
    """
    left = np.arange(len(columns)) if left is None else left
    is_duplicate = np.zeros(len(columns), bool)
    for members, set_of in _near_sets(columns, left, tolerance):
        _mark_duplicates(columns, members, set_of, tolerance, is_duplicate)
    return ~is_duplicate[left]


def _near_sets(
    columns: columnar.Columns, left: Int[np.ndarray, " left"], tolerance: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sets of structures such that structures that are the same share a set.

    Yields:
        Indices of structures and number of each one's set.
    """
    members = left
    set_of = columnar.polymorph_groups(columns.formula)[left]
    num_sites = columns.num_sites
    axis = 0
    while len(members):
        sizes = np.bincount(set_of)[set_of]
        no_axis_left = _num_axes(num_sites[members]) <= axis
        is_small = sizes <= _SMALL_SET
        # The first cut takes less time than the comparisons it saves, of any set.
        is_done = (is_small & (axis > 0)) | (no_axis_left & (sizes <= _LARGE_SET))
        yield members[is_done & (sizes > 1)], set_of[is_done & (sizes > 1)]
        is_large = no_axis_left & ~is_done
        for large in _separate(members[is_large], set_of[is_large]):
            pieces = _halved(columns, large, tolerance)
            yield (
                np.concatenate(pieces),
                np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces]),
            )
        keep = ~is_done & ~is_large & (sizes > 1)
        members, set_of = _cut_at_gaps(
            columns, members[keep], set_of[keep], axis, tolerance
        )
        axis += 1


def _separate(members: np.ndarray, set_of: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(set_of, kind="stable")
    bounds = np.flatnonzero(np.diff(set_of[order])) + 1
    return np.split(members[order], bounds) if len(members) else []


def _num_axes(num_sites: Any) -> Any:
    return len(_LATTICE_ENTRIES) + 3 * num_sites


def _coordinate(
    columns: columnar.Columns, members: Int[np.ndarray, " members"], axis: int
) -> Float[np.ndarray, " members"]:
    """Lattice entries first, then coordinates of the sites."""
    if axis < len(_LATTICE_ENTRIES):
        return columns.lattice[members, *_LATTICE_ENTRIES[axis]]
    site, component = divmod(axis - len(_LATTICE_ENTRIES), 3)
    return columns.frac_coords[columns.offsets[members] + site, component]


def _distance(change: np.ndarray, axis: int) -> np.ndarray:
    # As the comparison of whole tensors computes it, in the same precision: what is cut
    # here could not have agreed there.
    if axis >= len(_LATTICE_ENTRIES):
        change = change - np.round(change)
    return np.abs(change)


def _cut_at_gaps(
    columns: columnar.Columns,
    members: Int[np.ndarray, " members"],
    set_of: Int[np.ndarray, " members"],
    axis: int,
    tolerance: float,
) -> tuple[Int[np.ndarray, " members"], Int[np.ndarray, " members"]]:
    """Cuts sets where, along an axis, neighbours are further apart than tolerated."""
    if not len(members):
        return members, set_of
    values = _coordinate(columns, members, axis)
    order = np.lexsort((values, set_of))
    members, set_of, values = members[order], set_of[order], values[order]
    is_first = np.append(True, set_of[1:] != set_of[:-1])
    is_cut = is_first.copy()
    is_cut[1:] |= np.diff(values) > tolerance
    piece = np.cumsum(is_cut) - 1
    # The ends of a period meet: the last entries may belong to the first.
    first = np.flatnonzero(is_first)
    last = np.append(first[1:], len(members)) - 1
    meet = _distance(values[last] - values[first], axis) <= tolerance
    joined = np.arange(piece[-1] + 1)
    joined[piece[last[meet]]] = piece[first[meet]]
    return members, joined[piece]


def _halved(
    columns: columnar.Columns, members: Int[np.ndarray, " members"], tolerance: float
) -> list[np.ndarray]:
    """Halves a set until no piece is large, or what is large is too dense."""
    pieces, pending = [], [members]
    while pending:
        members = pending.pop()
        halves = _halve(columns, members, tolerance)
        if halves is None:
            pieces.append(members)
        else:
            pending += halves
    return pieces


def _halve(
    columns: columnar.Columns, members: Int[np.ndarray, " members"], tolerance: float
) -> list[np.ndarray] | None:
    """Two sets that overlap near the cut; None where most of one would be near it."""
    if len(members) <= _LARGE_SET:
        return None
    half = len(members) // 2
    fewest, best = half // 2, None
    start, end = columns.offsets[members[0] : members[0] + 2].tolist()
    for axis in range(_num_axes(end - start)):
        values = _coordinate(columns, members, axis)
        order = np.argsort(values, kind="stable")
        low, high = order[:half], order[half:]
        # Along a period, the upper half has two ends.
        ends = values[high[[0, -1]]]
        distances = _distance(values[low, None] - ends, axis)
        near = low[(distances <= tolerance).any(axis=1)]
        if len(near) < fewest:
            fewest, best = len(near), [members[low], members[np.append(near, high)]]
        if fewest <= half // 8:
            break
    return best


def _mark_duplicates(
    columns: columnar.Columns,
    members: Int[np.ndarray, " members"],
    set_of: Int[np.ndarray, " members"],
    tolerance: float,
    is_duplicate: Bool[np.ndarray, " structures"],
) -> None:
    """Compares the structures of each set, and sets ``is_duplicate`` in place."""
    order = np.lexsort((members, set_of))
    members, set_of = members[order], set_of[order]
    first = np.searchsorted(set_of, set_of)
    # The first of each set against all after it, then the second, ...: where there are
    # many duplicates, the first has most of them.
    rank = 0
    open_ = np.arange(len(members))
    while True:
        open_ = open_[(open_ - first[open_] > rank) & ~is_duplicate[members[open_]]]
        if not len(open_):
            return
        one, other = members[open_], members[first[open_] + rank]
        is_duplicate[one[_tensors_agree(columns, one, other, tolerance)]] = True
        rank += 1


def _tensors_agree(
    columns: columnar.Columns,
    one: Int[np.ndarray, " pairs"],
    other: Int[np.ndarray, " pairs"],
    tolerance: float,
) -> Bool[np.ndarray, " pairs"]:
    agree = np.zeros(len(one), bool)
    for block in columnar.blocks_of_sites(columns, one):
        lattice_change = columns.lattice[one[block]] - columns.lattice[other[block]]
        near = np.all(np.abs(lattice_change) <= tolerance, axis=(1, 2))
        # Few lattices agree; only those pairs go on to the comparison of their sites.
        pairs = block.start + np.flatnonzero(near)
        rows, owner = columnar.site_rows(columns, one[pairs])
        other_rows, _ = columnar.site_rows(columns, other[pairs])
        change = columns.frac_coords[rows] - columns.frac_coords[other_rows]
        apart = (np.abs(change - np.round(change)) > tolerance).any(axis=1)
        agree[pairs] = np.bincount(owner, apart, len(pairs)) == 0
    return agree
