"""Splits that are given by lists of ids, as published ones are.

A list is a text file with one id a line, or a CSV with a column ``material_id``, ``id``
or ``name``: the published ``train.csv``, ``val.csv`` and ``test.csv`` of MP-20, perov-5
and carbon-24 are such files. One CSV with a column ``split`` besides, or a JSON file
with a list of ids for each side, says all sides at once.
"""

import collections
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from crystaljax.data import dataset as datasets
from crystaljax.data.readers import csv_rows, files
from crystaljax.data.sources import record
from crystaljax.system import errors

_ID_COLUMNS = ("material_id", "id", "name")
_SPLIT_COLUMN = "split"
# Of ids that are named in messages and reports.
_NUM_EXAMPLES = 5


def read_lists(entries: Sequence[str]) -> dict[str, int]:
    """Side of each id, an index into ``dataset.SPLITS``.

    Args:
        entries: ``SIDE=FILE``, such as ``test=test.csv``, for each side; or one
            ``FILE`` that says all sides.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an unknown side, a file without ids, a row that cannot be read, or
            an id on two sides.
    """
    sides: dict[str, int] = {}
    for entry in entries:
        side, _, path = entry.rpartition("=")
        num_before = len(sides)
        for identifier, name in _read_entry(side, path):
            if name not in datasets.SPLITS:
                raise errors.UserError(
                    f"{entry}: unknown side {name!r}; expected one of "
                    f"{', '.join(datasets.SPLITS)}"
                )
            code = datasets.SPLITS.index(name)
            if sides.setdefault(identifier, code) != code:
                raise errors.UserError(
                    f"{entry}: the structure {identifier!r} is on two sides, "
                    f"{datasets.SPLITS[sides[identifier]]} and {name}"
                )
        if len(sides) == num_before:
            raise errors.UserError(f"{entry} has no ids that others have not")
    return sides


def assign(
    ids: Sequence[str], sides: Mapping[str, int]
) -> tuple[Int[np.ndarray, " structures"], dict[str, Any]]:
    """Side of each structure, and what the lists name that is not there.

    Args:
        ids: of the structures.
        sides: from `read_lists`.

    Returns:
        Index into ``dataset.SPLITS``, -1 for a structure in no list; and by side how
        many ids are ``listed`` and ``found``, with ``examples`` of those that are not.
    """
    split = np.array([sides.get(each, -1) for each in ids], dtype=int)
    there = set(ids)
    listed = collections.Counter(sides.values())
    missing: dict[int, list[str]] = collections.defaultdict(list)
    for identifier, code in sides.items():
        if identifier not in there:
            missing[code].append(identifier)
    return split, {
        name: {
            "listed": listed[code],
            "found": listed[code] - len(missing[code]),
            "examples": missing[code][:_NUM_EXAMPLES],
        }
        for code, name in enumerate(datasets.SPLITS)
    }


def count_shared(
    reduced_formulas: Sequence[str], split: Int[np.ndarray, " structures"]
) -> int:
    """Reduced formulas that are on more than one side."""
    sides: dict[str, set[int]] = collections.defaultdict(set)
    for formula, code in zip(reduced_formulas, split.tolist(), strict=True):
        sides[formula].add(code)
    return sum(len(each) > 1 for each in sides.values())


def _read_entry(side: str, path: str) -> Iterator[tuple[str, str]]:
    """Yields ids and the names of their sides."""
    suffixes = pathlib.Path(path).suffixes
    if suffixes and suffixes[-1] in files.COMPRESSED_SUFFIXES:
        suffixes.pop()
    if suffixes[-1:] == [".csv"]:
        yield from _read_csv(side, path)
        return
    with files.open_text(path) as file:
        text = file.read()
    if suffixes[-1:] == [".json"]:
        yield from _read_json(side, path, text)
        return
    _require_side(side, path)
    yield from ((line.strip(), side) for line in text.splitlines() if line.strip())


def _read_csv(side: str, path: str) -> Iterator[tuple[str, str]]:
    header = csv_rows.read_header(path)
    column = csv_rows.choose_column(path, header, _ID_COLUMNS, "ids")
    columns = [column]
    if not side:
        if _SPLIT_COLUMN not in header:
            _require_side(side, path)
        columns.append(_SPLIT_COLUMN)
    for cells in csv_rows.read_rows(path, columns):
        if isinstance(cells, record.Failure):
            raise errors.UserError(
                f"{path}: {cells.detail or cells.reason}; a split with ids missing is "
                "another one"
            )
        yield cells[0], side or cells[1]


def _read_json(side: str, path: str, text: str) -> Iterator[tuple[str, str]]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise errors.UserError(f"{path} is not JSON: {error}") from error
    if isinstance(content, list):
        _require_side(side, path)
        content = {side: content}
    if not isinstance(content, dict) or not all(
        isinstance(each, list) for each in content.values()
    ):
        raise errors.UserError(
            f"{path}: expected a list of ids, or an object with a list for each side"
        )
    for name, ids in content.items():
        yield from ((str(each), name) for each in ids)


def _require_side(side: str, path: str | os.PathLike[str]) -> None:
    if not side:
        raise errors.UserError(
            f"{path} does not say which side its ids are on; give SIDE={path}, such as "
            f"test={path}"
        )
