"""What a file says of its own composition: formula and number of formula units.

The formulas of CIF files: ``'H2 Mg1 O2'``, and as far as they can be read the free
forms with charges, multipliers, brackets and dots: ``'Cu 2+, 2(Cl 1-), 2(H2 O)'``,
``'CuSO4.5H2O'``. Deuterium counts as hydrogen.
"""

import collections
import dataclasses
import functools
import re
from collections.abc import Mapping

import numpy as np

from crystaljax.crystals import elements, refusals, structure
from crystaljax.system import numbers as parsing

_TOKEN = re.compile(
    r"(?P<charge>(?<![A-Za-z\d])\d*[+-]|(?<![A-Za-z\d])[+-]\d*)"
    r"|(?P<symbol>[A-Za-z]+)"
    r"|(?P<open>[(\[{])|(?P<close>[)\]}])"
    r"|(?P<number>\d+\.?\d*|\.\d+)|(?P<blank>\s+)"
)
_SYMBOL = re.compile(r"[A-Z][a-z]?")
# The form that nearly all files have: ``Cd1 Cu1 N3``.
_PLAIN = re.compile(r"(?:[A-Z][a-z]?[1-9]\d*(?: |$))+")
_PLAIN_PART = re.compile(r"([A-Z][a-z]?)(\d+)")
# And the form of tables: ``TmMgHg2``.
_BARE = re.compile(r"(?:[A-Z][a-z]?(?:[1-9]\d*)?)+")
_BARE_PART = re.compile(r"([A-Z][a-z]?)(\d*)")
# The dot of a hydrate, not that of a number. ``CuSO4.5H2O`` has five waters;
# ``Al2O3.2SiO2`` cannot be told from a fraction.
_WATER = r"\.(?=\d+\(?H2O)"
_PART = re.compile(
    r"[,;*]|(?<!\d)\.|\.(?!\d)|\.(?=\d*\.\d)"
    rf"|(?<=[A-Za-z\])}}]\d){_WATER}|(?<=[A-Za-z\])}}]\d\d){_WATER}"
)
_AMBIGUOUS = re.compile(r"[A-Za-z\])}]\d+\.\d+[A-Za-z(\[{]")
_LETTERS = re.compile(r"[^\W\d_]+")
_HAS_CAPITALS = re.compile(r"\s*[A-Z(\[{\d]")
_ATOMIC_NUMBERS = frozenset(range(1, elements.NUM_ELEMENTS + 1))
_VOLUME_TOLERANCE = 0.01
_ATOMS = {"D": "H"}
_KNOWN = frozenset(elements.SYMBOLS)
# pymatgen counts these in pairs, O5 as 2.5 of O2, and writes Z without the half.
_PAIRED = frozenset(("H", "N", "O", "F", "Cl"))
_PAIRED_WITH_O = frozenset(("H", "Li", "Na", "K", "Rb", "Cs"))
# Fractional counts are rounded by a file as it likes; others are exact.
_ROUNDING = 0.02


@dataclasses.dataclass(frozen=True)
class Stated:
    """A composition as a file says it.

    Attributes:
        text: as it is written.
        counts: atoms per formula by symbol.
        num_units: formulas per cell; None where the file does not say.
    """

    text: str
    counts: Mapping[str, float]
    num_units: float | None


def find_contradiction(stated: Stated, counts: Mapping[str, int]) -> str:
    """How the atoms of a cell differ from what its file says; "" if they do not.

    The formula is that of a formula unit, or of the whole cell: pymatgen writes the
    cell's, with the number of reduced formulas in it.

    Args:
        stated: what the file says.
        counts: atoms in the cell by symbol.
    """
    found = elements.format_formula(counts)
    units = stated.num_units
    named = f"the formula {stated.text!r}"
    if units is not None:
        named = f"{units:g} formula units of {stated.text!r}"
    problem = f"the sites make {found}, the file says {named}"
    if set(counts) != set(stated.counts):
        return problem
    if units is None:
        ratio = sum(counts.values()) / sum(stated.counts.values())
        units = max(1.0, float(round(ratio)))
        return "" if _agree(stated.counts, counts, units) else problem
    if _agree(stated.counts, counts, units):
        return ""
    divides = all(count % units == 0 for count in counts.values())
    is_of_cell = divides or units == _count_pairs(counts)
    return "" if is_of_cell and _agree(stated.counts, counts, 1.0) else problem


def _count_pairs(counts: Mapping[str, int]) -> int:
    """Whole molecules that pymatgen counts in a cell of X or XO; 0 for others."""
    if len(set(counts.values())) > 1:
        return 0
    names = frozenset(counts)
    is_paired = len(names) == 1 and names <= _PAIRED
    if not is_paired and not (len(names) == 2 and names - {"O"} <= _PAIRED_WITH_O):
        return 0
    return next(iter(counts.values())) // 2


def require_formula(text: object, atomic_numbers: np.ndarray) -> None:
    """Compares a crystal with the formula that stands beside it in a file.

    Args:
        text: formula of the cell or of a formula unit; what cannot be read as one
            beyond doubt says which elements there are if it has nothing but symbols,
            numbers and signs, and is no statement otherwise.
        atomic_numbers: of the file's sites.

    Raises:
        RefusedError: they differ.
    """
    counts = parse_formula(" ".join(text.split())) if isinstance(text, str) else None
    elements_of_text = _find_elements(str(text)) if counts is None else None
    if not _HAS_CAPITALS.match(str(text)) or (counts or elements_of_text) is None:
        return
    numbers = collections.Counter(np.asarray(atomic_numbers).tolist())
    if not set(numbers) <= _ATOMIC_NUMBERS:
        return
    found = {elements.symbol(number): count for number, count in numbers.items()}
    if counts is not None:
        problem = find_contradiction(Stated(str(text), counts, None), found)
    else:
        made = elements.format_formula(found)
        problem = f"the sites make {made}, the file says the formula {str(text)!r}"
        problem = problem if set(found) != elements_of_text else ""
    if problem:
        raise refusals.RefusedError(problem, "sites contradict the formula of the file")


def _find_elements(text: str) -> set[str] | None:
    """Symbols of a text whose letters are nothing else; None for other texts."""
    found: set[str] = set()
    for letters in _LETTERS.findall(text):
        names = _split_symbols(letters)
        if names is None:
            return None
        found.update(names)
    return found or None


def require_volume(text: object, crystal: structure.Crystal) -> None:
    """Compares a cell with the volume (Å³) that stands beside it in a file.

    Args:
        text: number or text; what is missing is no statement.
        crystal: what the file's cell is.

    Raises:
        ValueError: it is no number.
        RefusedError: they differ by more than 1 %.
    """
    if text is None or not str(text).strip():
        return
    said = parsing.parse_finite(text)
    with np.errstate(all="ignore"):
        volume = abs(float(np.linalg.det(crystal.lattice)))
    if not abs(said - volume) <= _VOLUME_TOLERANCE * volume:
        raise refusals.RefusedError(
            f"the cell has a volume of {volume:.6g} Å³, the file says {text}",
            "cell contradicts the volume of the file",
        )


def require_num_sites(text: object, crystal: structure.Crystal) -> None:
    """Compares a crystal with the number of atoms that stands beside it in a file.

    Args:
        text: number or text; what is missing is no statement.
        crystal: what the file's sites make.

    Raises:
        ValueError: it is no number.
        RefusedError: they differ.
    """
    if text is None or not str(text).strip():
        return
    if parsing.parse_finite(text) != crystal.num_sites:
        raise refusals.RefusedError(
            f"the cell has {crystal.num_sites} sites, the file says {text}",
            "sites contradict the formula of the file",
        )


def _agree(
    formula: Mapping[str, float], counts: Mapping[str, int], num_units: float
) -> bool:
    for name, count in counts.items():
        amount = formula[name]
        is_whole = float(amount).is_integer()
        slack = 1e-6 if is_whole else max(_ROUNDING * amount, 0.005)
        if abs(num_units * amount - count) > min(num_units * slack, 0.4):
            return False
    return True


@functools.lru_cache(maxsize=1024)
def parse_formula(text: str) -> Mapping[str, float] | None:
    """Formula → atoms by symbol; None for what cannot be read beyond doubt."""
    if _PLAIN.fullmatch(text):
        parts = _PLAIN_PART.findall(text)
        plain = {name: float(count) for name, count in parts}
        if len(plain) == len(parts) and all(name in _KNOWN for name in plain):
            return plain
    if _BARE.fullmatch(text):
        bare: dict[str, float] = collections.defaultdict(float)
        for name, count in _BARE_PART.findall(text):
            bare[name] += float(count or 1)
        if all(name in _KNOWN for name in bare):
            return bare
    total: collections.Counter[str] = collections.Counter()
    for part in _PART.split(text):
        if not part.strip():
            continue
        if _AMBIGUOUS.search(part):
            return None
        counts = _parse_part(part)
        if counts is None:
            return None
        total.update(counts)
    counts = {name: count for name, count in total.items() if count > 0}
    return counts or None


def _parse_part(text: str) -> dict[str, float] | None:
    """``5 H2 O``, ``2(Cl 1-)``, ``Ca (O H)2``: a number before it multiplies it."""
    stack: list[dict[str, float]] = [collections.defaultdict(float)]
    factor = 1.0
    # What the next number multiplies: the atoms or the bracket just before it.
    last: dict[str, float] = {}
    position = 0
    has_begun = False
    # A bracket's factor may stand before it.
    factors = [1.0]
    pending = 1.0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return None
        kind, token = match.lastgroup, match.group()
        position = match.end()
        if kind == "blank":
            last = {}
            continue
        if kind == "charge":
            last = {}
            continue
        if kind == "number":
            amount = float(token)
            if last:
                # ``Fe3+``: a count or a charge.
                if text[position : position + 1] in ("+", "-"):
                    return None
                for name, count in last.items():
                    stack[-1][name] += count * (amount - 1)
                last = {}
            elif not has_begun:
                factor = amount
            elif text[position : position + 1] in tuple("([{"):
                pending = amount
            else:
                return None
        elif kind == "symbol":
            names = _split_symbols(token)
            if names is None:
                return None
            for name in names:
                stack[-1][name] += 1
            last = {names[-1]: 1}
        elif kind == "open":
            stack.append(collections.defaultdict(float))
            factors.append(pending)
            pending, last = 1.0, {}
        else:
            if len(stack) == 1:
                return None
            group, times = stack.pop(), factors.pop()
            last = {name: count * times for name, count in group.items()}
            for name, count in last.items():
                stack[-1][name] += count
        has_begun = True
    if len(stack) > 1:
        return None
    return {name: count * factor for name, count in stack[0].items()}


def _split_symbols(letters: str) -> list[str] | None:
    """``NaCl`` → Na, Cl, and ``NA`` → Na, since A is no element."""
    names = _SYMBOL.findall(letters)
    if "".join(names) != letters:
        return None
    if len(letters) == 2 and not all(map(_is_atom, names)):
        names = [letters.capitalize()]
    if not all(map(_is_atom, names)):
        return None
    return [_ATOMS.get(name, name) for name in names]


def _is_atom(name: str) -> bool:
    return name in _KNOWN or name in _ATOMS
