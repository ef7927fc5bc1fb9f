"""A number with its definition: what is printed, and written as JSON."""

import dataclasses
import math
import textwrap
from collections.abc import Sequence
from typing import Any

from crystaljax.metrics import match_rates

_WIDTH = 100
_INDENT = " " * 44


@dataclasses.dataclass(frozen=True)
class Number:
    """One yardstick.

    Attributes:
        name: short, the same in every output.
        value: a share, or a mean distance; NaN where there is nothing to measure.
        definition: what was counted and among what, in words.
        tolerance: of the matcher, ltol/stol/angle_tol; "" where none is used.
        count: what was counted, of a share; None for others.
        out_of: among how many.
        standard_error: of a share; None for others.
    """

    name: str
    value: float
    definition: str
    tolerance: str = ""
    count: int | None = None
    out_of: int | None = None
    standard_error: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON values; NaN becomes None."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in dataclasses.asdict(self).items()
        }


def share(
    name: str, count: int, out_of: int, definition: str, tolerance: str = ""
) -> Number:
    """Number of a count among so many, with its standard error."""
    rate = match_rates.MatchRate(count, out_of, math.nan, math.nan)
    return Number(
        name,
        rate.rate,
        definition,
        tolerance,
        count,
        out_of,
        rate.standard_error,
    )


def format_numbers(values: Sequence[Number]) -> list[str]:
    """Lines to print: name, value and definition, by tolerance."""
    lines = []
    tolerance = ""
    for number in values:
        if number.tolerance != tolerance:
            tolerance = number.tolerance
            lines.append(f"at ltol/stol/angle_tol {tolerance} (StructureMatcher)")
        lines += _format_number(number)
    return lines


def _format_number(number: Number) -> list[str]:
    if math.isnan(number.value):
        value = "      -"
    elif number.out_of is None:
        value = f" {number.value:6.4f}"
    else:
        value = f"{number.value:7.2%} ± {number.standard_error:.2%}"
    definition = number.definition
    if number.out_of is not None:
        definition = f"{number.count:,} of {number.out_of:,}: {definition}"
    first = f"  {number.name:<26}{value}"
    first, *rest = textwrap.wrap(
        definition,
        _WIDTH,
        initial_indent=f"{first:<{len(_INDENT)}}  ",
        subsequent_indent=f"{_INDENT}  ",
    )
    return [first, *rest]
