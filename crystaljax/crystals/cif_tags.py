"""CIF text → the values of the one block with a crystal, by tag.

gemmi splits the text by the grammar of CIF; this says what a tag, a missing value and
a number are. Tags of all dictionaries are brought into one form, that of CIF 1.1 in
lower case: ``_atom_site.fract_x`` is ``_atom_site_fract_x``.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from gemmi import cif

from crystaljax.crystals import refusals

FRACT_X = "_atom_site_fract_x"
_UNKNOWN = ("?", ".", "")
# Tags that occur twice are handled here.
_NO_CHECKS = 0
_CRYSTAL_TAGS = (
    "_atom_site_",
    "_cell_",
    "_chemical_formula_",
    "_space_group_",
    "_symmetry_",
)
_QUOTES = frozenset("'\";")
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][+-]?\d+)?)(?:\(\d+\))?")
_FRACTION = re.compile(r"([+-]?\d+)/(\d+)")
# Columns of plain decimals, nearly all there are, can be left to float().
_DECIMALS = re.compile(r"[0-9.+\- ]*")
# A value with blanks but without quotes, as some programs write names of space groups.
_UNQUOTED = re.compile(
    r"""^([ \t]*_\S+[ \t]+)(?!['";#])(\S+[ \t]+[^\s#].*?)[ \t]*$""", re.MULTILINE
)
# Outside quotes gemmi takes characters of ASCII alone; what matters keeps its meaning.
_TO_ASCII = {
    ord("\N{NO-BREAK SPACE}"): " ",
    ord("\N{MINUS SIGN}"): "-",
    ord("\N{EN DASH}"): "-",
    ord("\N{MIDDLE DOT}"): ".",
    ord("\N{BULLET}"): ".",
    ord("\N{DOT OPERATOR}"): ".",
    ord("\N{RIGHT SINGLE QUOTATION MARK}"): "'",
    ord("\N{LEFT SINGLE QUOTATION MARK}"): "'",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """Values of a data block.

    Attributes:
        columns: raw values by tag; one value for a tag outside loops.
    """

    columns: Mapping[str, list[str]]

    def texts(self, *tags: str) -> list[str] | None:
        """Column of the first of the tags that is there, quotes removed."""
        for tag in tags:
            column = self.columns.get(tag)
            if column is not None:
                is_plain = _QUOTES.isdisjoint("".join(column))
                return column if is_plain else [_unquote(each) for each in column]
        return None

    def values(self, *tags: str) -> list[tuple[str, str]]:
        """Tag and text of the known tags outside loops."""
        found = []
        for tag in tags:
            column = self.columns.get(tag)
            if column is not None and len(column) == 1:
                text = _unquote(column[0]).strip()
                if text not in _UNKNOWN:
                    found.append((tag, text))
        return found

    def number(self, tag: str) -> float | None:
        """Number of a tag outside loops; None where it is missing or unknown.

        Raises:
            RefusedError: it is no number.
        """
        for _, text in self.values(tag):
            return parse_number(text, tag)
        return None


def read_block(text: str) -> Block:
    """The block that holds a crystal.

    Raises:
        RefusedError: the text is no CIF, or the number of crystals in it is not one.
    """
    blocks = [_columns(each) for each in _tokenize(text)]
    crystals = [each for each in blocks if FRACT_X in each]
    if len(crystals) == 1:
        return Block(crystals[0])
    if crystals:
        raise refusals.RefusedError(
            f"not readable as CIF: {len(crystals)} crystals in one file; write a file "
            "for each"
        )
    what = "it has no atoms with fractional coordinates" if blocks else "it is empty"
    raise refusals.RefusedError(f"not readable as CIF: {what}")


def _tokenize(text: str) -> cif.Document:
    if not text.isascii():
        text = text.translate(_TO_ASCII).encode("ascii", "replace").decode("ascii")
    try:
        return cif.read_string(text, check_level=_NO_CHECKS)
    except (ValueError, RuntimeError) as error:
        quoted = _UNQUOTED.sub(r'\1"\2"', text)
        if quoted != text:
            try:
                return cif.read_string(quoted, check_level=_NO_CHECKS)
            except (ValueError, RuntimeError):
                pass
        message = " ".join(str(error).split()).removeprefix("string:")
        raise refusals.RefusedError(f"not readable as CIF: line {message}") from error


def _columns(block: cif.Block) -> dict[str, list[str]]:
    """Raw values by tag.

    Raises:
        RefusedError: a tag that says something of the crystal has two values.
    """
    columns: dict[str, list[str]] = {}
    for item in block:
        pair: Any = item.pair
        if pair is not None:
            tag, value = pair
            _add(columns, tag, [value])
            continue
        loop = item.loop
        if loop is not None:
            values, width = loop.values, loop.width()
            for index, tag in enumerate(loop.tags):
                _add(columns, tag, values[index::width])
    return columns


def _add(columns: dict[str, list[str]], tag: str, column: list[str]) -> None:
    name = _normalize(tag)
    before = columns.setdefault(name, column)
    if before is column:
        return
    # Some data bases write a tag a second time, and leave it empty.
    known = [" ".join(map(_unquote, each)).split() for each in (before, column)]
    if known[0] in ([], ["?"], ["."]):
        columns[name] = column
    elif (
        known[1] not in ([], ["?"], ["."])
        and known[0] != known[1]
        and name.startswith(_CRYSTAL_TAGS)
    ):
        raise refusals.RefusedError(
            f"{tag} is there twice, as {' '.join(known[0])[:40]!r} and as "
            f"{' '.join(known[1])[:40]!r}; remove one"
        )


@functools.lru_cache(maxsize=1024)
def _normalize(tag: str) -> str:
    return tag.lower().replace(".", "_")


def _unquote(value: str) -> str:
    return cif.as_string(value) if value[:1] in _QUOTES else value


def is_unknown(text: str) -> bool:
    """Whether a value is left out: ``?`` or ``.``."""
    return text in _UNKNOWN


def parse_number(text: str, name: str) -> float:
    """Number with or without a standard uncertainty, or a fraction such as 1/3.

    Raises:
        RefusedError: it is none, or not finite.
    """
    match = _NUMBER.fullmatch(text)
    if match is not None:
        value = float(match.group(1).lower().replace("d", "e"))
        if math.isfinite(value):
            return value
    match = _FRACTION.fullmatch(text)
    if match is not None and int(match.group(2)):
        return int(match.group(1)) / int(match.group(2))
    raise refusals.RefusedError(f"{name} is {text[:40]!r}; expected a number")


def parse_numbers(texts: list[str], names: Callable[[int], str]) -> list[float]:
    """`parse_number` of a column; ``names`` says what the value at an index is called.

    Raises:
        RefusedError: a value is no number, or not finite.
    """
    if _DECIMALS.fullmatch(" ".join(texts)):
        try:
            return list(map(float, texts))
        except ValueError:
            # The one that is none is named below.
            pass
    return [parse_number(text, names(index)) for index, text in enumerate(texts)]


def half_last_digit(text: str) -> float:
    """What the rounding of a number as written can hide: 0.05 for ``12.3``."""
    match = _NUMBER.fullmatch(text)
    digits = match.group(1).lower().partition("e")[0] if match else ""
    return 0.5 * 10.0 ** -len(digits.partition(".")[2])
