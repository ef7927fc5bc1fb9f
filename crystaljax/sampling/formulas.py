"""Which cells are requested: formulas, formula units, chemical systems."""

import itertools
import math
from collections.abc import Iterator, Sequence

from crystaljax.crystals import elements
from crystaljax.system import errors

# More cells than anybody means to ask for; A-B-C-D-E up to 60 atoms is a slip.
_MAX_FORMULAS = 100_000
# No sample tensor holds as many atoms.
_MAX_UNITS = 1_000


def expand_formulas(
    formulas: Sequence[str],
    chemical_systems: Sequence[str] = (),
    *,
    formula_units: str = "",
    max_atoms: int | None = None,
) -> list[str]:
    """Cell formulas in AFLOW's style, such as ``Au1Cu3``, each once.

    First come the formulas, each with all its numbers of formula units, then the
    chemical systems, each by rising number of atoms.

    Args:
        formulas: such as "TaWB6" or "Ta1W1B6", which is the same; a formula unit is the
            formula as it is written.
        chemical_systems: such as "Ta-W-B": see `expand_chemical_system`.
        formula_units: see `parse_formula_units`; "" is 1 for formulas, and every number
            that ``max_atoms`` allows for chemical systems.
        max_atoms: of the cells of chemical systems; formulas have as many as they have.

    Raises:
        ValueError: neither formulas nor systems, unreadable ones or units,
            ``max_atoms`` without systems or the other way round, or more than 100,000
            cells.
    """
    if not (formulas or chemical_systems):
        raise errors.UserError(
            "no formulas; expected --formulas=Ta1W1B6 or --chemical_systems=Ta-W-B "
            "--max_atoms=8, or both"
        )
    if bool(chemical_systems) != (max_atoms is not None):
        raise errors.UserError(
            f"chemical systems {','.join(chemical_systems) or '(none)'} with max_atoms "
            f"{'(none)' if max_atoms is None else max_atoms}; expected both or "
            "neither, such as --chemical_systems=Ta-W-B --max_atoms=8 (formulas "
            "have as many atoms as is written)"
        )
    units = parse_formula_units(formula_units) if formula_units else None
    # A dict keeps the order and drops what is there already.
    cells: dict[str, None] = {}
    for formula in formulas:
        counts = elements.parse_formula(formula)
        cells |= dict.fromkeys(_multiply(counts, size) for size in units or [1])
    if max_atoms is not None:
        parsed = ["-".join(parse_chemical_system(text)) for text in chemical_systems]
        systems = list(dict.fromkeys(parsed))
        sizes = [len(system.split("-")) for system in systems]
        # Different systems have no cell in common.
        total = sum(math.comb(max(max_atoms, 0), size) for size in sizes)
        _require_few(total, ",".join(systems), max_atoms)
        for system in systems:
            cells |= dict.fromkeys(expand_chemical_system(system, max_atoms, units))
    return list(cells)


def parse_formula_units(text: str) -> list[int]:
    """Numbers of formula units: values and ranges, ``1,2`` or ``1:4``, ends included.

    Raises:
        ValueError: not a positive integer, or a range that falls.
    """
    units: list[int] = []
    for part in text.split(","):
        ends = [end.strip() for end in part.split(":")]
        if len(ends) > 2 or not all(_is_unit(end) for end in ends):
            raise errors.UserError(
                f"formula_units: {part!r} in {text!r} is neither a number of formula "
                f"units from 1 to {_MAX_UNITS} nor a range of them; expected 1,2 or 1:4"
            )
        first, last = int(ends[0]), int(ends[-1])
        if last < first:
            raise errors.UserError(
                f"formula_units: the range {part!r} in {text!r} falls; expected the "
                f"smaller number first, {last}:{first}"
            )
        units += range(first, last + 1)
    return list(dict.fromkeys(units))


def _is_unit(text: str) -> bool:
    # So many digits that int() would refuse them are too many in any case.
    return text.isdecimal() and len(text) < 10 and 1 <= int(text) <= _MAX_UNITS


def parse_chemical_system(text: str) -> list[str]:
    """A chemical system such as ``Ta-W-B`` → its symbols in alphabetical order.

    Raises:
        ValueError: an unknown symbol, or one that stands there twice.
    """
    symbols = [symbol.strip() for symbol in text.split("-")]
    try:
        for symbol in symbols:
            elements.atomic_number(symbol)
    except ValueError as error:
        raise errors.UserError(
            f"chemical system {text!r}: {error}; expected symbols with hyphens between "
            "them, such as 'Ta-W-B'"
        ) from error
    if len(set(symbols)) < len(symbols):
        raise errors.UserError(
            f"chemical system {text!r} names an element twice; expected each once, "
            "such as 'Ta-W-B'"
        )
    return sorted(symbols)


def expand_chemical_system(
    text: str, max_atoms: int, formula_units: Sequence[int] | None = None
) -> list[str]:
    """Formulas of all cells of a chemical system, by rising number of atoms.

    Every element of the system is in every cell: ``Ta-W-B`` has no binary ones.

    Args:
        text: such as "Ta-W-B".
        max_atoms: of a cell.
        formula_units: reduced formulas times these; None: times every number, so that
            Ta2W2B2 is there as well as Ta1W1B1.

    Raises:
        ValueError: an unreadable system, more elements than ``max_atoms``, no cell with
            these numbers of formula units, or more than 100,000 cells.
    """
    symbols = parse_chemical_system(text)
    if max_atoms < len(symbols):
        raise errors.UserError(
            f"chemical system {text!r} has {len(symbols)} elements, and all of them "
            f"are in every cell; expected a max_atoms of at least {len(symbols)}, got "
            f"{max_atoms}"
        )
    # As many as there are ways to draw the last atoms of all elements.
    _require_few(math.comb(max_atoms, len(symbols)), text, max_atoms)
    found = []
    for num_atoms in range(len(symbols), max_atoms + 1):
        for counts in _compositions(num_atoms, len(symbols)):
            if formula_units is None or math.gcd(*counts) in formula_units:
                found.append(
                    elements.format_formula(dict(zip(symbols, counts, strict=True)))
                )
    if not found:
        raise errors.UserError(
            f"chemical system {text!r} has no cell of up to {max_atoms} atoms with "
            f"{' or '.join(map(str, formula_units or ()))} formula units; expected "
            "fewer formula units, or a larger max_atoms"
        )
    return found


def _compositions(num_atoms: int, num_species: int) -> Iterator[tuple[int, ...]]:
    """Ways to share atoms among species, each with one at least."""
    for cuts in itertools.combinations(range(1, num_atoms), num_species - 1):
        ends = (0, *cuts, num_atoms)
        yield tuple(end - start for start, end in itertools.pairwise(ends))


def _multiply(counts: dict[str, int], size: int) -> str:
    return elements.format_formula({name: n * size for name, n in counts.items()})


def _require_few(number: int, systems: str, max_atoms: int) -> None:
    if number > _MAX_FORMULAS:
        raise errors.UserError(
            f"chemical systems {systems} have {number:,} cells of up to "
            f"{max_atoms} atoms; expected at most {_MAX_FORMULAS:,}: lower max_atoms, "
            "or name fewer systems"
        )
