"""Energy above the convex hull, by pymatgen's phase diagrams, and a figure of a hull.

Energies are formation energies in eV/atom; the elements are at 0. A hull knows the
energy model its entries were computed with, and refuses energies of any other: numbers
of two models differ by more than the distances to the hull that matter.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.axes
import numpy as np
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition, Element

# A formula such as "Cu3Au1", or the atomic numbers of all sites.
Formula = str | Sequence[int] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Entry:
    """One known compound of a hull.

    Attributes:
        composition: its composition.
        formation_energy: eV/atom, against the elements.
        id: where it came from.
    """

    composition: Composition
    formation_energy: float
    id: str


@dataclasses.dataclass(frozen=True, eq=False)
class Hull:
    """Known compounds, of any number of chemical systems.

    Attributes:
        entries: the compounds; the elements, at 0, come by themselves.
        energy_model: what computed the energies, such as "ASE EMT".
    """

    entries: tuple[Entry, ...]
    energy_model: str

    @functools.cached_property
    def entries_by_system(self) -> dict[frozenset[Element], list[Entry]]:
        """The entries with exactly these elements; in a large hull few are needed."""
        systems = collections.defaultdict(list)
        for entry in self.entries:
            systems[frozenset(entry.composition.elements)].append(entry)
        return dict(systems)


def build_hull(
    entries: Iterable[tuple[Formula, float, str]], energy_model: str
) -> Hull:
    """(formula or atomic numbers, formation energy in eV/atom, id) → hull.

    Raises:
        ValueError: an energy is not finite, or a formula cannot be read.
    """
    checked = []
    for formula, energy, entry_id in entries:
        if not np.isfinite(energy):
            raise ValueError(
                f"entry {entry_id!r} has formation energy {energy}; expected a finite "
                "number of eV/atom: leave entries without energy out"
            )
        checked.append(Entry(parse_composition(formula), float(energy), str(entry_id)))
    return Hull(tuple(checked), energy_model)


def energy_above_hull(
    hull: Hull,
    formulas: Sequence[Formula],
    formation_energies: Sequence[float] | np.ndarray,
    energy_model: str,
) -> np.ndarray:
    """Energy of candidates above the hull of the entries, eV/atom.

    The candidates are not part of the hull: one below it has a negative value, its
    distance to the hull of the entries alone, and does not change what the others get.
    Only entries within a candidate's own elements count. A NaN energy gives NaN.

    Args:
        hull: what is known.
        formulas: formula or atomic numbers of each candidate.
        formation_energies: eV/atom, shape (candidates,).
        energy_model: what computed them.

    Raises:
        ValueError: ``energy_model`` is not the hull's, the lengths differ, or a formula
            cannot be read.
    """
    if energy_model != hull.energy_model:
        raise ValueError(
            f"candidates have energies of {energy_model!r}, the hull has those of "
            f"{hull.energy_model!r}; compute both with one energy model"
        )
    if len(formulas) != len(formation_energies):
        raise ValueError(
            f"{len(formulas)} formulas but {len(formation_energies)} energies"
        )
    hull_energies: dict[Composition, float] = {}
    result = np.empty(len(formulas))
    for i, formula in enumerate(formulas):
        composition = parse_composition(formula).fractional_composition
        if composition not in hull_energies:
            hull_energies[composition] = hull_energy(hull, composition)
        result[i] = formation_energies[i] - hull_energies[composition]
    return result


def hull_energy(hull: Hull, composition: Composition) -> float:
    """Formation energy of the hull at a composition, eV/atom; 0 for an element."""
    diagram = phase_diagram(hull, composition.chemical_system)
    return float(diagram.get_hull_energy_per_atom(composition))  # type: ignore[arg-type]


@functools.lru_cache(maxsize=256)
def phase_diagram(hull: Hull, chemical_system: str) -> PhaseDiagram:
    """Phase diagram (pymatgen's) of one chemical system, such as "Au-Cu".

    Its energies are formation energies: each element is an entry at 0, so an elemental
    entry of the hull below 0 (a lower polymorph than the reference state) is left out.
    """
    elements = sorted(Element(symbol) for symbol in chemical_system.split("-"))
    references = [PDEntry(Composition(e.symbol), 0.0, name=e.symbol) for e in elements]
    entries = [
        PDEntry(
            entry.composition,
            entry.formation_energy * entry.composition.num_atoms,
            name=entry.id,
        )
        for num_elements in range(2, len(elements) + 1)
        for subset in itertools.combinations(elements, num_elements)
        for entry in hull.entries_by_system.get(frozenset(subset), ())
    ]
    return PhaseDiagram(references + entries)


def parse_composition(formula: Formula) -> Composition:
    """A formula such as "Cu3Au1", or atomic numbers of all sites → composition.

    Raises:
        ValueError: it cannot be read, or holds no atom.
    """
    if isinstance(formula, str):
        composition = Composition(formula)
    else:
        numbers, counts = np.unique(np.asarray(formula, dtype=int), return_counts=True)
        composition = Composition(
            {
                Element.from_Z(int(n)): int(count)
                for n, count in zip(numbers, counts, strict=True)
            }
        )
    if composition.num_atoms == 0:
        raise ValueError(f"{formula!r} holds no atom; expected one such as 'Cu3Au1'")
    return composition


def plot_binary_hull(
    ax: matplotlib.axes.Axes,
    hull: Hull,
    elements: tuple[str, str],
    candidate_formulas: Sequence[Formula] = (),
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
    first, second = (Element(symbol) for symbol in elements)
    if first == second:
        raise ValueError(f"elements are {elements}; expected two different ones")
    system = {first, second}
    diagram = phase_diagram(hull, "-".join(sorted(elements)))

    def fraction(composition: Composition) -> float:
        return composition.get_atomic_fraction(second)

    def draw(points: Iterable[tuple[Composition, float]], **style: Any) -> None:
        inside = [(fraction(c), e) for c, e in points if system.issuperset(c.elements)]
        if inside:
            ax.scatter(*zip(*inside, strict=True), **style)

    draw(
        [
            (entry.composition, entry.formation_energy)
            for elements_here, entries in hull.entries_by_system.items()
            if system.issuperset(elements_here)
            for entry in entries
        ],
        s=12,
        color="0.6",
        label="known",
    )
    stable = sorted(
        (fraction(entry.composition), entry.energy_per_atom)
        for entry in diagram.stable_entries
    )
    ax.plot(*zip(*stable, strict=True), "-", color="black", linewidth=1, label="hull")
    candidates = [
        (parse_composition(formula), energy)
        for formula, energy in zip(candidate_formulas, candidate_energies, strict=True)
        if np.isfinite(energy)
    ]
    draw(candidates, s=28, marker="x", color="tab:red", label=candidate_label)
    ax.set_xlabel(f"x in {first.symbol}$_{{1-x}}${second.symbol}$_x$")
    ax.set_ylabel("formation energy (eV/atom)")
    ax.set_xlim(-0.03, 1.03)
    ax.set_title(f"{first.symbol}-{second.symbol}, {hull.energy_model}")
    ax.legend(frameon=False, fontsize="small")
