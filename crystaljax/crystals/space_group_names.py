"""Names of space groups as files have them → the settings that they can mean.

Hermann-Mauguin symbols, short and full, old and new, with whatever blanks, underscores
and suffixes (``:2``, ``Z``, ``:H``), and numbers. gemmi's table has the 530 settings of
the International Tables and others in use; spglib's has their full symbols.
"""

import dataclasses
import functools
import re
from typing import Any

import gemmi
import spglib

from crystaljax.crystals import operations

_NUM_TABULATED = 530
_MONOCLINIC = range(3, 16)
# The groups of the Laue classes m-3 and m-3m that were written with 3 for -3.
_CUBIC_WITH_INVERSION = (*range(200, 207), *range(221, 231))
# By the axis that a short monoclinic symbol means unless the cell says otherwise.
_RANK_OF_AXIS = {"b": 0, "c": 1, "a": 2}
_RANK_OF_UNTABULATED = 4
_STANDARD_CHOICES = ("", "1", "2", "H", "R", "b", "b1")
# What stands for a choice at the end of a name: of the CIF dictionary, of ICSD (S: the
# origin of the standard setting, Z: in a centre of symmetry), of SHELX and of others.
_SUFFIX = re.compile(
    r"(?::?\(?\{?(?:origin(?:choice)?|o|oc)([12]).*|:([a-z0-9\-]+)|([szhr]))$"
)
_CHOICE_OF_SUFFIX = {"s": "1", "z": "2", "h": "h", "r": "r"}


@dataclasses.dataclass(frozen=True)
class Setting:
    """A space group with axes and an origin.

    Attributes:
        number: of the space group.
        symbol: Hermann-Mauguin symbol with what tells it from others, for messages.
        hall: its Hall symbol, from which its operations follow.
        choices: what a suffix may call it: ``1``, ``h``, ``b1``, ``cab``, ….
        rank: settings of lower rank are meant unless something says otherwise.
    """

    number: int
    symbol: str
    hall: str
    choices: tuple[str, ...]
    rank: int

    def operations(self) -> operations.Operations:
        """All its operations, centring translations included."""
        return operations.parse_hall(self.hall)


def find_settings(name: str) -> list[Setting]:
    """The settings that a Hermann-Mauguin symbol can mean; none if it is unknown."""
    text = _normalize(name)
    index = _settings_by_name()
    if text in index:
        return index[text]
    # PDB files write H 3 2 for the hexagonal axes of R 3 2.
    if text.startswith("h"):
        text = f"r{text[1:]}:h"
    match = _SUFFIX.search(text)
    if match is None:
        return []
    suffix = next(each for each in match.groups() if each is not None)
    choice = _CHOICE_OF_SUFFIX.get(suffix, suffix)
    settings = index.get(text[: match.start()], [])
    return [each for each in settings if choice in each.choices]


def settings_of_number(number: int) -> list[Setting]:
    """The settings that a bare number means: those of the International Tables.

    Both origins and both kinds of axes where there are two.
    """
    return [
        each for each in _load_settings() if each.number == number and not each.rank
    ]


def _normalize(name: str) -> str:
    text = name.strip().lower().replace("\N{COMBINING OVERLINE}", "")
    text = re.sub(r"[\s_{}$\\']+", "", text)
    # Screw axes as in 2(1), and a number behind the symbol.
    text = re.sub(r"(?<=\d)\(([1-5])\)", r"\1", text)
    return re.sub(r"[\[(]?(no\.?|#)\d+[\])]?$", "", text)


@functools.cache
def _settings_by_name() -> dict[str, list[Setting]]:
    names: dict[str, list[Setting]] = {}
    full_names = _full_names()
    for setting in _load_settings():
        symbol = setting.symbol.partition(":")[0]
        written = {symbol, *full_names.get(setting.hall, ())}
        if setting.number in _MONOCLINIC and setting.hall in full_names:
            written |= {_short_monoclinic(each) for each in written}
        if setting.number in _CUBIC_WITH_INVERSION:
            written |= {each.replace("-3", "3") for each in written}
        for each in {_normalize(one) for one in written}:
            names.setdefault(each, []).append(setting)
    return {
        name: sorted(settings, key=lambda each: each.rank)
        for name, settings in names.items()
    }


@functools.cache
def _load_settings() -> tuple[Setting, ...]:
    settings = []
    for entry in gemmi.spacegroup_table():
        choices = [entry.qualifier] if entry.qualifier else []
        extension = entry.ext.strip("\0").lower()
        if extension:
            choices += [extension, extension + entry.qualifier]
        settings.append(
            Setting(
                entry.number,
                entry.xhm(),
                entry.hall,
                tuple(choices),
                _rank(entry.number, entry.hall),
            )
        )
    return tuple(settings)


def _rank(number: int, hall: str) -> int:
    choice = _tabulated_choices().get(hall)
    if choice is None:
        return _RANK_OF_UNTABULATED
    if choice in _STANDARD_CHOICES:
        return 0
    is_monoclinic = number in _MONOCLINIC
    return 1 + (_RANK_OF_AXIS.get(choice.lstrip("-")[0], 0) if is_monoclinic else 0)


@functools.cache
def _tabulated_choices() -> dict[str, str]:
    """Choice of axes and origin by Hall symbol, from spglib."""
    return {entry.hall_symbol: entry.choice for entry in _tabulated()}


@functools.cache
def _full_names() -> dict[str, set[str]]:
    """Full and other symbols by Hall symbol, from spglib."""
    names: dict[str, set[str]] = {}
    for entry in _tabulated():
        # Before the sign of equality is the symbol of the standard setting.
        symbols = {entry.international_full, entry.international.split("=")[-1]}
        names.setdefault(entry.hall_symbol, set()).update(symbols)
    return names


@functools.cache
def _tabulated() -> list[Any]:
    return [spglib.get_spacegroup_type(each) for each in range(1, _NUM_TABULATED + 1)]


def _short_monoclinic(symbol: str) -> str:
    """``P 1 21/c 1`` → ``P 21/c``."""
    lattice, *rest = symbol.replace("_", "").split()
    return " ".join([lattice, *(each for each in rest if each != "1")])
