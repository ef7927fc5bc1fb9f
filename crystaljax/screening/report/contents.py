"""What the page of a screening shows, as JSON values: counts, comparisons, diagrams.

Nothing here knows HTML; the page's scripts turn these values into text and drawings.
"""

import collections
import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ase.data import colors

from crystaljax.crystals import elements, space_groups, structure
from crystaljax.hull import convex_hull as hulls
from crystaljax.screening.report import systems
from crystaljax.system import errors

# What the page takes from the table; it has more columns than anybody reads.
_COLUMNS = (
    "name",
    "rank",
    "formula",
    "space_group",
    "formation_energy",
    "energy_difference",
    "input",
    "num_sites",
    "volume_per_atom",
    "shortest_distance",
    "shortest_distance_ratio",
    "space_group_found_0.1",
    "space_group_found_0.01",
    "space_group_found_0.001",
    "space_group_relaxed_0.1",
    "space_group_relaxed_0.01",
    "formation_energy_relaxed",
    "energy_above_hull",
    "relaxation_method",
    "relaxation_converged",
    "relaxation_steps",
    "max_force",
    "duplicate_of",
    "known_as",
    "fell_out_at",
    "fell_out",
)
_SPACE_GROUP_COLUMNS = (
    "space_group_found_0.1",
    "space_group_found_0.01",
    "space_group_found_0.001",
    "space_group_relaxed_0.1",
)
_ENERGY = "formation_energy_relaxed"
# eV/atom, fractional coordinates, Å: finer than anything that is shown.
_DECIMALS = 6
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
        max_structures: candidates, best first, whose structures are in the page, to be
            looked at from all sides.
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
    columns = {name: list(table[name]) for name in _COLUMNS if name in table}
    columns.setdefault("name", [str(row + 1) for row in range(num_rows)])
    columns.setdefault("rank", [0] * num_rows)
    columns["formula"] = _complete_formulas(columns, crystals)
    shown = {
        rank: crystal
        for rank, crystal in sorted(crystals.items())[: limits.max_structures]
        if crystal.num_sites
    }
    model = summary.get("energy_model") or ""
    models = {model, *table.get("energy_model_relaxed", ())} - {"", None}
    diagrams, note = systems.describe_systems(
        _candidates(columns), known_hull, model, limits.max_systems
    )
    above = _floats(columns.get("energy_above_hull", ()))
    has_hull = known_hull is not None or np.isfinite(above).any()
    return _to_json(
        {
            "title": title,
            "num_rows": num_rows,
            "num_views": limits.num_views,
            **{
                name: summary.get(name)
                for name in ("request", "counts", "seconds", "versions")
            },
            "calculator": summary.get("calculator") or "",
            "hull": (summary.get("hull") or "unnamed") if has_hull else "",
            "energy_models": sorted(models),
            "asked": _describe_asked(columns),
            "reasons": _count_reasons(columns),
            "energies": _compare_energies(columns),
            "space_groups": _compare_space_groups(columns),
            "systems": diagrams,
            "systems_note": note,
            "symbols": space_groups.load_space_group_symbols(),
            "elements": _describe_elements(shown.values()),
            "structures": {
                str(rank): _describe_structure(crystal)
                for rank, crystal in shown.items()
            },
            "table": {name: _encode(column) for name, column in columns.items()},
        }
    )


def _complete_formulas(
    columns: Mapping[str, list[Any]], crystals: Mapping[int, structure.Crystal]
) -> list[str]:
    """The table's formulas; of the crystals where it has none."""
    ranks = columns["rank"]
    formulas = columns.get("formula", [""] * len(ranks))
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


def _describe_asked(columns: Mapping[str, list[Any]]) -> dict[str, Any]:
    """The conditions that occur: all where they are few, else how many."""
    asked = {}
    for name in ("formula", "space_group", "formation_energy", "energy_difference"):
        values = {x for x in columns.get(name, ()) if x not in (None, "") and x == x}
        if values:
            asked[name] = {
                "count": len(values),
                "values": sorted(values)[:_MAX_LISTED],
                "range": None if name == "formula" else [min(values), max(values)],
            }
    return asked


def _count_reasons(columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Why inputs fell out; reasons that differ in numbers or names only are one."""
    if "fell_out" not in columns:
        return []
    rows = range(len(columns["fell_out"]))
    others = [columns[key] for key in ("duplicate_of", "known_as") if key in columns]
    found: dict[tuple[str, ...], list[list[str]]] = collections.defaultdict(list)
    stages = columns.get("fell_out_at", [""] * len(rows))
    for row in rows:
        reason = columns["fell_out"][row]
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


def _compare_energies(columns: Mapping[str, list[Any]]) -> dict[str, Any] | None:
    """How far the energies obtained lie from those asked for, eV/atom."""
    if not {"formation_energy", _ENERGY} <= columns.keys():
        return None
    asked = _floats(columns["formation_energy"])
    difference = _floats(columns[_ENERGY]) - asked
    difference = difference[np.isfinite(difference)]
    if not len(difference):
        return None
    return {
        "count": len(difference),
        "mean_absolute": np.abs(difference).mean(),
        "mean": difference.mean(),
        "within_0.1": int((np.abs(difference) <= 0.1).sum()),
    }


def _compare_space_groups(columns: Mapping[str, list[Any]]) -> dict[str, Any] | None:
    """How many samples have the space group asked for: all, and of each group.

    As generated, of all samples; relaxed, of those with an energy.
    """
    keys = [key for key in _SPACE_GROUP_COLUMNS if key in columns]
    if "space_group" not in columns or not keys:
        return None
    asked = np.nan_to_num(_floats(columns["space_group"])).astype(int)
    relaxed = np.isfinite(_floats(columns.get(_ENERGY, [None] * len(asked))))
    counted = {
        key: (asked > 0) & (relaxed if "relaxed" in key else True) for key in keys
    }
    hits = {key: counted[key] & (_floats(columns[key]) == asked) for key in keys}

    def count(of: np.ndarray) -> list[list[int]]:
        """Per column: those that have it, of how many."""
        return [
            [int((hits[key] & of).sum()), int((counted[key] & of).sum())]
            for key in keys
        ]

    groups = [
        {"number": number, "counts": count(asked == number)}
        for number in np.unique(asked[asked > 0]).tolist()
    ]
    if not groups:
        return None
    return {"columns": keys, "all": count(asked > 0), "groups": groups}


def _candidates(columns: Mapping[str, list[Any]]) -> list[systems.Candidate]:
    """The rows that can be in a hull diagram."""
    missing = [None] * len(columns["rank"])
    energies = _floats(columns.get(_ENERGY, missing))
    above = _floats(columns.get("energy_above_hull", missing))
    return [
        systems.Candidate(row, columns["name"][row], formula, energies[row], above[row])
        for row, formula in enumerate(columns["formula"])
        if columns["rank"][row] and formula and np.isfinite(energies[row])
    ]


def _describe_structure(crystal: structure.Crystal) -> dict[str, Any]:
    return {
        "numbers": np.asarray(crystal.atomic_numbers),
        "coords": np.round(np.asarray(crystal.frac_coords, dtype=float), 5).ravel(),
        "lattice": np.round(np.asarray(crystal.lattice, dtype=float), 5),
    }


def _describe_elements(crystals: Iterable[structure.Crystal]) -> dict[str, Any]:
    """Symbol, colour (Jmol's) and covalent radius (Å) by atomic number."""
    numbers = {int(number) for each in crystals for number in each.atomic_numbers}
    described = {}
    for number in sorted(numbers):
        color = np.round(255 * np.asarray(colors.jmol_colors[number])).astype(int)
        described[str(number)] = {
            "symbol": elements.symbol(number),
            "color": color,
            "radius": elements.load_covalent_radii()[number - 1],
        }
    return described


def _to_json(value: Any) -> Any:
    """JSON values: numbers rounded, those that are not finite None."""
    if isinstance(value, Mapping):
        return {str(key): _to_json(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return _to_json(value.tolist())
    if isinstance(value, list | tuple):
        return [_to_json(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return round(value, _DECIMALS) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)
