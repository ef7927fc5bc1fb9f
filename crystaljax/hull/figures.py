"""Figures of the hulls of binary systems: formation energy over composition."""

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.axes
import matplotlib.cm
import matplotlib.colors
import numpy as np
from pymatgen.core import Composition, Element

from crystaljax.hull import compositions
from crystaljax.hull import convex_hull as hulls
from crystaljax.system import errors


def plot_binary_hull(
    ax: matplotlib.axes.Axes,
    hull: hulls.Hull,
    elements: tuple[str, ...],
    candidate_formulas: Sequence[compositions.Formula] = (),
    candidate_energies: Sequence[float] | np.ndarray = (),
    *,
    candidate_label: str = "candidates",
) -> None:
    """Draws formation energy against composition: first element left, second right.

    Args:
        ax: where to draw.
        hull: entries of other systems are left out.
        elements: two symbols.
        candidate_formulas: those of other systems are left out.
        candidate_energies: formation energies, eV/atom; NaN is left out.
        candidate_label: for the legend.

    Raises:
        ValueError: not two different elements, or the candidates' lengths differ.
    """
    first, second = _parse_elements(elements)

    def fraction(composition: Composition) -> float:
        return composition.get_atomic_fraction(second)

    def draw(points: Iterable[tuple[Composition, float]], **style: Any) -> None:
        inside = [(fraction(composition), energy) for composition, energy in points]
        if inside:
            ax.scatter(*zip(*inside, strict=True), **style)

    known = _known(hull, elements)
    draw(known, s=12, color="0.6", label="known")
    stable = sorted(
        (fraction(entry.composition), entry.energy_per_atom)
        for entry in _phase_diagram(hull, elements).stable_entries
    )
    ax.plot(*zip(*stable, strict=True), "-", color="black", linewidth=1, label="hull")
    candidates = _candidates(candidate_formulas, candidate_energies, elements)
    draw(candidates, s=28, marker="x", color="tab:red", label=candidate_label)
    ax.set_xlabel(f"x in {first.symbol}$_{{1-x}}${second.symbol}$_x$")
    ax.set_ylabel("formation energy (eV/atom)")
    ax.set_xlim(-0.03, 1.03)
    ax.set_title(f"{first.symbol}-{second.symbol}, {hull.energy_model}")
    ax.legend(frameon=False, fontsize="small")


def _parse_elements(elements: Sequence[str]) -> list[Element]:
    parsed = [Element(symbol) for symbol in elements]
    if len(set(parsed)) != 2 or len(parsed) != 2:
        raise errors.UserError(
            f"elements are {tuple(elements)}; expected two different ones"
        )
    return parsed


def _phase_diagram(hull: hulls.Hull, elements: Sequence[str]) -> Any:
    return hulls.phase_diagram(hull, "-".join(sorted(elements)))


def _known(
    hull: hulls.Hull, elements: Sequence[str]
) -> list[tuple[Composition, float]]:
    """Compositions and energies of the entries within a system."""
    system = {Element(symbol) for symbol in elements}
    return [
        (entry.composition, entry.formation_energy)
        for symbols, entries in hull.entries_by_system.items()
        if system.issuperset(symbols)
        for entry in entries
    ]


def _candidates(
    formulas: Sequence[compositions.Formula],
    energies: Sequence[float] | np.ndarray,
    elements: Sequence[str],
) -> list[tuple[Composition, float]]:
    """Those within the system that have an energy."""
    if len(formulas) != len(energies):
        raise errors.UserError(f"{len(formulas)} formulas but {len(energies)} energies")
    parsed = [
        (compositions.parse_composition(formula), float(energy))
        for formula, energy in zip(formulas, energies, strict=True)
        if np.isfinite(energy)
    ]
    system = frozenset(elements)
    return [each for each in parsed if compositions.symbols_of(each[0]) <= system]
