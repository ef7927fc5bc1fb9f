"""Which structures a data set keeps, and on which side of the split they fall.

The rules are the paper's (section 2.1). Each is a function of columns that returns a
mask, true where a structure stays; `select` applies them one after the other.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from crystaljax import elements
from crystaljax.data import columnar
from crystaljax.data import dataset as datasets

# Largest difference at which two canonical tensors are the same structure: fractional
# coordinates, and lattice entries in Å.
DUPLICATE_TOLERANCE = 0.01

# Seeded orders tried for a split; the one with the most even elements is taken.
_SPLIT_TRIALS = 8


@dataclasses.dataclass(frozen=True)
class Rules:
    """What to drop. Rules apply in the order of these fields; None: no such rule.

    Attributes:
        min_sites: fewest sites of a cell.
        max_sites: most sites of a cell.
        min_energy: formation energies must lie above it, eV/atom.
        max_energy: formation energies must lie below it, eV/atom.
        drop_duplicates: drop what an earlier structure equals.
        min_group_size: fewest members of a polymorph group (same cell formula).
        max_group_size: most members of a polymorph group.
        min_element_share: drop structures with an element found in a smaller share of
            all structures.
        min_space_group_share: drop structures with a space group found in a smaller
            share of all structures.
    """

    min_sites: int | None = None
    max_sites: int | None = None
    min_energy: float | None = None
    max_energy: float | None = None
    drop_duplicates: bool = True
    min_group_size: int | None = None
    max_group_size: int | None = None
    min_element_share: float | None = None
    min_space_group_share: float | None = None


def group_sizes(columns: columnar.Columns) -> Int[np.ndarray, " structures"]:
    """Number of members of each structure's polymorph group (same cell formula)."""
    group = columnar.polymorph_groups(columns.formula)
    return np.bincount(group)[group] if len(group) else group.astype(np.int64)


def has_common_elements(
    columns: columnar.Columns, min_share: float
) -> Bool[np.ndarray, " structures"]:
    """True where each element is found in at least ``min_share`` of the structures."""
    owner = np.repeat(np.arange(len(columns)), columns.num_sites)
    table_width = elements.NUM_ELEMENTS + 1
    # An element counts once in a structure, however many sites it has.
    pairs = np.unique(owner * table_width + columns.atomic_numbers)
    found_in = np.bincount(pairs % table_width, minlength=table_width)
    is_rare = found_in < min_share * len(columns)
    num_rare = np.bincount(owner, is_rare[columns.atomic_numbers], len(columns))
    return num_rare == 0


def has_common_space_group(
    columns: columnar.Columns, min_share: float
) -> Bool[np.ndarray, " structures"]:
    """True where at least ``min_share`` of the structures have the space group."""
    found_in = np.bincount(columns.space_group, minlength=231)
    return found_in[columns.space_group] >= min_share * len(columns)


def distinct(
    columns: columnar.Columns, tolerance: float = DUPLICATE_TOLERANCE
) -> Bool[np.ndarray, " structures"]:
    """False where an earlier structure is the same.

    The same is: the same cell formula, and canonical tensors that differ nowhere by
    more than the tolerance (periodic coordinates; lattice entries in Å).
    """
    group = columnar.polymorph_groups(columns.formula)
    first_length = columns.lattice[:, 0, 0].astype(np.float64)
    order = np.lexsort((first_length, group))
    # In this order equals are near each other: it is enough to compare each structure
    # with those before it while group and first lattice entry still agree.
    is_duplicate = np.zeros(len(columns), bool)
    candidates = np.arange(1, len(columns))
    lag = 1
    while len(candidates):
        one, other = order[candidates], order[candidates - lag]
        is_near = (group[one] == group[other]) & (
            first_length[one] - first_length[other] <= tolerance
        )
        candidates, one, other = candidates[is_near], one[is_near], other[is_near]
        same = _tensors_agree(columns, one, other, tolerance)
        is_duplicate[np.maximum(one[same], other[same])] = True
        lag += 1
        candidates = candidates[candidates >= lag]
    return ~is_duplicate


def _tensors_agree(
    columns: columnar.Columns,
    one: Int[np.ndarray, " pairs"],
    other: Int[np.ndarray, " pairs"],
    tolerance: float,
) -> Bool[np.ndarray, " pairs"]:
    lattice_change = np.abs(columns.lattice[one] - columns.lattice[other])
    agree = np.all(lattice_change <= tolerance, axis=(1, 2), keepdims=True)[:, 0, 0]
    # Few lattices agree, so only those pairs go on to the comparison of their sites.
    pairs = np.flatnonzero(agree)
    num_sites = columns.num_sites[one[pairs]]
    owner = np.repeat(np.arange(len(pairs)), num_sites)
    site = np.arange(num_sites.sum()) - np.repeat(
        np.cumsum(num_sites) - num_sites, num_sites
    )
    change = (
        columns.frac_coords[columns.offsets[one[pairs]][owner] + site]
        - columns.frac_coords[columns.offsets[other[pairs]][owner] + site]
    )
    apart = (np.abs(change - np.round(change)) > tolerance).any(axis=1)
    agree[pairs] = np.bincount(owner, apart, len(pairs)) == 0
    return agree


# In order; the rules of one stage look at the same structures.
_STAGES: tuple[dict[str, Callable[[columnar.Columns, Any], np.ndarray]], ...] = (
    {
        "min_sites": lambda left, limit: left.num_sites >= limit,
        "max_sites": lambda left, limit: left.num_sites <= limit,
        "min_energy": lambda left, limit: left.formation_energy > limit,
        "max_energy": lambda left, limit: left.formation_energy < limit,
    },
    {"drop_duplicates": lambda left, _: distinct(left)},
    {
        "min_group_size": lambda left, limit: group_sizes(left) >= limit,
        "max_group_size": lambda left, limit: group_sizes(left) <= limit,
    },
    {
        "min_element_share": has_common_elements,
        "min_space_group_share": has_common_space_group,
    },
)


def select(
    columns: columnar.Columns, rules: Rules
) -> tuple[Bool[np.ndarray, " structures"], dict[str, int]]:
    """Applies the rules in order, each to what the ones before have left.

    Elements and space groups are counted once, on what is left before either of their
    rules: what one of them drops does not make anything else rare.

    Returns:
        True where a structure stays, and for each rule in use how many structures it
        dropped, in order.
    """
    keep = np.ones(len(columns), bool)
    dropped: dict[str, int] = {}
    for stage in _STAGES:
        limits = {name: getattr(rules, name) for name in stage}
        used = {name: limit for name, limit in limits.items() if not _is_unused(limit)}
        if not used:
            continue
        left = columnar.filter_columns(columns, keep)
        stays = np.ones(len(left), bool)
        for name, limit in used.items():
            mask = stage[name](left, limit)
            dropped[name] = int(np.sum(stays & ~mask))
            stays &= mask
        keep[keep] = stays
    return keep, dropped


def _is_unused(limit: Any) -> bool:
    # 0 is a limit: a formation energy below 0 is a rule one may want.
    return limit is None or limit is False


def split_by_formula(
    reduced_formulas: Sequence[str],
    fractions: Mapping[str, float],
    seed: int,
) -> Int[np.ndarray, " structures"]:
    """Splits structures so that no reduced formula is on two sides.

    Formulas are drawn in an order that depends on the seed and the set of formulas
    alone. Each element keeps a formula in training, as far as there is training; of
    several orders, the one whose elements are spread most evenly is taken.

    Args:
        reduced_formulas: of each structure.
        fractions: share of structures in ``"val"`` and ``"test"``; the rest is
            ``"train"``.
        seed: of the order.

    Returns:
        Index into ``dataset.SPLITS`` of each structure.

    Raises:
        ValueError: fractions are negative, exceed 1 in all, or name something else.
    """
    require_fractions(fractions)
    held_out = [fractions.get(name, 0.0) for name in datasets.SPLITS[1:]]
    shares = np.array([1 - sum(held_out), *held_out])
    formulas, formula_of = np.unique(np.asarray(reduced_formulas), return_inverse=True)
    sizes = np.bincount(formula_of, minlength=len(formulas))
    contains = _element_table(formulas)
    trials = [
        _split_once(sizes, contains, shares, np.random.default_rng((seed, trial)))
        for trial in range(_SPLIT_TRIALS)
    ]
    imbalances = [_imbalance(sides, sizes, contains) for sides in trials]
    return trials[int(np.argmin(imbalances))][formula_of]


def require_fractions(fractions: Mapping[str, float]) -> None:
    """Raises ValueError unless `split_by_formula` can take the fractions."""
    names, values = datasets.SPLITS[1:], list(fractions.values())
    if (
        not set(fractions) <= set(names)
        or min(values, default=0) < 0
        or sum(values) > 1
    ):
        raise ValueError(
            f"fractions are {dict(fractions)}; expected shares from 0 to 1, at most 1 "
            f"in all, for {names}"
        )


def _element_table(formulas: np.ndarray) -> Bool[np.ndarray, "formulas 103"]:
    table = np.zeros((len(formulas), elements.NUM_ELEMENTS), bool)
    for row, formula in enumerate(formulas):
        for symbol in elements.parse_formula(str(formula)):
            table[row, elements.atomic_number(symbol) - 1] = True
    return table


def _split_once(
    sizes: Int[np.ndarray, " formulas"],
    contains: Bool[np.ndarray, "formulas 103"],
    shares: Float[np.ndarray, "3"],
    rng: np.random.Generator,
) -> Int[np.ndarray, " formulas"]:
    order = rng.permutation(len(sizes))
    sides = np.zeros(len(sizes), np.int8)
    if shares[0] > 1e-9:
        # In order of the draw, formulas that bring an element first stay in training.
        first_with = np.argmax(contains[order], axis=0)[contains.any(axis=0)]
        order = np.delete(order, np.unique(first_with))
    wanted = shares * sizes.sum()
    position = 0
    for side in (2, 1):
        # Up to the formula that comes closest to the share wanted.
        reached = np.cumsum(sizes[order[position:]])
        count = int(np.argmin(np.abs(np.array([0, *reached]) - wanted[side])))
        sides[order[position : position + count]] = side
        position += count
    return sides


def _imbalance(
    sides: Int[np.ndarray, " formulas"],
    sizes: Int[np.ndarray, " formulas"],
    contains: Bool[np.ndarray, "formulas 103"],
) -> float:
    """Total absolute difference of element frequencies between the sides and all."""
    total = 0.0
    overall = sizes @ contains / max(sizes.sum(), 1)
    for side in range(len(datasets.SPLITS)):
        here = sizes * (sides == side)
        if here.sum():
            total += float(np.abs(here @ contains / here.sum() - overall).sum())
    return total
