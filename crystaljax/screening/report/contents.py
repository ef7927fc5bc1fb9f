"""What the page of a screening shows, as JSON values: counts, comparisons, diagrams.

Nothing here knows HTML; the page's scripts turn these values into text and drawings.
"""

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from crystaljax.crystals import elements, space_groups, structure
from crystaljax.hull import convex_hull as hulls
from crystaljax.screening import columns
from crystaljax.screening.report import drawn_values, systems
from crystaljax.system import errors

# Of these the page shows how many samples have the requested space group, under a
# heading.
_SPACE_GROUPS = {
    **{
        column: f"generated, {symprec:g}"
        for column, symprec in zip(
            columns.GENERATED_SPACE_GROUPS, columns.SYMPRECS, strict=True
        )
    },
    columns.RELAXED_SPACE_GROUPS[0]: f"relaxed, {columns.RELAXED_SYMPRECS[0]:g}",
}
# The page does without these.
_LEFT_OUT = (
    columns.VALID,
    columns.SECONDS,
    columns.ENERGY_MODEL,
    columns.REQUESTED_ABOVE_HULL,
    columns.FILE,
    columns.CANDIDATE_FILE,
)
# More reasons than that are summed up.
_MAX_REASONS = 50
# More conditions than that are counted, not listed.
_MAX_LISTED = 12
_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)")


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much of a large screening a page holds.

    Attributes:
        num_views: pictures of the best candidates.
        max_structures: candidates, best first, whose structures are in the page, where
            they can be rotated.
        max_systems: hull diagrams: of the binary and ternary systems with the most
            candidates.
    """

    num_views: int = 12
    max_structures: int = 1000
    max_systems: int = 6


DEFAULT_LIMITS = Limits()


def describe(
    summary: Mapping[str, Any],
    table: Mapping[str, Sequence[Any] | np.ndarray],
    crystals: Mapping[int, structure.Crystal],
    known_hull: hulls.Hull | None,
    *,
    title: str = "",
    limits: Limits = DEFAULT_LIMITS,
) -> dict[str, Any]:
    """All that the page shows, as JSON values; see `html_report.build_report`.

    Raises:
        ValueError: the columns differ in length.
    """
    lengths = {name: len(column) for name, column in table.items()}
    if len(set(lengths.values())) > 1:
        raise errors.UserError(
            f"columns of lengths {lengths}; expected one entry per row"
        )
    num_rows = next(iter(lengths.values()), 0)
    shown_table: dict[str, list[Any]] = {
        columns.NAME: [str(row + 1) for row in range(num_rows)],
        columns.RANK: [0] * num_rows,
    }
    for name in columns.ALL:
        if name in table and name not in _LEFT_OUT:
            shown_table[name] = list(table[name])
    shown_table[columns.FORMULA] = _complete_formulas(shown_table, crystals)
    shown = {
        rank: crystal
        for rank, crystal in sorted(crystals.items())[: limits.max_structures]
        if crystal.num_sites
    }
    model = summary.get("energy_model") or ""
    models = {model, *table.get(columns.ENERGY_MODEL, ())} - {"", None}
    diagrams, note = systems.describe_systems(
        _candidates(shown_table), known_hull, model, limits.max_systems
    )
    above = _floats(shown_table.get(columns.ABOVE_HULL, ()))
    has_hull = known_hull is not None or np.isfinite(above).any()
    return drawn_values.to_json(
        {
            "title": title,
            "num_rows": num_rows,
            "num_views": limits.num_views,
            **{
                name: summary.get(name)
                for name in ("request", "counts", "seconds", "versions")
            },
            "calculator": summary.get("calculator") or "",
            "methods": summary.get("methods") or {},
            "generated_by": list(summary.get("generated_by") or ()),
            "hull": _describe_hull(summary.get("hull")) if has_hull else "",
            "energy_models": sorted(models),
            "requested": _describe_requested(shown_table),
            "reasons": _count_reasons(shown_table),
            "energies": _compare_energies(shown_table),
            "space_groups": _compare_space_groups(shown_table),
            "systems": diagrams,
            "systems_note": note,
            "symbols": space_groups.load_space_group_symbols(),
            "elements": drawn_values.describe_elements(shown.values()),
            "structures": {
                str(rank): drawn_values.describe_structure(crystal)
                for rank, crystal in shown.items()
            },
            "columns": columns.BY_IDENTIFIER,
            "meanings": {name: name.describe() for name in columns.ALL},
            "table": {name: _encode(column) for name, column in shown_table.items()},
        }
    )


def _describe_hull(spec: str | None) -> str:
    """What was asked for, in words."""
    if spec and spec.startswith("relaxed:"):
        return f"crystals of {spec.removeprefix('relaxed:')}, relaxed alike"
    return spec or "unnamed"


def _complete_formulas(
    table: Mapping[str, list[Any]], crystals: Mapping[int, structure.Crystal]
) -> list[str]:
    """The table's formulas; of the crystals where it has none."""
    ranks = table[columns.RANK]
    formulas = table.get(columns.FORMULA, [""] * len(ranks))
    return [
        elements.cell_formula(np.asarray(crystals[rank].atomic_numbers))
        if not formula and rank in crystals
        else formula or ""
        for formula, rank in zip(formulas, ranks, strict=True)
    ]


def _encode(column: list[Any]) -> Any:
    """A column; of words that repeat, its values and where each stands."""
    # Of numbers, 0, 0.0 and False would become one.
    if not all(value is None or isinstance(value, bool | str) for value in column):
        return column
    values = list(dict.fromkeys(column))
    if 2 * len(values) > len(column):
        return column
    places = {value: place for place, value in enumerate(values)}
    return {"values": values, "places": [places[value] for value in column]}


def _floats(column: Iterable[Any]) -> np.ndarray:
    return np.array([np.nan if x is None else x for x in column], dtype=float)


def _describe_requested(table: Mapping[str, list[Any]]) -> dict[str, Any]:
    """The conditions that occur: all where they are few, else how many."""
    requested = {}
    for name in (
        columns.FORMULA,
        columns.REQUESTED_SPACE_GROUP,
        columns.REQUESTED_ENERGY,
        columns.REQUESTED_DIFFERENCE,
    ):
        values = {x for x in table.get(name, ()) if x not in (None, "") and x == x}
        if values:
            requested[name] = {
                "count": len(values),
                "values": sorted(values)[:_MAX_LISTED],
                "range": None
                if name == columns.FORMULA
                else [min(values), max(values)],
            }
    return requested


def _count_reasons(table: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Reasons of rejections; those that differ only in numbers or names are one."""
    if columns.REJECTED_REASON not in table:
        return []
    rows = range(len(table[columns.REJECTED_REASON]))
    others = [
        table[key] for key in (columns.DUPLICATE_OF, columns.KNOWN_AS) if key in table
    ]
    found: dict[tuple[str, ...], list[list[str]]] = collections.defaultdict(list)
    stages = table.get(columns.REJECTED_STAGE, [""] * len(rows))
    for row in rows:
        reason = table[columns.REJECTED_REASON][row]
        if not reason:
            continue
        for name in {column[row] for column in others} - {"", None}:
            # Names stand at the end of a reason; 1 or e would be found all over it.
            if reason.endswith(f" {name}"):
                reason = f"{reason.removesuffix(str(name))}…"
        # Words and numbers in turns.
        parts = _NUMBER.split(reason)
        found[stages[row], *parts[::2]].append(parts[1::2])
    reasons = []
    for (stage, *words), numbers in found.items():
        common = [
            each[0] if len(set(each)) == 1 else "…"
            for each in zip(*numbers, strict=True)
        ]
        pairs = itertools.zip_longest(words, common, fillvalue="")
        text = "".join(itertools.chain.from_iterable(pairs))
        reasons.append({"stage": stage, "reason": text, "count": len(numbers)})
    reasons.sort(key=lambda each: -each["count"])
    others = reasons[_MAX_REASONS:]
    if others:
        num_others = sum(each["count"] for each in others)
        text = f"{len(others)} other reasons"
        reasons = reasons[:_MAX_REASONS]
        reasons.append({"stage": "", "reason": text, "count": num_others})
    return reasons


def _compare_energies(table: Mapping[str, list[Any]]) -> dict[str, Any] | None:
    """How far the relaxed energies lie from those requested, eV/atom."""
    if not {columns.REQUESTED_ENERGY, columns.RELAXED_ENERGY} <= table.keys():
        return None
    requested = _floats(table[columns.REQUESTED_ENERGY])
    difference = _floats(table[columns.RELAXED_ENERGY]) - requested
    difference = difference[np.isfinite(difference)]
    if not len(difference):
        return None
    return {
        "count": len(difference),
        "mean_absolute": np.abs(difference).mean(),
        "mean": difference.mean(),
        "within_0.1": int((np.abs(difference) <= 0.1).sum()),
    }


def _compare_space_groups(table: Mapping[str, list[Any]]) -> dict[str, Any] | None:
    """How many samples have the space group requested: all, and of each group.

    As generated, of all samples; relaxed, of those with an energy.
    """
    keys = [key for key in _SPACE_GROUPS if key in table]
    if columns.REQUESTED_SPACE_GROUP not in table or not keys:
        return None
    requested = np.nan_to_num(_floats(table[columns.REQUESTED_SPACE_GROUP])).astype(int)
    relaxed = np.isfinite(
        _floats(table.get(columns.RELAXED_ENERGY, [None] * len(requested)))
    )
    counted = {
        key: (requested > 0)
        & (relaxed if key in columns.RELAXED_SPACE_GROUPS else True)
        for key in keys
    }
    hits = {key: counted[key] & (_floats(table[key]) == requested) for key in keys}

    def count(of: np.ndarray) -> list[list[int]]:
        """Per column: those that have it, of how many."""
        return [
            [int((hits[key] & of).sum()), int((counted[key] & of).sum())]
            for key in keys
        ]

    groups = [
        {"number": number, "counts": count(requested == number)}
        for number in np.unique(requested[requested > 0]).tolist()
    ]
    if not groups:
        return None
    return {
        "headings": [_SPACE_GROUPS[key] for key in keys],
        "all": count(requested > 0),
        "groups": groups,
    }


def _candidates(table: Mapping[str, list[Any]]) -> list[systems.Candidate]:
    """The rows that can be in a hull diagram."""
    missing = [None] * len(table[columns.RANK])
    energies = _floats(table.get(columns.RELAXED_ENERGY, missing))
    above = _floats(table.get(columns.ABOVE_HULL, missing))
    return [
        systems.Candidate(
            row, table[columns.NAME][row], formula, energies[row], above[row]
        )
        for row, formula in enumerate(table[columns.FORMULA])
        if table[columns.RANK][row] and formula and np.isfinite(energies[row])
    ]
