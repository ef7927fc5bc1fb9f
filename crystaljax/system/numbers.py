"""Numbers as text, from files and flags.

Python's ``float`` takes more than files mean: ``1_23`` is 123 to it, ``infinity`` and
digits of other scripts are numbers, and True is 1.
"""

import math
import re

from crystaljax.system import errors

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


def parse_finite(value: object) -> float:
    """A number, or the text of one → float.

    Raises:
        ValueError: it is not a decimal number, or not a finite one.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value) if abs(value) < 2**1000 else math.inf
    elif _NUMBER.fullmatch(text := str(value).strip()):
        number = float(text)
    else:
        raise errors.UserError(f"{str(value)[:80]!r} is not a number")
    if not math.isfinite(number):
        raise errors.UserError(f"{str(value)[:80]!r}; expected a finite number")
    return number
