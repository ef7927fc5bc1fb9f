"""Known crystals from whatever holds them, for hulls and to recognise what is known."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from crystaljax.crystals import structure
from crystaljax.data import dataset as datasets
from crystaljax.data.readers import csv_rows, files, json_items
from crystaljax.data.sources import cif_csv, entries_json, record
from crystaljax.hull import compositions, convex_hull
from crystaljax.screening import inputs as screening_inputs
from crystaljax.system import errors
from crystaljax.training import runs


@dataclasses.dataclass(frozen=True, eq=False)
class KnownCrystals:
    """Crystals of some chemical systems.

    Attributes:
        ids: of the crystals.
        crystals: as their source has them.
        problems: what could not be read, a line each.
    """

    ids: list[str]
    crystals: list[structure.Crystal]
    problems: list[str]


def read(path: str | os.PathLike[str], systems: set[frozenset[str]]) -> KnownCrystals:
    """Reads the known crystals of chemical systems.

    Args:
        path: a data set of `crystaljax prepare`; CSV with a column ``cif``; entries or
            structures of pymatgen in JSON; crystals (extxyz, CIF, POSCAR), or a folder
            or archive of those.
        systems: sets of symbols; crystals with any other element are left out.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        ValueError: it holds no crystals at all, or is none of these.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"no known crystals at {path}; expected a data set, a CSV with CIFs, "
            "entries in JSON, crystals, or a folder of them"
        )
    ids, crystals, problems = [], [], []
    num_read = 0
    for known_id, crystal in _read_all(path, systems):
        num_read += 1
        if isinstance(crystal, str):
            problems.append(f"{known_id}: {crystal}")
        elif compositions.is_within(
            compositions.symbols_of(np.asarray(crystal.atomic_numbers)), systems
        ):
            ids.append(known_id)
            crystals.append(crystal)
    if not num_read:
        raise errors.UserError(f"{path} holds no crystals")
    return KnownCrystals(ids, crystals, problems)


def _read_all(
    path: pathlib.Path, systems: set[frozenset[str]]
) -> Iterator[tuple[str, structure.Crystal | str]]:
    """Ids with crystals, or with what is wrong with them."""
    suffix = files.suffix_without_compression(str(path))
    if path.is_dir() and (path / "dataset.json").exists():
        dataset = datasets.open_dataset(path)
        for i, formula in enumerate(dataset.formula.to_pylist()):
            # Most of many are of other elements.
            if compositions.is_within(compositions.symbols_of(formula), systems):
                yield dataset.id[i].as_py(), datasets.crystal(dataset, i)
    elif suffix == ".csv":
        if "cif" not in csv_rows.read_header(str(path)):
            raise errors.UserError(
                f"{path} has no column 'cif'; expected a CSV with crystals as CIF"
            )
        yield from _parse(cif_csv.CifCsv(str(path)), systems, _may_hold_cif)
    elif suffix in json_items.SUFFIXES:
        source = entries_json.EntriesJson(
            str(path), energy_key=None, space_group_key=""
        )
        yield from _parse(source, systems, lambda row, systems: True)
    else:
        found = screening_inputs.read_candidates(path)
        for name, crystal, problem in zip(
            found.names, found.crystals, found.problems, strict=True
        ):
            yield name, problem or crystal


def _parse(
    source: record.Source,
    systems: set[frozenset[str]],
    may_hold: Callable[[Any, set[frozenset[str]]], bool],
) -> Iterator[tuple[str, structure.Crystal | str]]:
    for row in source.read_rows():
        if not isinstance(row, record.Failure) and not may_hold(row, systems):
            continue
        parsed = source.parse_row(row)
        if isinstance(parsed, record.Failure):
            yield parsed.id, parsed.detail or parsed.reason
        else:
            yield parsed.id, parsed.crystal


def _may_hold_cif(row: tuple[int, dict[str, str]], systems: set[frozenset[str]]):
    """Whether a CIF can be of these systems, by its sum of atoms: far faster to see."""
    marker = "_chemical_formula_sum"
    _, found, rest = row[1]["cif"].partition(marker)
    if not found:
        return True
    symbols = compositions.symbols_of(rest.partition("\n")[0])
    return not symbols or compositions.is_within(symbols, systems)


def as_known(
    ids: Sequence[str],
    crystals: Sequence[structure.Crystal | None],
    candidates: Sequence[structure.Crystal],
) -> list[tuple[str, structure.Crystal]]:
    """Ids and crystals of those with the composition of a candidate."""
    wanted = {_reduced(each) for each in candidates if screening_inputs.formula(each)}
    return [
        (known_id, crystal)
        for known_id, crystal in zip(ids, crystals, strict=True)
        if crystal is not None and _reduced(crystal) in wanted
    ]


def _reduced(crystal: structure.Crystal) -> tuple[tuple[int, int], ...]:
    numbers = np.asarray(crystal.atomic_numbers, dtype=int)
    found, counts = np.unique(numbers, return_counts=True)
    divisor = np.gcd.reduce(counts)
    return tuple(zip(found.tolist(), (counts // divisor).tolist(), strict=True))


def choose_path(
    asked: str | None, rows: screening_inputs.Candidates, hull: str
) -> str | None:
    """Known crystals besides those of the hull: as asked, or of the samples' run.

    Args:
        asked: by the user; "none" for none, None where nothing is said.
        rows: the candidates, with the run that made them.
        hull: as it was requested.
    """
    if asked is not None:
        return None if asked == "none" else asked
    path = _find_dataset(rows)
    # The hull has them too.
    return None if hull == f"dataset:{path}" else path


def _find_dataset(rows: screening_inputs.Candidates) -> str | None:
    """Data set of the one run that made these samples; None if it is not here."""
    workdirs = {str(each) for each in rows.columns.get("workdir", ()) if each}
    if len(workdirs) != 1:
        return None
    workdir = pathlib.Path(workdirs.pop())
    path = None
    if runs.is_run(workdir):
        path = runs.load_vocabulary(workdir).get("dataset")
    return path if path is not None and pathlib.Path(path).exists() else None


def describe_places(path: str | None, known_hull: convex_hull.Hull | None) -> str:
    """Where known crystals are from, in words; "none" for nowhere.

    Args:
        path: of `choose_path`.
        known_hull: whose crystals count as known too; None for none.
    """
    places = [path] if path else []
    if known_hull is not None and any(
        each.crystal is not None for each in known_hull.entries
    ):
        places.append("those of the hull")
    return " and ".join(places) or "none"
