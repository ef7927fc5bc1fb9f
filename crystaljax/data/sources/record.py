"""What every source yields: one crystal with its labels, or the reason for none."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from crystaljax.crystals import refusals, structure
from crystaljax.system import errors, numbers

Row = TypeVar("Row")

_MAX_ENERGY = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """One crystal as a source has it, before it is brought into canonical form.

    Attributes:
        id: the source's name for it, unique within the source.
        crystal: any cell, orientation and site order.
        space_group: 1-230, or None where the source does not say.
        formation_energy: eV/atom, or None where the source does not say.
        level: how the energy was computed, as far as the row says; see
            `levels_of_theory.read`.
    """

    id: str
    crystal: structure.Crystal
    space_group: int | None
    formation_energy: float | None
    level: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Failure:
    """A row that gave no crystal.

    Attributes:
        id: the source's name for the row.
        reason: a few words without values of the row, so that reasons can be counted.
        detail: the full message.
        is_rule: the row is good but left out on purpose, by a rule of the source; it is
            reported among what rules dropped and not among what failed.
    """

    id: str
    reason: str
    detail: str = ""
    is_rule: bool = False


@runtime_checkable
class Source(Protocol):
    """Where records come from: one file or one service, one module per kind.

    Rows are read one after the other by the parent process, which should be cheap;
    worker processes parse them, so a source and its rows must be picklable.
    """

    def read_rows(self) -> Iterator[Any]:
        """Yields one item per structure.

        Raises:
            FileNotFoundError: the input is not there.
            ValueError: the input is not of this kind: a column is missing, it ends
                early. One bad row is no reason to raise.
        """
        ...

    def parse_row(self, row: Any) -> Record | Failure:
        """One item of `read_rows` → the record, or why there is none."""
        ...

    def describe(self) -> dict[str, Any]:
        """Where the data come from, as JSON values: kept as provenance."""
        ...


def as_it_is(row: Record | Failure) -> Record | Failure:
    """`Source.parse_row` of a source whose rows are records.

    A function, so that what makes the records is not sent to the workers.
    """
    return row


# Reasons of failures that stand for a file, or for more than one row of it.
DAMAGED = "file ends early or is damaged"
NOT_READABLE = "file not readable"
NOT_CLOSED = "row with a quoted cell that is not closed"
CUT = "last row ends within a number"
_OF_ROWS = (NOT_CLOSED, CUT)
DAMAGE = (DAMAGED, NOT_READABLE, *_OF_ROWS, *(f"labels: {each}" for each in _OF_ROWS))


def until_damaged(
    rows: Iterable[Row], name: str | os.PathLike[str]
) -> Iterator[Row | Failure]:
    """Rows of a file; where it ends early after some of them, that is one failure.

    Args:
        rows: raise ValueError where the file cannot be read on.
        name: of the file.

    Raises:
        ValueError: none of it can be read, or compressed data contradict themselves, so
            that the rest may be wrong too.
    """
    num_rows = 0
    try:
        for row in rows:
            yield row
            num_rows += 1
    except ValueError as error:
        if num_rows == 0 or not getattr(error, "is_cut", True):
            raise
        detail = f"{error}; what comes after row {num_rows} is missing"
        yield Failure(os.fspath(name), DAMAGED, detail)


def build_record(
    id: str,
    parse_crystal: Callable[[], structure.Crystal],
    space_group: object,
    formation_energy: object,
    level: Mapping[str, str] | None = None,
) -> Record | Failure:
    """Labels as a file has them and a way to get the crystal → record or failure.

    Args:
        id: the source's name for the structure.
        parse_crystal: called last; ValueError from it becomes a failure.
        space_group: number or text; None where the source does not say.
        formation_energy: number or text, eV/atom; None where the source does not say.
        level: how the energy was computed; see `Record`.
    """
    try:
        energy = None if formation_energy is None else parse_energy(formation_energy)
    except ValueError as error:
        return Failure(id, "formation energy missing or not a number", str(error))
    try:
        number = None if space_group is None else parse_space_group(space_group)
    except ValueError as error:
        return Failure(id, "space group missing or not in 1-230", str(error))
    try:
        crystal = structure.wrapped(parse_crystal())
        return Record(id, crystal, number, energy, level or {})
    except ValueError as error:
        reason = getattr(error, "reason", refusals.UNREADABLE)
        return Failure(id, reason, str(error))


def parse_energy(text: object) -> float:
    """Text → energy, eV/atom.

    Raises:
        ValueError: it is not a number, or not one that a data set can hold (float32).
    """
    value = numbers.parse_finite(text)
    if not abs(value) <= _MAX_ENERGY:
        raise errors.UserError(f"formation energy {text!r}; expected a finite number")
    return value


def parse_space_group(text: object) -> int:
    """Text → space-group number; ``225.0``, as pandas writes it, is 225.

    Raises:
        ValueError: it is not an integer from 1 to 230.
    """
    value = numbers.parse_finite(text)
    if not (value.is_integer() and 1 <= value <= 230):
        raise errors.UserError(f"space group {text!r}; expected a number from 1 to 230")
    return int(value)
