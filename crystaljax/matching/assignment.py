"""Assigning as many to as many at the least cost, many problems at once.

Where several assignments cost the same, which one a solver finds is a matter of
rounding; here they are marked.
"""

import functools
import itertools

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import optimize

# All permutations of this many are tried at once; more are left to SciPy.
_MAX_PERMUTED = 4


def assign(
    costs: Float[np.ndarray, "problems size size"],
    margin: Float[np.ndarray, " problems"],
) -> tuple[Int[np.ndarray, "problems size"], Bool[np.ndarray, "problems size"]]:
    """Column of each row in the assignment of the least total cost.

    Args:
        costs: of each row (axis 1) and column (axis 2); finite.
        margin: totals that differ by less are the same.

    Returns:
        The columns, and whether the row has another one in an assignment that costs
        the same.
    """
    size = costs.shape[1]
    if size <= _MAX_PERMUTED:
        permutations = _permutations(size)
        totals = costs[:, np.arange(size), permutations].sum(axis=-1)
        best = totals.argmin(axis=-1)
        columns = permutations[best]
        least = totals[np.arange(len(best)), best] + margin
        is_as_good = totals < least[:, None]
        is_tie = np.zeros(columns.shape, bool)
        tied = np.flatnonzero(np.count_nonzero(is_as_good, axis=-1) > 1)
        if len(tied):
            differ = permutations != columns[tied, None]
            is_tie[tied] = (is_as_good[tied, :, None] & differ).any(axis=1)
        return columns, is_tie
    columns = costs.argmin(axis=-1)
    least = np.take_along_axis(costs, columns[..., None], axis=-1)
    is_clear = (costs < least + margin[:, None, None]).sum(axis=(1, 2)) == size
    is_clear &= (np.sort(columns, axis=-1) == np.arange(size)).all(axis=-1)
    is_tie = np.zeros(columns.shape, bool)
    left = np.flatnonzero(~is_clear)
    if len(left):
        for index in left:
            _, columns[index] = optimize.linear_sum_assignment(costs[index])
        is_tie[left] = _have_others(costs[left], columns[left], margin[left])
    return columns, is_tie


@functools.cache
def _permutations(size: int) -> Int[np.ndarray, "permutations size"]:
    return np.array(list(itertools.permutations(range(size))))


def _have_others(
    costs: Float[np.ndarray, "problems size size"],
    columns: Int[np.ndarray, "problems size"],
    margin: Float[np.ndarray, " problems"],
) -> Bool[np.ndarray, "problems size"]:
    """Whether rows have other columns in another assignment of the least cost.

    Such a one differs by rows that pass their columns on in a circle. The cheapest
    circle through each row is found as Floyd and Warshall find shortest paths: none is
    negative, since the assignment is the best.
    """
    size = costs.shape[1]
    rows = np.arange(size)
    change = np.take_along_axis(costs, columns[:, None].repeat(size, axis=1), axis=2)
    change -= change[:, rows, rows][..., None].copy()
    change[:, rows, rows] = np.inf
    for via in range(size):
        through = change[:, :, via, None] + change[:, None, via]
        np.minimum(change, through, out=change)
    return change[:, rows, rows] < margin[:, None]
