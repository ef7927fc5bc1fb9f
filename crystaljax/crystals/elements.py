"""Elements H…Lr: symbols, formulas, and the property tables that condition a model.

A formula names a *cell*: ``Cu6Au2`` is a cell of 8 sites, and its reduced formula is
``Au1Cu3``. What this module writes is in AFLOW's style: species in alphabetical order,
explicit 1s. The tables are data files; experiments/tables/make_element_properties.py
makes them.
"""

import collections
import functools
import math
import pathlib
import re
import string
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Integer, UInt8

from crystaljax.crystals import formula_parts
from crystaljax.system import errors

# fmt: off
SYMBOLS = (
    "H", "He",
    "Li", "Be", "B", "C", "N", "O", "F", "Ne",
    "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar",
    "K", "Ca", "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn",
    "Ga", "Ge", "As", "Se", "Br", "Kr",
    "Rb", "Sr", "Y", "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd",
    "In", "Sn", "Sb", "Te", "I", "Xe",
    "Cs", "Ba",
    "La", "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb",
    "Lu", "Hf", "Ta", "W", "Re", "Os", "Ir", "Pt", "Au", "Hg",
    "Tl", "Pb", "Bi", "Po", "At", "Rn",
    "Fr", "Ra",
    "Ac", "Th", "Pa", "U", "Np", "Pu", "Am", "Cm", "Bk", "Cf", "Es", "Fm", "Md", "No",
    "Lr",
)
# fmt: on
NUM_ELEMENTS = len(SYMBOLS)
PROPERTY_FORMS = ("reference", "scaled")

# Far beyond any cell that fits a sample tensor; a typing error such as Cu111111111
# should not fill the memory with its sites.
_MAX_FORMULA_SITES = 10_000
_ATOMIC_NUMBERS = {name: number for number, name in enumerate(SYMBOLS, start=1)}
_FORMULA_TOKEN = re.compile(r"([A-Z][a-z]?|[()\[\]{}])([0-9]+(?:\.[0-9]*)?)?")
_PARENTHESES = {"(": ")", "[": "]", "{": "}"}
_MAX_COUNT_DIGITS = 20


def atomic_number(symbol: str) -> int:
    """Symbol → atomic number, 1-103.

    Raises:
        ValueError: no element from H to Lr has this symbol.
    """
    if symbol not in _ATOMIC_NUMBERS:
        raise errors.UserError(
            f"unknown element {symbol!r}; expected a symbol from H to Lr, such as "
            "'Cu': check spelling and capitals"
        )
    return _ATOMIC_NUMBERS[symbol]


def symbol(number: int) -> str:
    """Atomic number → symbol.

    Raises:
        ValueError: the number is not in 1-103.
    """
    if not 1 <= number <= NUM_ELEMENTS:
        raise errors.UserError(
            f"atomic number {number} is outside 1-{NUM_ELEMENTS} (H to Lr); padding "
            "sites must be cut off first"
        )
    return SYMBOLS[int(number) - 1]


def parse_formula(formula: str) -> dict[str, int]:
    """Cell formula → number of sites per element, in alphabetical order of symbols.

    Parentheses with multipliers are understood, ``Ca(OH)2``, and so are parts, as in
    ``CuSO4·5H2O``; see `formula_parts`. Blanks are ignored.

    Raises:
        ValueError: the formula is empty or malformed, names an unknown element, has a
            count that is not a positive integer, or more sites than any model takes.
    """
    counts = {
        name: int(count)
        for name, count in _parse_parts(formula, fractional=False).items()
    }
    if sum(counts.values()) > _MAX_FORMULA_SITES:
        raise errors.UserError(
            f"formula {formula!r} has {sum(counts.values())} sites; expected the "
            f"formula of one cell, at most {_MAX_FORMULA_SITES}: check its counts"
        )
    return counts


def parse_amounts(formula: str) -> dict[str, float]:
    """Formula of a composition → amount of each element, which may be a fraction.

    Raises:
        ValueError: the formula is empty or malformed, names an unknown element, or it
            is not clear whether a dot in it is a decimal point.
    """
    amounts = _parse_parts(formula, fractional=True)
    return {name: float(amount) for name, amount in amounts.items()}


def _parse_parts(formula: str, *, fractional: bool) -> dict[str, Any]:
    amounts: dict[str, Any] = collections.Counter()
    if not formula.strip():
        raise errors.UserError(
            f"formula {formula!r} is empty; expected one such as 'Cu3Au' or 'Ca(OH)2'"
        )
    for factor, part in formula_parts.split_parts(formula, fractional=fractional):
        times = _parse_count(factor or None, formula, fractional)
        for name, count in _parse_part(part, formula, fractional).items():
            amounts[name] += count * times
    return dict(sorted(amounts.items()))


def _parse_part(text: str, formula: str, fractional: bool) -> dict[str, Any]:
    # One counter per open parenthesis, the whole formula at the bottom.
    stack: list[dict[str, Any]] = [collections.Counter()]
    opened: list[str] = []
    position = 0
    while position < len(text):
        token = _FORMULA_TOKEN.match(text, position)
        if token is None:
            raise errors.UserError(
                f"formula {formula!r} has {text[position]!r} where an element symbol "
                "or a parenthesis was expected; write it like 'Cu3Au' or 'Ca(OH)2'"
            )
        position = token.end()
        name, count_text = token.groups()
        if name in _PARENTHESES:
            if count_text is not None:
                raise errors.UserError(
                    f"formula {formula!r} has the count {count_text!r} after an "
                    "opening parenthesis; put it after the closing one, as in "
                    "'Ca(OH)2'"
                )
            stack.append(collections.Counter())
            opened.append(name)
            continue
        count = _parse_count(count_text, formula, fractional)
        if name in _PARENTHESES.values():
            if not opened or _PARENTHESES[opened.pop()] != name:
                raise errors.UserError(
                    f"formula {formula!r} closes a parenthesis that was not opened; "
                    "remove it or add the opening one"
                )
            group = stack.pop()
            if not group:
                raise errors.UserError(
                    f"formula {formula!r} has empty parentheses; expected elements "
                    "between them, as in 'Ca(OH)2'"
                )
            for member, member_count in group.items():
                stack[-1][member] += member_count * count
        else:
            if name not in _ATOMIC_NUMBERS:
                raise errors.UserError(
                    f"formula {formula!r} has the unknown element {name!r}; expected "
                    "symbols from H to Lr: check spelling and capitals"
                )
            stack[-1][name] += count
    if opened:
        raise errors.UserError(
            f"formula {formula!r} has a parenthesis that is not closed; add the ')'"
        )
    return stack[0]


def _parse_count(text: str | None, formula: str, fractional: bool) -> Any:
    """An integer, or a float where there may be fractions."""
    if text is None:
        return 1
    # More digits than int() takes are too many in any case.
    if len(text) <= _MAX_COUNT_DIGITS:
        if fractional:
            return float(text)
        if text.isdecimal() and int(text) > 0:
            return int(text)
    raise errors.UserError(
        f"formula {formula!r} has the count {text[:40]!r}; expected a positive "
        "integer: multiply a fractional formula until its counts are whole, and leave "
        "out elements that are absent"
    )


def format_formula(counts: Mapping[str, int]) -> str:
    """Number of sites per element → AFLOW's style, such as ``Au1Cu3``."""
    return "".join(f"{name}{count}" for name, count in sorted(counts.items()))


def cell_formula(atomic_numbers: Integer[np.ndarray, " sites"]) -> str:
    """Formula of the whole cell, such as ``Au2Cu6``.

    Raises:
        ValueError: an atomic number is outside 1-103.
    """
    return format_formula(_count_species(atomic_numbers))


def reduced_formula(atomic_numbers: Integer[np.ndarray, " sites"]) -> str:
    """Formula divided by the greatest common divisor of its counts: ``Au1Cu3``.

    Raises:
        ValueError: an atomic number is outside 1-103.
    """
    counts = _count_species(atomic_numbers)
    divisor = math.gcd(*counts.values())
    return format_formula({name: count // divisor for name, count in counts.items()})


def anonymous_formula(atomic_numbers: Integer[np.ndarray, " sites"]) -> str:
    """Reduced formula with letters for species, rarest first: ``AB3``.

    As in pymatgen, 1s are left out.

    Raises:
        ValueError: an atomic number is outside 1-103, or there are more species than
            letters.
    """
    counts = sorted(_count_species(atomic_numbers).values())
    if len(counts) > len(string.ascii_uppercase):
        raise errors.UserError(
            f"{len(counts)} species have no anonymous formula; expected at most "
            f"{len(string.ascii_uppercase)}, one letter each"
        )
    divisor = math.gcd(*counts)
    return "".join(
        letter if count == divisor else f"{letter}{count // divisor}"
        for letter, count in zip(string.ascii_uppercase, counts, strict=False)
    )


def _count_species(atomic_numbers: np.ndarray) -> dict[str, int]:
    # Counting in Python is quicker than np.unique for the sites of one cell.
    counts = collections.Counter(atomic_numbers.tolist())
    return {symbol(number): counts[number] for number in sorted(counts)}


def formula_atomic_numbers(formula: str) -> UInt8[np.ndarray, " sites"]:
    """Cell formula → atomic number of each site, grouped by species alphabetically.

    This is the order of sites in a sample tensor.

    Raises:
        ValueError: as `parse_formula`.
    """
    counts = parse_formula(formula)
    numbers = np.array([_ATOMIC_NUMBERS[name] for name in counts], dtype=np.uint8)
    return np.repeat(numbers, list(counts.values()))


def load_element_properties(form: str) -> Float[np.ndarray, "103 features"]:
    """Property table, float32 and read-only; row Z - 1 belongs to atomic number Z.

    Args:
        form: ``"reference"``: the 22 columns of the paper's code as they are, raw
            units, flags that are wrong, missing values 0. ``"scaled"``: the same
            properties with the flags right (0 or 1), the others standardised over the
            elements that have a value (atomic volume after a log, sum of ionic radii
            after an arcsinh), missing values 0 and marked by further 0/1 columns.

    Raises:
        ValueError: there is no such form.
    """
    return _load_property_table(form)[1]


def load_element_property_names(form: str) -> tuple[str, ...]:
    """Column names of `load_element_properties`.

    Raises:
        ValueError: there is no such form.
    """
    return _load_property_table(form)[0]


@functools.cache
def _load_property_table(form: str) -> tuple[tuple[str, ...], np.ndarray]:
    if form not in PROPERTY_FORMS:
        raise errors.UserError(
            f"unknown form {form!r} of the element properties; expected one of "
            f"{PROPERTY_FORMS}"
        )
    tables = pathlib.Path(__file__).parent / "tables"
    text = (tables / f"element_properties_{form}.csv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    values = np.loadtxt(lines[1:], delimiter=",", dtype=np.float32)
    # The cached array is shared by all callers.
    values.setflags(write=False)
    return tuple(lines[0].split(",")), values


@functools.cache
def mendeleev_number() -> Int[np.ndarray, "104"]:
    """Mendeleev number of each atomic number (Villars), read-only; row 0 is padding.

    It counts the elements column by column, from the alkali metals to the noble gases.
    In its order the species of one prototype nearly always come in the order of their
    roles, which is what structure maps rest on (Pettifor 1984).
    """
    names = load_element_property_names("reference")
    values = load_element_properties("reference")[:, names.index("mendeleev_number")]
    numbers = np.concatenate([[0], values]).astype(np.int64)
    numbers.setflags(write=False)
    return numbers


@functools.cache
def load_covalent_radii() -> Float[np.ndarray, "103"]:
    """Covalent radii (Cordero et al. 2008), Å, read-only; row Z - 1 belongs to Z.

    The paper ends at Cm: the elements beyond have Cm's 1.69 Å.
    """
    # ASE takes a while to import, and only checks need the radii.
    from ase import data

    radii = np.array(data.covalent_radii[1 : NUM_ELEMENTS + 1], dtype=np.float64)
    # ASE has a placeholder there, 0.2 or 2 Å by version.
    curium = _ATOMIC_NUMBERS["Cm"] - 1
    radii[curium + 1 :] = radii[curium]
    radii.setflags(write=False)
    return radii
