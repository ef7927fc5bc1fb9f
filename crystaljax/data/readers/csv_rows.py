"""Rows of a CSV file, plain or compressed, one after the other."""

import collections
import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from crystaljax.data.readers import files
from crystaljax.data.sources import record
from crystaljax.system import cut_ends, errors

# A cell holds a whole CIF; Python's own limit is 128 KiB.
_MAX_CELL_CHARACTERS = 2**24
# With whose last cells that of the last row is compared.
_NUM_ROWS_ALIKE = 100


class _Problem(NamedTuple):
    """Why a row is none."""

    reason: str
    detail: str


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


def choose_column(
    path: str | os.PathLike, header: Sequence[str], names: Sequence[str], content: str
) -> str:
    """The first of some names that a header has.

    Args:
        path: of the file, for the message.
        header: its columns.
        names: that the column may have.
        content: what it holds, for the message.

    Raises:
        UserError: it has none of them; the message lists those present.
    """
    column = next((name for name in names if name in header), None)
    if column is None:
        raise errors.UserError(
            f"{path} has no column of {content}; expected {', '.join(names)} among: "
            f"{', '.join(header)}"
        )
    return column


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
                if isinstance(cells, _Problem):
                    if num_rows == 0:
                        raise errors.UserError(f"{path}: the header is cut off")
                    cells = record.Failure(
                        f"row {num_rows}",
                        cells.reason,
                        f"{path}, row {num_rows}: {cells.detail}",
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


def _parse_lines(lines: Iterable[str]) -> Iterator[list[str] | _Problem]:
    """Yields the cells of each row, or what is wrong with a row that is cut off.

    A quoted cell that is not closed goes on to the next quote in the file, or to its
    end. Where that quote opens a cell of a later row, that row is read for itself.
    """
    source = iter(lines)
    again: list[str] = []
    taken: list[str] = []
    ends: collections.deque[str] = collections.deque(maxlen=_NUM_ROWS_ALIKE)

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
            cells = next(reader)
            if not cut_ends.is_ended(taken[-1]) and _is_cut(taken[-1], cells, ends):
                detail = f"{cells[-1][:60]!r} at its end is shorter than its like"
                yield _Problem(record.CUT, f"{detail}; {cut_ends.HINT}")
                return
            ends.extend(cells[-1:])
            yield cells
        except StopIteration:
            return
        except csv.Error as error:
            if "field limit" in str(error):
                raise
            if "end of data" in str(error):
                detail = f"{taken[0].strip()[:60]!r} … is never closed by a quote"
                yield _Problem(record.NOT_CLOSED, detail)
                return
            if len(taken) > 1:
                again.append(taken[-1])
                detail = f"{taken[0].strip()[:60]!r} … is cut off"
                yield _Problem(record.NOT_CLOSED, detail)
            else:
                # Blanks behind a quote and the like, within one line.
                yield next(csv.reader(taken))


def _is_cut(line: str, cells: list[str], ends: Iterable[str]) -> bool:
    """Whether the last line of a file ends within the number in its last cell."""
    if not cells or line.rstrip().endswith('"'):
        return False
    last = cells[-1].strip()
    # Names may be of any length.
    return cut_ends.is_number(last) and cut_ends.is_cut(last, ends)
