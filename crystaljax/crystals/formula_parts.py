"""Formulas of several parts, such as hydrates, and what a dot in a formula means.

``CuSO4·5H2O`` is CuSO4 and five H2O. Typed, the dot is often a full stop, which is a
decimal point in ``Cu0.5Au0.5``: where both can be meant, the formula is refused.
"""

import re

from crystaljax.system import errors

_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SEPARATORS = re.compile("[·•∙⋅・*]")
_DOT = "·"
# Numbers that belong together or not: CuSO4 5H2O has no 45 oxygens.
_SPLIT_NUMBER = re.compile(r"[0-9]\s+[0-9]")
_WATER = re.compile(r"[(\[]?(H2O|D2O|OH2)[)\]]?[0-9]*")
_FACTOR = re.compile(r"[0-9]+(?:\.[0-9]+)?(?=[A-Z(\[{])")


def split_parts(formula: str, *, fractional: bool) -> list[tuple[str, str]]:
    """A formula → its parts, each with the text of the number before it ("" if none).

    Args:
        formula: as somebody wrote it.
        fractional: whether counts may be fractions; else a dot between digits that can
            only be a decimal point is left for whoever reads the counts to refuse.

    Raises:
        ValueError: it is not clear what a dot or a blank means, or a part is empty.
    """
    if _SPLIT_NUMBER.search(formula.translate(_SUBSCRIPTS).strip()):
        raise errors.UserError(
            f"formula {formula!r} has a blank between two digits; join them, or put a "
            "'·' between the parts, as in 'CuSO4·5H2O'"
        )
    text = "".join(formula.translate(_SUBSCRIPTS).split())
    text = _SEPARATORS.sub(_DOT, text)
    text = _mark_separators(text, formula, fractional)
    pieces = text.split(_DOT)
    if len(pieces) == 1:
        return [("", text)]
    parts = []
    for piece in pieces:
        factor = _FACTOR.match(piece)
        part = piece[factor.end() :] if factor else piece
        if not part:
            raise errors.UserError(
                f"formula {formula!r} has nothing between its parts, or at an end; "
                "write it like 'CuSO4·5H2O'"
            )
        parts.append((factor.group() if factor else "", part))
    return parts


def _mark_separators(text: str, formula: str, fractional: bool) -> str:
    """The text with ``·`` for each full stop that stands between parts."""
    kinds: dict[int, str] = {}
    unclear = []
    is_decimal = False
    for match in re.finditer(r"\.", text):
        position = match.start()
        kind = _kind_of_dot(text, position, kinds)
        if kind == "decimal point":
            is_decimal = True
        elif kind == "unclear":
            unclear.append(position)
        kinds[position] = kind
    if unclear and fractional and not is_decimal:
        first = unclear[0]
        raise errors.UserError(
            f"formula {formula!r}: the dot in {text[max(first - 3, 0) : first + 4]!r} "
            "can be a decimal point or stand between two parts; put a '·' between "
            "parts, and use whole numbers for fractions"
        )
    return "".join(
        _DOT if kinds.get(i) == "separator" else character
        for i, character in enumerate(text)
    )


def _kind_of_dot(text: str, position: int, before: dict[int, str]) -> str:
    """What a full stop is, where the formula around it says."""
    start = position
    while start > 0 and text[start - 1].isdecimal():
        start -= 1
    end = position + 1
    while end < len(text) and text[end].isdecimal():
        end += 1
    number, fraction = text[start:position], text[position + 1 : end]
    follows = text[end : end + 1]
    if not fraction:
        # Cu2. is a count without its fraction; .H2O is water.
        return "separator" if follows else "decimal point"
    # A number at the beginning of a part says how often the part is there.
    is_factor = start == 0 or text[start - 1] == _DOT
    is_factor = is_factor or before.get(start - 1) == "separator"
    if number and is_factor:
        return "decimal point"
    if number and follows == "." and text[end + 1 : end + 2].isdecimal():
        # CaSO4.0.5H2O.
        return "separator"
    if number == "0":
        return "decimal point"
    rest = re.split(r"[·.]", text[end:])[0]
    if _WATER.fullmatch(rest):
        return "separator"
    if number and (not rest or rest[0] in ")]}" or fraction[0] == "0"):
        return "decimal point"
    if number and len(fraction) > 2:
        return "decimal point"
    return "unclear"
