"""On which side of the split structures fall: training, validation or test.

Sides share no reduced formula (the paper's section 2.2: no polymorphs of a training
structure are held out), and elements are as frequent on one as on the other. The
frequency of an element on a side is the number of structures there with that element,
divided by the sum of these numbers over all elements, so that frequencies add up to 1.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int, Integer

from crystaljax.crystals import elements
from crystaljax.data import dataset as datasets
from crystaljax.system import errors

# A side is improved by swapping formulas until frequencies differ by less than this in
# all, no swap is found among so many, or so many have been tried.
_SMALL_IMBALANCE = 0.01
_SWAP_PATIENCE = 200
_MAX_SWAPS = 5000
# Formulas that are tried as a replacement of another.
_SWAP_CANDIDATES = 64
# What a side that is off its share by 1 % of it may at most gain in balance: 0.1.
_SHARE_WEIGHT = 10.0


def split_by_formula(
    reduced_formulas: Sequence[str],
    fractions: Mapping[str, float],
    seed: int,
) -> Int[np.ndarray, " structures"]:
    """Splits structures so that no reduced formula is on two sides.

    In this order of importance: each element keeps a formula in training, as far as
    there is training; sides come as close to their share as whole formulas allow; each
    element is on every side, where it has enough formulas and the side has room;
    elements are equally frequent on all sides. Formulas are drawn at random with what
    is missing first, then swapped until the frequencies agree.

    Args:
        reduced_formulas: of each structure. Their order does not matter.
        fractions: share of structures in ``"val"`` and ``"test"``; the rest is
            ``"train"``.
        seed: of the draw.

    Returns:
        Index into ``dataset.SPLITS`` of each structure.

    Raises:
        ValueError: fractions are negative, exceed 1 in all, or name something else.
    """
    require_fractions(fractions)
    formulas, formula_of = _number_formulas(reduced_formulas)
    sizes = np.bincount(formula_of, minlength=len(formulas))
    contains = _element_table(formulas)
    shares = np.array([fractions.get(name, 0.0) for name in datasets.SPLITS])
    # Rounding in 1 - 0.9 - 0.1 is no training set.
    has_train = sum(fractions.values()) < 1 - 1e-9
    sides = np.zeros(len(formulas), np.int8)
    held_out = [side for side in (2, 1) if shares[side] > 0]
    for position, side in enumerate(held_out):
        pool = np.flatnonzero(sides == 0)
        num_later = len(held_out) - 1 - position + has_train
        if num_later == 0:
            sides[pool] = side
            continue
        drawn = _draw_side(
            sizes[pool],
            contains[pool],
            shares[side] * len(formula_of),
            _frequencies(sizes @ contains),
            num_later,
            np.random.default_rng((seed, side)),
        )
        sides[pool[drawn]] = side
    return sides[formula_of]


def require_fractions(fractions: Mapping[str, float]) -> None:
    """Raises ValueError unless `split_by_formula` can take the fractions."""
    names, values = datasets.SPLITS[1:], list(fractions.values())
    if (
        not set(fractions) <= set(names)
        or not all(value >= 0 for value in values)
        or sum(values) > 1
    ):
        raise errors.UserError(
            f"fractions are {dict(fractions)}; expected shares from 0 to 1, at most 1 "
            f"in all, for {names}"
        )


def element_imbalance(
    one: Integer[np.ndarray, " elements"], other: Integer[np.ndarray, " elements"]
) -> float:
    """Total absolute difference of the element frequencies of two sides, 0 to 2.

    Args:
        one: for each element, the number of structures of a side that contain it.
        other: the same of another side.

    Raises:
        ValueError: there are no structures on a side.
    """
    if not (one.any() and other.any()):
        raise errors.UserError(
            "a side has no structures, so no element frequencies; compare sides that "
            "have some"
        )
    return float(np.abs(_frequencies(one) - _frequencies(other)).sum())


def _frequencies(counts: np.ndarray) -> np.ndarray:
    return counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)


def _number_formulas(
    reduced_formulas: Sequence[str],
) -> tuple[list[str], Int[np.ndarray, " structures"]]:
    """Formulas in alphabetical order, and the number of each structure's formula."""
    encoded = pa.array(reduced_formulas, pa.string()).dictionary_encode()
    found = encoded.dictionary.to_pylist()
    order = sorted(range(len(found)), key=found.__getitem__)
    number = np.zeros(len(found), np.int64)
    number[order] = np.arange(len(found))
    return [found[index] for index in order], number[np.asarray(encoded.indices)]


def _element_table(formulas: list[str]) -> Bool[np.ndarray, "formulas elements"]:
    """Which elements formulas contain; elements that are in none are left out."""
    table = np.zeros((len(formulas), elements.NUM_ELEMENTS), bool)
    for row, formula in enumerate(formulas):
        for symbol in elements.parse_formula(formula):
            table[row, elements.atomic_number(symbol) - 1] = True
    return table[:, table.any(axis=0)]


def _draw_side(
    sizes: Int[np.ndarray, " formulas"],
    contains: Bool[np.ndarray, "formulas elements"],
    target_size: float,
    target: Float[np.ndarray, " elements"],
    num_later: int,
    rng: np.random.Generator,
) -> Int[np.ndarray, " drawn"]:
    """Formulas for one side.

    Args:
        sizes: structures with each formula.
        contains: elements of each formula.
        target_size: how many structures to draw.
        target: element frequencies to aim at.
        num_later: number of sides drawn from the remaining formulas, training included.
        rng: for the draw.
    """
    order = rng.permutation(len(sizes))
    # Position in the random order stands for the formula from here on.
    sizes, contains = sizes[order], contains[order]
    drawn = _draw_missing(sizes, contains, target_size, num_later)
    # Leave one formula with each element to every later side; if that is too few for
    # the requested share, to one of them.
    for num_kept in (num_later, 1):
        _draw_more(drawn, sizes, contains, target_size, num_kept)
    _swap(drawn, sizes, contains, target_size, target, num_later, rng)
    return order[drawn]


def _draw_missing(
    sizes: Int[np.ndarray, " formulas"],
    contains: Bool[np.ndarray, "formulas elements"],
    target_size: float,
    num_later: int,
) -> Bool[np.ndarray, " formulas"]:
    """Draws one formula with each element, rarest elements first."""
    drawn = np.zeros(len(sizes), bool)
    num_with = contains.sum(axis=0)
    num_left = num_with.copy()
    for element in np.argsort(num_with, kind="stable"):
        if contains[drawn, element].any():
            continue
        room = target_size - sizes[drawn].sum()
        is_free = (contains <= (num_left > num_later)).all(axis=1)
        may_draw = is_free & contains[:, element] & (sizes < 2 * room) & ~drawn
        candidates = np.flatnonzero(may_draw)
        if not len(candidates):
            continue
        # Formulas with the most missing elements first: the rest is left to chance.
        is_missing = ~contains[drawn].any(axis=0)
        num_new = contains[candidates][:, is_missing].sum(axis=1)
        best = candidates[np.argmax(num_new)]
        drawn[best] = True
        num_left -= contains[best]
    return drawn


def _draw_more(
    drawn: Bool[np.ndarray, " formulas"],
    sizes: Int[np.ndarray, " formulas"],
    contains: Bool[np.ndarray, "formulas elements"],
    target_size: float,
    num_kept: int,
) -> None:
    """Draws formulas in order, in place, while the size comes closer to the target."""
    room = target_size - sizes[drawn].sum()
    num_left = contains[~drawn].sum(axis=0)
    smallest = sizes.min() if len(sizes) else 0
    for formula in np.flatnonzero(~drawn):
        # No formula is small enough to come closer.
        if 2 * room <= smallest:
            return
        mine = contains[formula]
        if sizes[formula] < 2 * room and (num_left[mine] > num_kept).all():
            drawn[formula] = True
            room -= sizes[formula]
            num_left -= mine


def _swap(
    drawn: Bool[np.ndarray, " formulas"],
    sizes: Int[np.ndarray, " formulas"],
    contains: Bool[np.ndarray, "formulas elements"],
    target_size: float,
    target: Float[np.ndarray, " elements"],
    num_later: int,
    rng: np.random.Generator,
) -> None:
    """Swaps formulas that are drawn for others, in place, while that is better."""
    inside, outside = np.flatnonzero(drawn), np.flatnonzero(~drawn)
    if not (len(inside) and len(outside)):
        return
    # Structures with each element; the last column counts all.
    weights = np.append(contains, np.ones((len(sizes), 1), bool), axis=1)
    weights = (weights * sizes[:, None]).astype(np.int32)
    counts = weights[inside].sum(axis=0, dtype=np.int64)
    num_left = contains[outside].sum(axis=0)

    def costs(counts: np.ndarray) -> np.ndarray:
        imbalance = np.abs(_frequencies(counts[:, :-1]) - target).sum(axis=1)
        off_share = np.abs(counts[:, -1] - target_size) / target_size
        num_missing = (counts[:, :-1] == 0).sum(axis=1)
        return imbalance + _SHARE_WEIGHT * off_share + num_missing

    cost, num_failures = costs(counts[None])[0], 0
    for _ in range(_MAX_SWAPS):
        if cost < _SMALL_IMBALANCE or num_failures == _SWAP_PATIENCE:
            return
        leaving = int(rng.integers(len(inside)))
        entering = rng.integers(len(outside), size=_SWAP_CANDIDATES)
        old, new = inside[leaving], outside[entering]
        new_counts = counts + weights[new] - weights[old]
        new_left = num_left - contains[new] + contains[old].astype(int)
        is_bad = (new_left < np.minimum(num_left, num_later)).any(axis=1)
        new_costs = np.where(is_bad, np.inf, costs(new_counts))
        best = int(np.argmin(new_costs))
        if new_costs[best] >= cost:
            num_failures += 1
            continue
        drawn[old], drawn[new[best]] = False, True
        inside[leaving], outside[entering[best]] = new[best], old
        counts, num_left = new_counts[best], new_left[best]
        cost, num_failures = new_costs[best], 0
