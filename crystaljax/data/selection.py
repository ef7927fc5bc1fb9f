"""Which structures a data set keeps.

The rules are the paper's (section 2.1). Each is a function of columns, and of which
structures are left, that returns a mask, true where a structure stays; `select` applies
them one after the other. No function copies the sites of all structures: tables of
millions of structures, in memory or in memory maps, are read block by block.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from crystaljax.crystals import elements
from crystaljax.data import columnar, duplicates
from crystaljax.system import options as options_lib


@options_lib.frozen
class Rules:
    """What to drop. Rules apply in the order of these fields; None: no such rule.

    The paper names the groups first, and says that they have 7 to 71 members in the
    end. Dropping a rare space group takes members out of groups, so group sizes come
    last here: they hold in what is left. Shares, in turn, are those before groups are
    dropped.
    """

    min_sites: int | None = options_lib.option("Fewest atoms of a cell.", default=None)
    max_sites: int | None = options_lib.option("Most atoms of a cell.", default=None)
    min_energy: float | None = options_lib.option(
        "Energies must lie above, eV/atom.", default=None
    )
    max_energy: float | None = options_lib.option(
        "Energies must lie below, eV/atom.", default=None
    )
    drop_duplicates: bool = options_lib.option(
        "Drop what equals an earlier structure.", default=True
    )
    min_element_share: float | None = options_lib.option(
        "Drop structures with an element found in a smaller share of all structures "
        "(0.01: 1 %), counted once, before this and the next rule.",
        default=None,
    )
    min_space_group_share: float | None = options_lib.option(
        "Drop structures with a space group found in a smaller share of all "
        "structures, counted at the same time.",
        default=None,
    )
    min_group_size: int | None = options_lib.option(
        "Fewest members of a polymorph group (same cell formula).", default=None
    )
    max_group_size: int | None = options_lib.option(
        "Most members of a polymorph group; larger ones go as a whole.", default=None
    )


# Section 2.1; the energy window is that of the authors' code.
PAPER_RULES = Rules(
    min_sites=4,
    max_sites=60,
    min_energy=-5.0,
    max_energy=5.0,
    drop_duplicates=True,
    min_element_share=0.01,
    min_space_group_share=0.01,
    min_group_size=7,
    max_group_size=71,
)


# By the names that users know them by; the first is the default.
PRESETS = {"none": Rules(), "paper": PAPER_RULES}


def group_sizes(
    columns: columnar.Columns, left: Int[np.ndarray, " left"] | None = None
) -> Int[np.ndarray, " left"]:
    """Number of members of each structure's polymorph group (same cell formula).

    Args:
        columns: the structures.
        left: indices of those that count, ascending; all if None.
    """
    group = columnar.polymorph_groups(columns.formula)[_or_all(columns, left)]
    return np.bincount(group)[group] if len(group) else group.astype(np.int64)


def has_common_elements(
    columns: columnar.Columns,
    min_share: float,
    left: Int[np.ndarray, " left"] | None = None,
) -> Bool[np.ndarray, " left"]:
    """True where each element is found in at least ``min_share`` of the structures."""
    left = _or_all(columns, left)
    found_in = count_elements(columns, left)
    is_rare = found_in < min_share * len(left)
    is_rare[found_in == 0] = False
    stays = np.ones(len(left), bool)
    if is_rare.any():
        for block in columnar.blocks_of_sites(columns, left):
            stays[block] = ~element_table(columns, left[block])[:, is_rare].any(axis=1)
    return stays


def has_common_space_group(
    columns: columnar.Columns,
    min_share: float,
    left: Int[np.ndarray, " left"] | None = None,
) -> Bool[np.ndarray, " left"]:
    """True where at least ``min_share`` of the structures have the space group."""
    space_group = columns.space_group[_or_all(columns, left)]
    found_in = np.bincount(space_group, minlength=231)
    return found_in[space_group] >= min_share * len(space_group)


def select(
    columns: columnar.Columns, rules: Rules
) -> tuple[Bool[np.ndarray, " structures"], dict[str, int]]:
    """Applies the rules in order, each to what the ones before have left.

    Elements and space groups are counted once, on what is left before either of their
    rules: what one of them drops does not make anything else rare. Group sizes are
    counted last, so they hold in the result.

    Returns:
        True where a structure stays, and for each rule in use how many structures it
        dropped, in order.
    """
    left = np.arange(len(columns))
    dropped: dict[str, int] = {}
    for stage in _STAGES:
        limits = {name: getattr(rules, name) for name in stage}
        used = {name: limit for name, limit in limits.items() if not _is_unused(limit)}
        stays = np.ones(len(left), bool)
        for name, limit in used.items():
            mask = stage[name](columns, limit, left)
            dropped[name] = int(np.sum(stays & ~mask))
            stays &= mask
        left = left[stays]
    keep = np.zeros(len(columns), bool)
    keep[left] = True
    return keep, dropped


def element_table(
    columns: columnar.Columns, indices: Int[np.ndarray, " taken"]
) -> Bool[np.ndarray, "taken 104"]:
    """True at [i, Z] where structure i of those taken has an atom of number Z."""
    table = np.zeros((len(indices), elements.NUM_ELEMENTS + 1), bool)
    rows, owner = columnar.site_rows(columns, indices)
    table[owner, columns.atomic_numbers[rows]] = True
    return table


def count_elements(
    columns: columnar.Columns, indices: Int[np.ndarray, " taken"]
) -> Int[np.ndarray, "104"]:
    """Number of structures with each element, however many sites it has there.

    Args:
        columns: the structures.
        indices: those that count.

    Returns:
        The number at [Z] for atomic number Z; [0] is 0.
    """
    counts = np.zeros(elements.NUM_ELEMENTS + 1, np.int64)
    for block in columnar.blocks_of_sites(columns, indices):
        counts += element_table(columns, indices[block]).sum(axis=0)
    return counts


# In order; the rules of one stage see the same structures.
_STAGES: tuple[dict[str, Callable[[columnar.Columns, Any, np.ndarray], Any]], ...] = (
    {
        "min_sites": lambda columns, limit, left: columns.num_sites[left] >= limit,
        "max_sites": lambda columns, limit, left: columns.num_sites[left] <= limit,
        "min_energy": lambda columns, limit, left: (
            columns.formation_energy[left] > limit
        ),
        "max_energy": lambda columns, limit, left: (
            columns.formation_energy[left] < limit
        ),
    },
    {"drop_duplicates": lambda columns, _, left: duplicates.distinct(columns, left)},
    {
        "min_element_share": has_common_elements,
        "min_space_group_share": has_common_space_group,
    },
    {
        "min_group_size": lambda columns, limit, left: (
            group_sizes(columns, left) >= limit
        ),
        "max_group_size": lambda columns, limit, left: (
            group_sizes(columns, left) <= limit
        ),
    },
)


def _is_unused(limit: Any) -> bool:
    # 0 is a limit: a formation energy below 0 is a rule one may want.
    return limit is None or limit is False


def _or_all(columns: columnar.Columns, left: np.ndarray | None) -> np.ndarray:
    return np.arange(len(columns)) if left is None else left
