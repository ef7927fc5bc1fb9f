"""Labels that lie beside structures: a CSV joined by id, or keys of an entry."""

import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from crystaljax.data.readers import csv_rows
from crystaljax.data.sources import levels_of_theory, record
from crystaljax.system import errors

NO_LABEL = "no label for this id"


class Label(NamedTuple):
    """Labels of one structure, as text; `record.build_record` takes them.

    Attributes:
        formation_energy: eV/atom.
        space_group: number; None where the table has none.
        level: how the energy was computed, as far as the table says: names of columns
            and cells.
    """

    formation_energy: str
    space_group: str | None
    level: tuple[tuple[str, str], ...] = ()


def read_labels(
    path: str | os.PathLike[str],
    id_column: str,
    energy_column: str,
    space_group_column: str | None = None,
    failures: list[record.Failure] | None = None,
) -> dict[str, Label]:
    """Reads a CSV of labels, plain or compressed.

    Args:
        path: the file.
        id_column: names of the structures, as text.
        energy_column: formation energy, eV/atom.
        space_group_column: number; None where there is none.
        failures: rows that are no whole rows are added to it.

    Returns:
        The labels by id. Rows with missing or superfluous cells are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, the file is damaged, or an id has two
            different labels.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"no file {path}; check the path of the labels")
    columns = [id_column, energy_column]
    if space_group_column is not None:
        columns.append(space_group_column)
    found: dict[str, Label] = {}
    said = levels_of_theory.find_columns(csv_rows.read_header(path))
    num_columns = len(columns)
    for cells in csv_rows.read_rows(path, [*columns, *said]):
        if isinstance(cells, record.Failure):
            if failures is not None:
                failures.append(cells)
            continue
        id, energy, *rest = cells[:num_columns]
        level = tuple(zip(said, cells[num_columns:], strict=True))
        label = Label(energy, rest[0] if rest else None, level)
        first = found.setdefault(id, label)
        if first[:2] != label[:2]:
            raise errors.UserError(
                f"{path} has the id {id!r} twice, with {first[:2]} and {label[:2]}; "
                f"expected one row per id in the column {id_column!r}"
            )
    return found


def read_beside(
    path: str | None,
    id_column: str,
    energy_column: str,
    space_group_column: str | None,
) -> tuple[dict[str, Label] | None, list[record.Failure]]:
    """Labels that may lie beside a source, as `read_labels`; None where there are none.

    Rows of the table that cannot be used come as rows of what it belongs to.
    """
    if path is None:
        return None, []
    failures: list[record.Failure] = []
    table = read_labels(path, id_column, energy_column, space_group_column, failures)
    name = pathlib.Path(path).name
    return table, [
        record.Failure(f"{name}, {each.id}", f"labels: {each.reason}", each.detail)
        for each in failures
    ]


def find_value(mappings: Iterable[Mapping[str, Any]], key: str) -> Any:
    """The value of a key in the first of the mappings that has one, or None.

    ``symmetry.number`` is the key ``number`` in the mapping ``symmetry``, unless there
    is a key with the dot in it. A list or mapping is no value of a label, and comes
    back as a text that says so.
    """
    for mapping in mappings:
        value: Any = mapping.get(key)
        if value is None and "." in key:
            value = mapping
            for part in key.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, bool) or not isinstance(value, str | int | float | None):
            return f"a {type(value).__name__}"
        if value is not None:
            return value
    return None
