"""Rows of a CSV file, plain or compressed, one after the other."""

import csv
import os
from collections.abc import Iterator, Sequence

from crystaljax.data.readers import files
from crystaljax.system import errors

# A cell holds a whole CIF; Python's own limit is 128 KiB.
_MAX_CELL_CHARACTERS = 2**24


def require_columns(path: str | os.PathLike, columns: Sequence[str]) -> None:
    """Raises unless the file is there and has the columns.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing; the message lists those present.
    """
    header = read_header(path)
    missing = [name for name in columns if name not in header]
    if missing:
        raise errors.UserError(
            f"{path} has no column {', '.join(map(repr, missing))}; its columns are: "
            f"{', '.join(header)}"
        )


def read_header(path: str | os.PathLike) -> list[str]:
    """Column names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty or not text.
    """
    return next(_read_lines(path))


def read_rows(
    path: str | os.PathLike, columns: Sequence[str]
) -> Iterator[tuple[str | None, ...]]:
    """Yields the cells of the columns; None for all of them where a row is too short.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, or the file ends early or is not text.
    """
    require_columns(path, columns)
    lines = _read_lines(path)
    header = next(lines)
    positions = [header.index(name) for name in columns]
    for cells in lines:
        if len(cells) == len(header):
            yield tuple(cells[position] for position in positions)
        elif cells:
            yield (None,) * len(positions)


def _read_lines(path: str | os.PathLike) -> Iterator[list[str]]:
    csv.field_size_limit(_MAX_CELL_CHARACTERS)
    num_rows = 0
    try:
        with files.open_text(path, newline="") as file:
            for cells in csv.reader(file):
                if num_rows == 0 and any("\0" in cell for cell in cells):
                    raise csv.Error("it has null characters")
                yield cells
                num_rows += 1
    except files.DamagedError as error:
        raise errors.UserError(f"{error} ({num_rows} rows read)") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise errors.UserError(
            f"{path} is not CSV after row {num_rows}: {error}"
        ) from error
    if num_rows == 0:
        raise errors.UserError(f"{path} is empty; expected CSV with a header")
