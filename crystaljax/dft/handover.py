"""What goes to DFT and comes back: candidates, reference structures, the manifest."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crystaljax.crystals import (
    elements,
    stated_formulas,
    structure,
    structure_files,
    symmetrization,
    validity,
)
from crystaljax.crystals import names as names_lib
from crystaljax.data.readers import csv_rows
from crystaljax.data.sources import record
from crystaljax.relaxation import references
from crystaljax.screening import columns
from crystaljax.screening import inputs as screening_inputs
from crystaljax.system import errors

MANIFEST = "manifest.csv"
CANDIDATES = "candidates.extxyz"
STRUCTURES = ("relaxed", "symmetrized", "as_generated")
# Columns that every manifest has.
_FIXED = ("folder", "kind", "name", "formula", "problem")
# Those of the others that are no text.
_NUMBERS = (
    columns.RELAXED_ENERGY,
    columns.ABOVE_HULL,
    columns.REQUESTED_SPACE_GROUP,
)
# Where reference structures come from if the user has none.
ELEMENTS = "elements"


@dataclasses.dataclass(frozen=True, eq=False)
class Item:
    """One crystal to hand over.

    Attributes:
        stem: name of its folder or file.
        kind: "candidate" or "reference".
        name: as the screening has it; of a reference, its element.
        crystal: the crystal; `structure.NO_CRYSTAL` where there is none.
        problem: why it cannot be handed over; "" if it can.
        row: what is known of it.
    """

    stem: str
    kind: str
    name: str
    crystal: structure.Crystal
    problem: str
    row: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Handed:
    """What a manifest says of one folder.

    Attributes:
        folder: relative to the manifest.
        row: its columns.
        crystal: as it was handed over; None if that is not on record.
    """

    folder: str
    row: Mapping[str, Any]
    crystal: structure.Crystal | None


def read_items(
    path: pathlib.Path,
    *,
    top: int | None = None,
    structures: str = "relaxed",
    max_above_hull: float | None = None,
    new_only: bool = False,
) -> list[Item]:
    """Candidates, best first: by rank, else by energy above the hull, else as they are.

    Args:
        path: folder of a screening, or anything `inputs.read_candidates` reads.
        top: how many; all if None.
        structures: "relaxed", "symmetrized" (the symmetry found within 0.1 Å) or
            "as_generated" (before the relaxation of a screening).
        max_above_hull: leave out what lies higher, eV/atom; no limit if None.
        new_only: leave out what is known already (``known_as``).

    Raises:
        FileNotFoundError: there are no candidates.
        ValueError: none is left, or their samples are not on record.
    """
    is_screening = (path / CANDIDATES).is_file()
    found = screening_inputs.read_candidates(
        path / CANDIDATES if is_screening else path
    )
    rows = _rows(path, found)
    crystals, problems = found.crystals, found.problems
    if structures == "as_generated" and is_screening:
        crystals, problems = _find_generated(path, found.names, rows)
    problems = [
        problem or _find_contradiction(crystal, row if is_screening else {})
        for crystal, problem, row in zip(crystals, problems, rows, strict=True)
    ]
    order = _order(rows)
    chosen = [i for i in order if _is_wanted(rows[i], max_above_hull, new_only)][:top]
    if not chosen:
        raise errors.UserError(
            f"none of the {len(rows)} candidates in {path} is left; raise "
            "--max_above_hull, or pass --nonew_only"
        )
    ranks = {i: _rank(rows[i], place) for place, i in enumerate(order, 1)}
    digits = max(3, len(str(max(ranks.values()))))
    used: set[str] = set()
    return [
        Item(
            stem=names_lib.unique_stem(f"{ranks[i]:0{digits}d}_{found.names[i]}", used),
            kind="candidate",
            name=found.names[i],
            crystal=symmetrization.symmetrize(crystals[i])
            if structures == "symmetrized" and not problems[i]
            else crystals[i],
            problem=problems[i],
            row=rows[i],
        )
        for i in chosen
    ]


def _find_contradiction(crystal: structure.Crystal, row: Mapping[str, Any]) -> str:
    """How a relaxed crystal differs from what the screening says of it, or ""."""
    if problem := validity.find_cell_problem(crystal):
        return problem
    try:
        stated_formulas.require_formula(row.get("formula"), crystal.atomic_numbers)
    except ValueError as error:
        return f"{error}: {CANDIDATES} was changed; screen the samples again"
    return ""


def _rows(
    path: pathlib.Path, found: screening_inputs.Candidates
) -> list[dict[str, Any]]:
    """What is known of each: the screening's table, else what stands in the file."""
    table = path / "screening.parquet"
    if table.is_file():
        found_columns = structure_files.read_table(table)
        by_name = {
            str(row.get("name")): columns.rename_former(row)
            for row in (
                dict(zip(found_columns, values, strict=True))
                for values in zip(*found_columns.values(), strict=True)
            )
        }
    else:
        by_name = {}
    own = columns.rename_former(found.table())
    rows = (
        dict(zip(own, values, strict=True))
        for values in zip(*own.values(), strict=True)
    )
    return [by_name.get(name, row) for name, row in zip(found.names, rows, strict=True)]


def _find_generated(
    path: pathlib.Path, names: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> tuple[list[structure.Crystal], list[str]]:
    """Crystals of these names before the relaxation, and why there are none."""
    try:
        request = json.loads((path / "screening.json").read_text(encoding="utf-8"))
        samples = request["request"]["samples"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.UserError(
            f"{path} does not say which samples it screened ({error!r}); export these "
            "with `screening=` themselves, or pass --structures=relaxed"
        ) from error
    generated = screening_inputs.read_candidates(samples)
    index = {name: i for i, name in enumerate(generated.names)}
    crystals, problems = [], []
    for name, row in zip(names, rows, strict=True):
        crystal, problem = structure.NO_CRYSTAL, f"{samples} holds no crystal {name!r}"
        if name in index:
            crystal = generated.crystals[index[name]]
            problem = generated.problems[index[name]]
        formula = screening_inputs.formula(crystal)
        screened = str(row.get("formula") or "")
        if formula and screened and _sites(formula) != _sites(screened):
            # Files came or went since, and names with them.
            crystal = structure.NO_CRYSTAL
            problem = (
                f"{name!r} in {samples} is {formula}, but {screened} was screened: the "
                "samples are not what they were; screen them again"
            )
        crystals.append(crystal)
        problems.append(problem)
    return crystals, problems


def _sites(formula: str) -> dict[str, int]:
    return elements.parse_formula(formula)


def _rank(row: Mapping[str, Any], place: int) -> int:
    """Rank by the table; the place among the others where it says none."""
    rank = row.get(columns.RANK)
    if isinstance(rank, bool) or not isinstance(rank, int | float):
        return place
    return int(rank) if 1 <= rank < 1e9 else place


def _order(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    for key in (columns.RANK, columns.ABOVE_HULL):
        values = [row.get(key) for row in rows]
        numbers = [v for v in values if isinstance(v, int | float) and np.isfinite(v)]
        if len(numbers) == len(rows):
            return sorted(range(len(rows)), key=numbers.__getitem__)
    return list(range(len(rows)))


def _is_wanted(
    row: Mapping[str, Any], max_above_hull: float | None, new_only: bool
) -> bool:
    if new_only and row.get(columns.KNOWN_AS):
        return False
    if max_above_hull is None:
        return True
    above = row.get(columns.ABOVE_HULL)
    return isinstance(above, int | float) and above <= max_above_hull


def reference_items(given: str, items: Sequence[Item]) -> list[Item]:
    """Reference structures of the elements that the candidates have.

    Args:
        given: "elements" for the structures of ASE's tables, or a file or folder of
            crystals, which come before these.
        items: the candidates.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: it cannot be read, or holds energies.
    """
    crystals: Mapping[int, Sequence[structure.Crystal]] = {}
    if given != ELEMENTS:
        read = references.load_references(given)
        if read.energies:
            raise errors.UserError(
                f"--references={given} holds energies; expected crystals of the "
                "elements: give energies to `crystaljax collect`"
            )
        crystals = read.crystals
    numbers = {int(n) for item in items for n in np.unique(item.crystal.atomic_numbers)}
    found = []
    for number in sorted(numbers):
        symbol = elements.symbol(number)
        choices, problem = list(crystals.get(number, ())), ""
        if not choices:
            try:
                choices = [references.reference_crystal(number)]
            except ValueError as error:
                choices, problem = [structure.NO_CRYSTAL], str(error)
        for count, crystal in enumerate(choices, start=1):
            name = symbol if len(choices) == 1 else f"{symbol}-{count}"
            stem = f"reference_{name}"
            row = {"formula": symbol}
            found.append(Item(stem, "reference", name, crystal, problem, row))
    return found


def build_manifest(
    items: Sequence[Item], folders: Sequence[str], problems: Sequence[str]
) -> dict[str, list[Any]]:
    """Columns with one row per item: where it is, why it is not, what is known of it.

    Args:
        items: what was handed over.
        folders: folder or file of each; "" where nothing was written.
        problems: why nothing was written; "" where it was.
    """
    fixed: dict[str, list[Any]] = {
        "folder": list(folders),
        "kind": [item.kind for item in items],
        "name": [item.name for item in items],
        "formula": [
            elements.cell_formula(item.crystal.atomic_numbers)
            if item.crystal.num_sites
            else str(item.row.get("formula") or "")
            for item in items
        ],
        "problem": list(problems),
    }
    keys = dict.fromkeys(key for item in items for key in item.row)
    return fixed | {
        key: [item.row.get(key) for item in items] for key in keys if key not in fixed
    }


def write_records(
    folder: pathlib.Path, items: Sequence[Item], manifest: Mapping[str, list[Any]]
) -> None:
    """Writes ``manifest.csv``, and the crystals as they were handed over.

    Args:
        folder: of the export.
        items: what was handed over.
        manifest: of `build_manifest`, and further columns.
    """
    structure_files.write_table(folder / MANIFEST, manifest)
    # extxyz has no dots in the names of what stands beside a lattice.
    keys = {
        key: re.sub(r"\W", "_", key)
        for key in manifest
        if key not in structure_files.RESERVED_INFO_KEYS
    }
    written = [i for i, problem in enumerate(manifest["problem"]) if not problem]
    infos = [
        {
            name: manifest[key][i]
            for key, name in keys.items()
            if name == "name" or not _is_missing(manifest[key][i])
        }
        for i in written
    ]
    crystals = [items[i].crystal for i in written]
    structure_files.write_extxyz(folder / CANDIDATES, crystals, infos)


def _is_missing(value: Any) -> bool:
    is_nan = isinstance(value, float) and value != value
    return value is None or value == "" or is_nan


def read_manifest(folder: pathlib.Path) -> list[Handed]:
    """What was handed over in a folder; nothing where there is no manifest.

    Names are text, whatever they look like.

    Raises:
        ValueError: the manifest cannot be read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return []
    header = csv_rows.read_header(path)
    if not set(_FIXED) <= set(header):
        raise errors.UserError(
            f"{path} has the columns {', '.join(header)}; expected "
            f"{', '.join(_FIXED)} among them, as `crystaljax export` writes "
            "them"
        )
    rows: list[dict[str, Any]] = []
    for cells in csv_rows.read_rows(path, header):
        if isinstance(cells, record.Failure):
            raise errors.UserError(
                f"{path} is damaged: {cells.detail} ({cells.reason})"
            )
        row = columns.rename_former(dict(zip(header, cells, strict=True)))
        if not row["problem"]:
            rows.append(
                row | {key: _parse_number(row.get(key)) for key in map(str, _NUMBERS)}
            )
    crystals: list[structure.Crystal] = []
    infos: list[dict[str, Any]] = []
    if (folder / CANDIDATES).is_file():
        crystals, infos = structure_files.read_extxyz(folder / CANDIDATES)
    # In the order of the rows; a file that somebody changed is of no use.
    written = [info.get("name") for info in infos]
    is_whole = written == [row["name"] for row in rows]
    return [
        Handed(row["folder"], row, crystals[i] if is_whole else None)
        for i, row in enumerate(rows)
    ]


def _parse_number(text: str | None) -> float | int | None:
    """A cell of a column of numbers; None where there is none."""
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    if not np.isfinite(value):
        return None
    return int(value) if value.is_integer() and "." not in (text or "") else value
