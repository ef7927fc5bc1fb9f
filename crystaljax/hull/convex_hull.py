"""Energy above the convex hull, by pymatgen's phase diagrams.

Energies are formation energies in eV/atom; the elements are at 0. A hull knows the
energy model its entries were computed with, and refuses energies of any other: numbers
of two models differ by more than the distances to the hull that matter.
"""

import collections
import dataclasses
import functools
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition, Element

from crystaljax.hull import compositions
from crystaljax.hull import entries as hull_entries
from crystaljax.system import errors

Formula = compositions.Formula


@dataclasses.dataclass(frozen=True, eq=False)
class Hull:
    """Known compounds, of any number of chemical systems.

    Attributes:
        entries: the compounds; the elements, at 0, come by themselves.
        energy_model: what computed the energies, such as "ASE EMT".
        left_out: what its source had that cannot be used, in words.
        dft: of total energies, as `pretrained` names it; "" for formation energies.
        element_energies: total energies of the elements by symbol, eV/atom, that the
            entries' formation energies are against; with ``dft``.
    """

    entries: tuple[hull_entries.Entry, ...]
    energy_model: str
    left_out: tuple[str, ...] = ()
    dft: str = ""
    element_energies: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def entries_by_system(self) -> dict[frozenset[Element], list[hull_entries.Entry]]:
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
    built = [hull_entries.build_entry(*entry) for entry in entries]
    return Hull(tuple(built), energy_model)


def load_hull(
    spec: str,
    formulas: Sequence[Formula] = (),
    *,
    energy_model: str | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> Hull:
    """Hull of the entries in a file or data set, or of AFLOW.

    Args:
        spec: ``FILE.csv``, ``FILE.json``, ``dataset:PATH``, ``builtin``,
            ``aflow:B-Ta-W`` or ``aflow``; see `entries.read_entries`.
        formulas: only entries within the chemical systems of these; all if empty.
        energy_model: what computed the energies, in the words of the user: taken where
            the source does not say, and in place of what it says.
        cache: directory for what AFLOW sends; ``~/.cache/crystaljax`` if None.

    Raises:
        FileNotFoundError: there is no such file or data set.
        ValueError: see `entries.read_entries`.
    """
    read = hull_entries.read_entries(
        spec, formulas, energy_model=energy_model, cache=cache
    )
    return Hull(
        read.entries,
        read.energy_model,
        read.left_out,
        read.dft,
        read.element_energies,
    )


def restrict(hull: Hull, formulas: Sequence[Formula]) -> Hull:
    """The same hull, with the entries within the chemical systems of formulas only.

    Raises:
        ValueError: a formula cannot be read.
    """
    systems = compositions.chemical_systems(formulas)
    kept = [
        entry
        for entry in hull.entries
        if compositions.is_within(compositions.symbols_of(entry.composition), systems)
    ]
    return dataclasses.replace(hull, entries=tuple(kept))


def to_dict(hull: Hull, formulas: Sequence[Formula] = ()) -> dict[str, Any]:
    """Hull → JSON values: what ``hull.json`` of a screening holds.

    Args:
        hull: what to write.
        formulas: only entries within the chemical systems of these; all if empty.
    """
    if len(formulas):
        hull = restrict(hull, formulas)
    totals = {}
    if hull.dft:
        totals = {"dft": hull.dft, "element_energies": dict(hull.element_energies)}
    return {
        "energy_model": hull.energy_model,
        **totals,
        "entries": [
            {
                "formula": compositions.format_composition(entry.composition),
                "formation_energy": entry.formation_energy,
                "id": entry.id,
            }
            for entry in hull.entries
        ],
    }


def from_dict(value: Mapping[str, Any]) -> Hull:
    """What `to_dict` gave → hull.

    Raises:
        ValueError: a key is missing, or an entry cannot be read.
    """
    try:
        rows = [
            (str(entry["formula"]), float(entry["formation_energy"]), str(entry["id"]))
            for entry in value["entries"]
        ]
        energy_model = value["energy_model"]
    except (KeyError, TypeError) as error:
        raise errors.UserError(
            f"no hull: {error!r}; expected energy_model, and entries with formula, "
            "formation_energy and id"
        ) from error
    return dataclasses.replace(
        build_hull(rows, str(energy_model)),
        dft=str(value.get("dft") or ""),
        element_energies=dict(value.get("element_energies") or {}),
    )


def energy_above_hull(
    hull: Hull,
    formulas: Sequence[Formula],
    formation_energies: Sequence[float] | np.ndarray,
    energy_model: str,
) -> np.ndarray:
    """Energy of candidates above the hull of the entries, eV/atom.

    The candidates are not part of the hull: one below it has a negative value, its
    distance to the hull of the entries alone, and does not change other distances.
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
        raise errors.UserError(
            f"candidates have energies of {energy_model!r}, the hull has those of "
            f"{hull.energy_model!r}; compute both with one energy model (if they are "
            "the same under two names, say so with --hull_energy_model)"
        )
    if len(formulas) != len(formation_energies):
        raise errors.UserError(
            f"{len(formulas)} formulas but {len(formation_energies)} energies"
        )
    hull_energies: dict[Composition, float] = {}
    result = np.empty(len(formulas))
    for i, formula in enumerate(formulas):
        composition = compositions.parse_composition(formula).fractional_composition
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
