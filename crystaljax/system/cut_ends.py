"""Does a text end within its last number or word? Its like tell.

Many formats have no mark of their end: a CSV, an extended XYZ, a POSCAR or a CIF whose
last line is not ended may be whole, as some editors leave it, or be cut off where 0.33
is left of 0.33333333. Numbers that a program wrote have as many digits as their like.
"""

import re
from collections.abc import Iterable

HINT = "end its last line if the file is whole"
_NUMBER = re.compile(
    r"[+-]?(?P<whole>\d*)(?P<point>\.?)(?P<decimals>\d*)"
    r"(?P<exponent>[eEdD][+-]?\d+)?(\(\d+\))?"
)
# So few numbers may have as many digits by chance, if these are few.
_FEW, _FEW_DECIMALS = 6, 3
# Of numbers that are written with as many digits as they need, the last is that much
# shorter than all others once in a thousand times.
_MISSING_DECIMALS = 3


def is_ended(text: str) -> bool:
    """Whether the last line is ended, so that nothing of it is missing."""
    return not text or text[-1] in "\r\n"


def is_number(text: str) -> bool:
    """Whether it is written as a number, or as the beginning of one."""
    return bool(_NUMBER.fullmatch(text))


def is_cut(last: str, others: Iterable[str]) -> bool:
    """Whether the last word of a text that is not ended seems to be cut off.

    Args:
        last: a number or a word.
        others: those before it that are of the same kind: a column's, coordinates.
    """
    others = [each for each in others if each]
    match = _NUMBER.fullmatch(last)
    if match is None:
        # "C" where others are "Cl", and none is "C".
        return last not in others and any(each.startswith(last) for each in others)
    found = [each for each in map(_NUMBER.fullmatch, others) if each]
    if len(found) < 2:
        return False
    if all(each["exponent"] for each in found):
        lengths = {len(each["exponent"]) for each in found}
        if len(match["exponent"] or "") < min(lengths):
            return True
    if match["point"] and not match["decimals"]:
        return all(each["decimals"] for each in found)
    if match["exponent"]:
        return False
    decimals = {len(each["decimals"]) for each in found}
    length = len(match["decimals"])
    is_uniform = len(decimals) == 1
    if is_uniform and (len(found) >= _FEW or min(decimals) >= _FEW_DECIMALS):
        return length < min(decimals)
    return length <= min(decimals) - _MISSING_DECIMALS
