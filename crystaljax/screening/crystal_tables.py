"""CSV files with a column of crystals, whoever wrote them: one crystal a row.

Read are the layouts of CDVAE and DiffCSP (``cif``), of crystaljax and LeMat-GenBench
(``cif_string``), and ``structure``: a CIF, or pymatgen's Structure as JSON.
"""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from crystaljax.crystals import bridge, cif, structure
from crystaljax.data.readers import csv_rows, files
from crystaljax.data.sources import record
from crystaljax.system import errors

CRYSTAL_COLUMNS = ("cif", "cif_string", "structure")
NAME_COLUMNS = ("name", "material_id", "id")
# Ids such as 00042, 1_23 and 7e2 are no numbers.
_OF_NAMES = ("id", "name", "reference", "formula")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d*)?([eE][-+]?\d+)?")


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One row.

    Attributes:
        name: of the crystal; the number of the row where there is none.
        crystal: `structure.NO_CRYSTAL` where it cannot be read.
        cells: all other columns, as text, or as numbers where they are.
        problem: why it could not be read; "" if it was.
    """

    name: str
    crystal: structure.Crystal
    cells: dict[str, Any]
    problem: str


def is_table(path: pathlib.Path) -> bool:
    """Whether a file is CSV by its name, compressed or not."""
    suffixes = [each.lower() for each in path.suffixes]
    if suffixes and suffixes[-1] in files.COMPRESSED_SUFFIXES:
        suffixes.pop()
    return suffixes[-1:] == [".csv"]


def read_table(path: str | os.PathLike[str]) -> Iterator[Row]:
    """Yields a row for each of the file; a bad one costs itself.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no CSV, or has no column of crystals.
    """
    header = csv_rows.read_header(path)
    column = csv_rows.choose_column(path, header, CRYSTAL_COLUMNS, "crystals")
    rows = record.until_damaged(csv_rows.read_rows(path, header), path)
    for number, cells in enumerate(rows):
        if isinstance(cells, record.Failure):
            problem = " ".join((cells.detail or cells.reason).split())
            yield Row(f"row-{number}", structure.NO_CRYSTAL, {}, problem)
            continue
        table = dict(zip(header, cells, strict=True))
        text = table.pop(column)
        names = (table[name] for name in NAME_COLUMNS if table.get(name))
        try:
            crystal, problem = _parse(text), ""
        except Exception as error:
            # Parsers of others raise whatever a malformed cell leads to.
            crystal, problem = structure.NO_CRYSTAL, " ".join(str(error).split())
            problem = problem or type(error).__name__
        yield Row(
            next(names, f"row-{number}"),
            crystal,
            {name: _parse_cell(name, cell) for name, cell in table.items() if cell},
            problem,
        )


def _parse(text: str) -> structure.Crystal:
    if not text.strip():
        raise errors.UserError("the cell is empty")
    if text.lstrip().startswith("{"):
        from pymatgen.core import Structure

        return structure.wrapped(
            bridge.from_pymatgen(Structure.from_dict(json.loads(text)))
        )
    return cif.parse_cif(text)


def _parse_cell(column: str, cell: str) -> Any:
    """A number where the cell is one and the column is not one of names."""
    if column.endswith(_OF_NAMES) or not _NUMBER.fullmatch(cell):
        return cell
    return int(cell) if cell.lstrip("-").isdigit() else float(cell)
