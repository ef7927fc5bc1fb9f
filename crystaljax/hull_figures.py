"""Figures of hulls: binary systems over composition, ternary ones in the triangle."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.axes
import matplotlib.cm
import matplotlib.colors
import numpy as np
from jaxtyping import Float
from pymatgen.core import Composition, Element

from crystaljax import compositions
from crystaljax import hull as hulls

# eV/atom; candidates farther above the hull have one colour.
_MAX_SHOWN = 0.2
# Corners of the triangle: first element left, second right, third on top.
_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]])
# More names than that cannot be read.
_MAX_NAMES = 20


def plot_hull(
    ax: matplotlib.axes.Axes,
    hull: hulls.Hull,
    elements: Sequence[str],
    candidate_formulas: Sequence[compositions.Formula] = (),
    candidate_energies: Sequence[float] | np.ndarray = (),
    *,
    candidate_label: str = "candidates",
) -> None:
    """Draws the hull of two or three elements; see the functions for each.

    Raises:
        ValueError: neither two nor three different elements, or the candidates'
            lengths differ.
    """
    plots = {2: plot_binary_hull, 3: plot_ternary_hull}
    if len(elements) not in plots:
        raise ValueError(
            f"the hull of {len(elements)} elements ({', '.join(elements)}) cannot be "
            "drawn; expected two or three"
        )
    plots[len(elements)](
        ax,
        hull,
        tuple(elements),
        candidate_formulas,
        candidate_energies,
        candidate_label=candidate_label,
    )


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
    first, second = _parse_elements(elements, 2)

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


def plot_ternary_hull(
    ax: matplotlib.axes.Axes,
    hull: hulls.Hull,
    elements: tuple[str, ...],
    candidate_formulas: Sequence[compositions.Formula] = (),
    candidate_energies: Sequence[float] | np.ndarray = (),
    *,
    candidate_label: str = "candidates",
) -> None:
    """Draws the triangle of three elements: stable compounds and their tie lines.

    Candidates are coloured by energy above the hull of the known entries, those below
    it have one colour of their own. Where several have one composition, the lowest lies
    on top.

    Args:
        ax: where to draw; its figure gets a colour bar.
        hull: entries of other systems are left out.
        elements: three symbols: of the left, right and upper corner.
        candidate_formulas: those of other systems are left out.
        candidate_energies: formation energies, eV/atom; NaN is left out.
        candidate_label: for the legend.

    Raises:
        ValueError: not three different elements, or the candidates' lengths differ.
    """
    _parse_elements(elements, 3)
    diagram = _phase_diagram(hull, elements)
    stable = {entry.composition.reduced_composition for entry in diagram.stable_entries}
    for begin, end in _tie_lines(diagram, elements):
        ax.plot(*zip(begin, end, strict=True), "-", color="0.4", linewidth=0.8)
    others = {
        composition.reduced_composition for composition, _ in _known(hull, elements)
    } - stable
    if others:
        points = triangle_positions(sorted(others, key=str), elements)
        ax.scatter(*points.T, s=10, color="0.7", zorder=2, label="known, above it")
    names = sorted(stable, key=str)
    points = triangle_positions(names, elements)
    ax.scatter(*points.T, s=30, color="black", zorder=3, label="known, on the hull")
    _write_names(ax, elements, names, points)
    candidates = _candidates(candidate_formulas, candidate_energies, elements)
    if candidates:
        _draw_in_triangle(ax, hull, elements, candidates, candidate_label)
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.set_title(f"{'-'.join(elements)}, {hull.energy_model}")
    ax.legend(frameon=False, fontsize="small", loc="upper left")


def triangle_positions(
    formulas: Sequence[Composition], elements: Sequence[str]
) -> Float[np.ndarray, "formulas 2"]:
    """Compositions → points in the triangle; its sides have length 1."""
    fractions = [
        [composition.get_atomic_fraction(symbol) for symbol in elements]
        for composition in formulas
    ]
    return np.array(fractions, float).reshape(-1, 3) @ _CORNERS


def _tie_lines(
    diagram: Any, elements: Sequence[str]
) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Ends of the sides of all facets of the hull, each side once."""
    sides = set()
    for facet in diagram.facets:
        entries = [diagram.qhull_entries[index] for index in facet]
        corners = triangle_positions([e.composition for e in entries], elements)
        rounded = [tuple(np.round(corner, 9).tolist()) for corner in corners]
        for one, other in zip(rounded, rounded[1:] + rounded[:1], strict=True):
            sides.add((min(one, other), max(one, other)))
    return sorted(sides)


def _write_names(
    ax: matplotlib.axes.Axes,
    elements: Sequence[str],
    names: Sequence[Composition],
    points: np.ndarray,
) -> None:
    """Names of the stable compounds, or of the elements alone where they are many."""
    # Outwards from the side that a compound lies on, so that no line is crossed.
    places = [((8, 0), "left"), ((-8, 0), "right"), ((0, -13), "center")]
    for composition, point in zip(names, points, strict=True):
        is_element = len(composition) == 1
        if not is_element and len(names) > _MAX_NAMES:
            continue
        offset, alignment = (0, 7), "center"
        if not is_element or point[1] < 0.5:
            fractions = [composition.get_atomic_fraction(each) for each in elements]
            # From the last: the lower corners have their names below.
            for absent, place in reversed(list(zip(fractions, places, strict=True))):
                if absent == 0:
                    offset, alignment = place
                    break
        # pymatgen's reduced formula of oxygen is O2.
        symbol = composition.elements[0].symbol
        ax.annotate(
            symbol if is_element else composition.reduced_formula,
            point,
            xytext=offset,
            textcoords="offset points",
            ha=alignment,
            va="baseline" if alignment == "center" else "center",
            fontsize=11 if is_element else 7,
        )


def _draw_in_triangle(
    ax: matplotlib.axes.Axes,
    hull: hulls.Hull,
    elements: Sequence[str],
    candidates: Sequence[tuple[Composition, float]],
    label: str,
) -> None:
    formulas = [formula for formula, _ in candidates]
    above = np.array(
        [
            energy - hulls.hull_energy(hull, composition)
            for composition, energy in candidates
        ]
    )
    # The lowest last, so that it lies on top.
    order = np.argsort(-above, kind="stable")
    points = triangle_positions(formulas, elements)[order]
    colors = matplotlib.colormaps["viridis"].with_extremes(under="tab:red")
    norm = matplotlib.colors.Normalize(0, _MAX_SHOWN)
    # Rounding errors are not below the hull.
    values = np.where(np.abs(above) < 1e-6, 0.0, above)[order]
    drawn = ax.scatter(
        *points.T,
        c=values,
        cmap=colors,
        norm=norm,
        s=60,
        marker="D",
        edgecolors="white",
        linewidths=0.5,
        zorder=4,
        label=label,
    )
    ax.figure.colorbar(
        drawn,
        ax=ax,
        extend="both",
        shrink=0.7,
        label="energy above the hull (eV/atom); red: below",
    )


def _parse_elements(elements: Sequence[str], count: int) -> list[Element]:
    parsed = [Element(symbol) for symbol in elements]
    if len(set(parsed)) != count or len(parsed) != count:
        word = {2: "two", 3: "three"}[count]
        raise ValueError(
            f"elements are {tuple(elements)}; expected {word} different ones"
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
        raise ValueError(f"{len(formulas)} formulas but {len(energies)} energies")
    parsed = [
        (compositions.parse_composition(formula), float(energy))
        for formula, energy in zip(formulas, energies, strict=True)
        if np.isfinite(energy)
    ]
    system = frozenset(elements)
    return [each for each in parsed if compositions.symbols_of(each[0]) <= system]
