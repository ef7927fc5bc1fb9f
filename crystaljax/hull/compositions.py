"""Compositions of pymatgen, from formulas and from the atoms of a cell."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
from pymatgen.core import Composition, Element

from crystaljax.crystals import elements
from crystaljax.system import errors

# A formula such as "Cu3Au1", or the atomic numbers of all sites.
Formula = str | Sequence[int] | np.ndarray

_SYMBOL = re.compile("[A-Z][a-z]?")
# What pandas writes where there is nothing.
_MISSING = ("NaN",)


def parse_composition(formula: Formula) -> Composition:
    """A formula such as "Cu3Au1", or atomic numbers of all sites → composition.

    Raises:
        ValueError: it cannot be read, or holds no atom.
    """
    if isinstance(formula, str):
        composition = _parse_formula(formula)
    else:
        numbers, counts = np.unique(np.asarray(formula, dtype=int), return_counts=True)
        composition = Composition(
            {
                Element.from_Z(int(n)): int(count)
                for n, count in zip(numbers, counts, strict=True)
            }
        )
    if composition.num_atoms == 0:
        raise errors.UserError(
            f"{formula!r} holds no atom; expected one such as 'Cu3Au1'"
        )
    return composition


def _parse_formula(formula: str) -> Composition:
    if formula.strip() in _MISSING:
        raise errors.UserError(
            f"formula {formula!r} is what programs write for a missing one; expected "
            "one such as 'Cu3Au1' (Na1N1 for sodium and nitrogen)"
        )
    try:
        amounts = elements.parse_amounts(formula)
    except ValueError as error:
        raise errors.UserError(f"{error} (formulas are such as 'Cu3Au1')") from error
    return Composition(amounts)


def format_composition(composition: Composition) -> str:
    """Composition → formula in AFLOW's style, such as ``Au1Cu3``."""
    amounts = sorted((element.symbol, n) for element, n in composition.items())
    return "".join(f"{symbol}{amount:.8g}" for symbol, amount in amounts)


def chemical_systems(formulas: Iterable[Formula]) -> set[frozenset[str]]:
    """The sets of symbols that formulas are made of.

    Raises:
        ValueError: a formula cannot be read.
    """
    return {symbols_of(parse_composition(formula)) for formula in formulas}


def symbols_of(formula: Formula | Composition) -> frozenset[str]:
    """Symbols of the elements; of text without looking at what stands between them.

    Far faster than parsing, where most of many formulas are of other elements.
    """
    if isinstance(formula, Composition):
        return frozenset(element.symbol for element in formula.elements)
    if isinstance(formula, str):
        return frozenset(_SYMBOL.findall(formula))
    return frozenset(elements.symbol(int(number)) for number in set(formula))


def is_within(symbols: frozenset[str], systems: Iterable[frozenset[str]]) -> bool:
    """Whether one of the chemical systems has all of these elements."""
    return any(symbols <= system for system in systems)
