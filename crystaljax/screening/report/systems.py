"""Hull diagrams of the chemical systems of candidates, as JSON values."""

import collections
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from pymatgen.core import Composition

from crystaljax.hull import compositions
from crystaljax.hull import convex_hull as hulls

# eV/atom: rounding errors are not below the hull.
_BELOW = -1e-6


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One relaxed crystal.

    Attributes:
        row: in the table of the screening.
        name: of the sample.
        formula: of the cell.
        energy: formation energy, eV/atom.
        above_hull: eV/atom; NaN if there is no hull.
    """

    row: int
    name: str
    formula: str
    energy: float
    above_hull: float


def describe_systems(
    candidates: Sequence[Candidate],
    known_hull: hulls.Hull | None,
    energy_model: str,
    max_systems: int,
) -> tuple[list[dict[str, Any]], str]:
    """Diagrams of the binary and ternary systems with the most candidates.

    Args:
        candidates: of any systems.
        known_hull: what is known.
        energy_model: of the candidates; "" if unknown.
        max_systems: diagrams.

    Returns:
        The diagrams, and a note: why there are none, or not all.
    """
    if known_hull is None:
        return [], "This screening has no hull."
    if energy_model and energy_model != known_hull.energy_model:
        return [], (
            f"The hull has energies of {known_hull.energy_model}, the candidates have "
            f"those of {energy_model}: they cannot be in one diagram."
        )
    members = collections.defaultdict(list)
    for candidate in candidates:
        members[compositions.symbols_of(candidate.formula)].append(candidate)
    systems = [system for system in members if len(system) in (2, 3)]
    if not systems:
        return [], "No candidate has two or three elements."
    # Names decide among equals.
    systems.sort(key=lambda system: (-len(members[system]), sorted(system)))
    diagrams = []
    for system in systems[:max_systems]:
        within = [
            candidate
            for other, others in members.items()
            if other <= system
            for candidate in others
        ]
        diagrams.append(_describe_system(sorted(system), within, known_hull))
    note = ""
    if len(systems) > max_systems:
        note = (
            f"{len(systems)} systems have candidates; the {max_systems} with the most "
            "are shown."
        )
    return diagrams, note


def _describe_system(
    symbols: Sequence[str], candidates: Sequence[Candidate], known_hull: hulls.Hull
) -> dict[str, Any]:
    """One diagram: known compounds, sides of the hull, rows of the candidates."""
    system = "-".join(symbols)
    diagram = hulls.phase_diagram(known_hull, system)
    # Polymorphs above the lowest are in no diagram.
    lowest: dict[str, Any] = {}
    for entry in sorted(diagram.all_entries, key=lambda each: each.energy_per_atom):
        formula = compositions.format_composition(entry.composition.reduced_composition)
        lowest.setdefault(formula, entry)
    sides = _hull_sides(diagram, symbols)
    below = [each for each in candidates if each.above_hull < _BELOW]
    new_sides = []
    if below:
        extended = hulls.phase_diagram(_extend(known_hull, below), system)
        new_sides = [
            side for side in _hull_sides(extended, symbols) if side not in sides
        ]
    return {
        "symbols": symbols,
        "known": [
            {
                "formula": formula,
                "id": entry.name,
                "fractions": _fractions(entry.composition, symbols),
                "energy": entry.energy_per_atom,
                "above": diagram.get_e_above_hull(entry),
            }
            for formula, entry in lowest.items()
        ],
        "sides": sides,
        "new_sides": new_sides,
        "fractions": {
            formula: _fractions(compositions.parse_composition(formula), symbols)
            for formula in sorted({each.formula for each in candidates})
        },
        "rows": [each.row for each in candidates],
    }


def _extend(hull: hulls.Hull, candidates: Sequence[Candidate]) -> hulls.Hull:
    """The hull as it were with candidates among what is known."""
    more = hulls.build_hull(
        [(each.formula, each.energy, each.name) for each in candidates],
        hull.energy_model,
    )
    return hulls.Hull(hull.entries + more.entries, hull.energy_model)


def _fractions(composition: Composition, symbols: Sequence[str]) -> list[float]:
    return [composition.get_atomic_fraction(symbol) for symbol in symbols]


def _hull_sides(diagram: Any, symbols: Sequence[str]) -> list[list[list[float]]]:
    """Both ends of each side of the hull: atomic fractions, and energy in eV/atom."""
    sides = []
    for facet in diagram.facets:
        ends = [
            [*_fractions(entry.composition, symbols), entry.energy_per_atom]
            for entry in (diagram.qhull_entries[index] for index in facet)
        ]
        sides += [sorted(side) for side in itertools.combinations(ends, 2)]
    # Neighbouring facets share a side.
    return [side for index, side in enumerate(sides) if side not in sides[:index]]
