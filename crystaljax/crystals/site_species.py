"""Type symbols and labels of sites → elements, or why they stand for none.

A name is an element only beyond doubt. Where it very likely is one, the reading comes
with its doubt, and counts only if the file's own formula confirms it: ``D`` is taken
for hydrogen, ``CO`` for cobalt, ``W1`` for tungsten, if that makes the formula.
"""

import functools
import re

from crystaljax.crystals import elements
from crystaljax.system import errors

UNKNOWN = ("?", ".", "")
# ``Cu``, ``Cu2+``, ``Cu+2``, ``Cu1``, ``O2-``.
_TYPE = re.compile(r"(\d{1,3})?([A-Za-z]{1,2})(\d*\.?\d*[+-]|[+-]\d*\.?\d*|\d+)?")
_LABEL = re.compile(r"([A-Za-z]+)(.*)", re.DOTALL)
# ``Nb/Zr``, ``Fe,Co``, ``Fe1Co1``, ``Al0.5``: two elements, or a share of one.
_MIXED = re.compile(r"[/,+&|]|\d\.\d|[A-Z][a-z]|[A-Z]\d")
_WATER_OXYGEN = re.compile(r"[^A-Za-z]*\d[A-Za-z]?[Ww]\d*")
# Symbols that stand for something else in labels: water, deuterium or a dummy.
_DOUBTFUL_LABELS = ("W", "D")
_MOLECULES = ("H2", "D2", "N2", "O2", "F2", "Cl2", "Br2", "I2", "O3")
_PLACEHOLDERS = {
    "T": "tritium or a tetrahedral site",
    "Va": "a vacancy",
    "Vac": "a vacancy",
    "X": "a dummy or any atom",
    "M": "any metal",
    "Wat": "water",
    "Ow": "oxygen of water",
    "Oh": "a hydroxyl group",
}


@functools.lru_cache(maxsize=4096)
def read_type(symbol: str) -> tuple[int, str]:
    """Type symbol → atomic number, and what is doubtful about it ("" for nothing).

    Raises:
        ValueError: it is no element.
    """
    match = _TYPE.fullmatch(symbol)
    if match is None:
        raise _no_element(symbol)
    mass, name, _ = match.groups()
    number, doubt = _read_symbol(name, symbol)
    if mass is not None:
        doubt = f"the isotope {symbol!r} stands for the element"
    elif symbol in _MOLECULES:
        doubt = f"{symbol!r} stands for one atom, not for a molecule"
    return number, doubt


@functools.lru_cache(maxsize=4096)
def read_label(label: str) -> tuple[int, str]:
    """Label of a site without a type → atomic number and doubt, as `read_type`.

    Raises:
        ValueError: it names no element.
    """
    match = _LABEL.fullmatch(label)
    if match is None:
        raise _no_element(label)
    name, rest = match.groups()
    rest = rest.rstrip("+-")
    if len(name) > 2 or _MIXED.search(rest):
        raise _no_element(label)
    number, doubt = _read_symbol(name, label)
    is_capital = name[0].isupper() and not name[1:].isupper()
    if name in _DOUBTFUL_LABELS or not is_capital:
        doubt = f"the label {label!r} stands for the element {elements.symbol(number)}"
    elif name == "O" and _WATER_OXYGEN.fullmatch(rest):
        doubt = f"the site {label!r} is the oxygen of water"
    elif name == "H" and rest[-1:] == "O":
        doubt = f"the site {label!r} is a hydrogen atom, not water"
    return number, doubt


def _read_symbol(name: str, written: str) -> tuple[int, str]:
    """One or two letters → atomic number and doubt."""
    if name.capitalize() == "D":
        return 1, f"{written!r} stands for deuterium, which is read as hydrogen"
    proper = name.capitalize()
    is_usual = name in (proper, proper.upper(), proper.lower())
    if not is_usual or proper not in elements.SYMBOLS:
        raise _no_element(written)
    doubt = ""
    letters = [each.upper() for each in name]
    if (
        len(name) == 2
        and name.isupper()
        and all(each in elements.SYMBOLS for each in letters)
    ):
        doubt = f"{written!r} stands for {proper}, not for {' and '.join(letters)}"
    return elements.atomic_number(proper), doubt


def _no_element(written: str) -> errors.UserError:
    name = written.rstrip("0123456789").capitalize()
    known = _PLACEHOLDERS.get(name)
    what = f" but stands for {known}" if known else ""
    return errors.UserError(
        f"{written[:40]!r} is no element{what}; write a site with a type symbol such "
        "as 'Cu' for every atom"
    )
