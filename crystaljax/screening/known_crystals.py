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
from crystaljax.hull import compositions
from crystaljax.screening import inputs as screening_inputs
from crystaljax.system import errors


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
