"""Rows of a CSV file, plain or compressed, one after the other."""

import csv
import os
from collections.abc import Iterable, Iterator, Sequence

from crystaljax.data.readers import files
from crystaljax.data.sources import record
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
    header = next(_read_lines(path))
    assert not isinstance(header, record.Failure)
    return header


def read_rows(
    path: str | os.PathLike, columns: Sequence[str]
) -> Iterator[tuple[str, ...] | record.Failure]:
    """Yields the cells of the columns; a failure for a row that is no whole row.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, or the file ends early or is not text.
    """
    require_columns(path, columns)
    lines = _read_lines(path)
    header = next(lines)
    assert not isinstance(header, record.Failure)
    positions = [header.index(name) for name in columns]
    for number, cells in enumerate(lines, start=1):
        if isinstance(cells, record.Failure):
            yield cells
        elif len(cells) == len(header):
            yield tuple(cells[position] for position in positions)
        elif cells:
            yield record.Failure(
                f"row {number}",
                "row with missing or superfluous cells",
                f"{path}, row {number}: {len(cells)} cells; expected {len(header)}",
            )


def _read_lines(
    path: str | os.PathLike,
) -> Iterator[list[str] | record.Failure]:
    csv.field_size_limit(_MAX_CELL_CHARACTERS)
    num_rows = 0
    try:
        with files.open_text(path, newline="") as file:
            for cells in _parse_lines(file):
                if isinstance(cells, str):
                    if num_rows == 0:
                        raise errors.UserError(f"{path}: the header is cut off")
                    cells = record.Failure(
                        f"row {num_rows}",
                        record.NOT_CLOSED,
                        f"{path}, row {num_rows}: {cells}",
                    )
                elif num_rows == 0 and any("\0" in cell for cell in cells):
                    raise csv.Error("it has null characters")
                yield cells
                num_rows += 1
    except files.DamagedError as error:
        raise files.DamagedError(
            f"{error} ({num_rows} rows read)", is_cut=error.is_cut
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise errors.UserError(
            f"{path} is not CSV after row {num_rows}: {error}"
        ) from error
    if num_rows == 0:
        raise errors.UserError(f"{path} is empty; expected CSV with a header")


def _parse_lines(lines: Iterable[str]) -> Iterator[list[str] | str]:
    """Yields the cells of each row, or what is wrong with a row that is cut off.

    A quoted cell that is not closed goes on to the next quote in the file, or to its
    end. Where that quote opens a cell of a later row, that row is read for itself.
    """
    source = iter(lines)
    again: list[str] = []
    taken: list[str] = []

    def take() -> Iterator[str]:
        while True:
            line = again.pop() if again else next(source, None)
            if line is None:
                return
            taken.append(line)
            yield line

    reader = csv.reader(take(), strict=True)
    while True:
        taken.clear()
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "field limit" in str(error):
                raise
            if "end of data" in str(error):
                yield f"{taken[0].strip()[:60]!r} … is never closed by a quote"
                return
            if len(taken) > 1:
                again.append(taken[-1])
                yield f"{taken[0].strip()[:60]!r} … is cut off"
            else:
                # Blanks behind a quote and the like, within one line.
                yield next(csv.reader(taken))
