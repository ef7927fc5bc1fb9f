"""From generated crystals to a ranked table: check, relax, energy above hull, known.

Every crystal keeps its row, with the reason why it fell out.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from crystaljax import (
    elements,
    hull,
    matching,
    relaxation,
    structure,
    validity,
    workers,
)

# How alike a relaxed crystal and a known one are to be called the same.
_SAME = matching.TOLERANCES["paper"]


@dataclasses.dataclass(frozen=True, eq=False)
class Screening:
    """One entry per crystal, in the order given.

    Attributes:
        relaxed: the relaxed crystals; the crystal as it was where it fell out.
        formation_energy: of the relaxed crystals, eV/atom; NaN where there is none.
        above_hull: energy above the hull of the known entries, eV/atom; negative below
            it; NaN where there is none.
        space_group: of the relaxed crystals at symprec 0.1, 0 if none was found.
        converged: whether the relaxation reached its force threshold.
        known_as: id of the known crystal of the same composition that the relaxed one
            matches; "" if it is new.
        duplicate_of: index of the earlier crystal that relaxed to the same; -1 if none.
        fell_out: why a crystal has no energy; "" if it has one.
        energy_model: of all energies.
    """

    relaxed: list[structure.Crystal]
    formation_energy: np.ndarray
    above_hull: np.ndarray
    space_group: np.ndarray
    converged: np.ndarray
    known_as: list[str]
    duplicate_of: np.ndarray
    fell_out: list[str]
    energy_model: str

    def ranking(self) -> np.ndarray:
        """Indices of distinct crystals with an energy, lowest above the hull first."""
        distinct = np.isfinite(self.above_hull) & (self.duplicate_of < 0)
        indices = np.flatnonzero(distinct)
        return indices[np.argsort(self.above_hull[indices], kind="stable")]

    def table(self) -> dict[str, list[Any]]:
        """Columns with one row per crystal."""
        return {
            "formation_energy_relaxed": self.formation_energy.tolist(),
            "energy_above_hull": self.above_hull.tolist(),
            "energy_model_relaxed": [self.energy_model] * len(self.relaxed),
            "space_group_relaxed": self.space_group.tolist(),
            "relaxation_converged": self.converged.tolist(),
            "known_as": self.known_as,
            "duplicate_of": self.duplicate_of.tolist(),
            "fell_out": self.fell_out,
        }


def screen(
    crystals: Sequence[structure.Crystal],
    calculator: str,
    known_hull: hull.Hull,
    known: Sequence[tuple[str, structure.Crystal]],
    *,
    max_steps: int = 200,
    num_workers: int | None = None,
    show_progress: bool = False,
) -> Screening:
    """Checks, relaxes and compares crystals.

    Args:
        crystals: as they were generated.
        calculator: see `relaxation.build_calculator`.
        known_hull: of the same energy model as the calculator.
        known: ids and crystals; only those with a composition in question are compared.
        max_steps: of each relaxation.
        num_workers: processes; all CPUs if None.
        show_progress: print progress bars.

    Raises:
        ValueError: an unknown calculator, elements it does not have, or a hull of
            another energy model.
    """
    energy_model = relaxation.energy_model(calculator)
    relaxation.require_elements(calculator, crystals)
    fell_out = [check.reason for check in map(validity.check, crystals)]
    fit = [i for i, reason in enumerate(fell_out) if not reason]
    relaxations = relaxation.relax_many(
        [crystals[i] for i in fit],
        calculator,
        max_steps=max_steps,
        num_workers=num_workers,
        description="relax" if show_progress else None,
    )

    relaxed = list(crystals)
    energy = np.full(len(crystals), np.nan)
    converged = np.zeros(len(crystals), bool)
    for i, result in zip(fit, relaxations, strict=True):
        fell_out[i] = result.failure
        if not result.failure:
            relaxed[i] = result.crystal
            converged[i] = result.converged
            energy[i] = relaxation.formation_energy(
                calculator, result.crystal.atomic_numbers, result.energy
            )
    above_hull = hull.energy_above_hull(
        known_hull,
        [crystal.atomic_numbers for crystal in crystals],
        energy,
        energy_model,
    )
    space_group = np.array(
        [
            validity.find_space_group(crystal, 0.1) if np.isfinite(value) else 0
            for crystal, value in zip(relaxed, energy, strict=True)
        ],
        dtype=int,
    )
    known_as, duplicate_of = _compare(
        relaxed, energy, known, num_workers, "compare" if show_progress else None
    )
    return Screening(
        relaxed=relaxed,
        formation_energy=energy,
        above_hull=above_hull,
        space_group=space_group,
        converged=converged,
        known_as=known_as,
        duplicate_of=duplicate_of,
        fell_out=fell_out,
        energy_model=energy_model,
    )


def _compare(
    crystals: Sequence[structure.Crystal],
    energy: np.ndarray,
    known: Sequence[tuple[str, structure.Crystal]],
    num_workers: int | None,
    description: str | None,
) -> tuple[list[str], np.ndarray]:
    """Which crystals are known, and which are duplicates of an earlier one."""
    by_formula: dict[str, list[int]] = collections.defaultdict(list)
    for i, crystal in enumerate(crystals):
        if np.isfinite(energy[i]):
            by_formula[elements.reduced_formula(crystal.atomic_numbers)].append(i)
    known_by_formula = collections.defaultdict(list)
    for name, crystal in known:
        formula = elements.reduced_formula(crystal.atomic_numbers)
        if formula in by_formula:
            known_by_formula[formula].append((name, crystal))
    tasks = [
        (
            [crystals[i] for i in members],
            energy[members],
            known_by_formula[formula],
        )
        for formula, members in by_formula.items()
    ]
    known_as = [""] * len(crystals)
    duplicate_of = np.full(len(crystals), -1)
    results = workers.map_in_workers(
        _compare_polymorphs, tasks, num_workers=num_workers, description=description
    )
    for members, result in zip(by_formula.values(), results, strict=True):
        for i, (name, first) in zip(members, result, strict=True):
            known_as[i] = name
            duplicate_of[i] = members[first] if first >= 0 else -1
    return known_as, duplicate_of


def _compare_polymorphs(
    task: tuple[
        list[structure.Crystal], np.ndarray, list[tuple[str, structure.Crystal]]
    ],
) -> list[tuple[str, int]]:
    """(id of the known crystal or "", position of the earlier one or -1) of each."""
    crystals, energy, known = task
    firsts: list[tuple[int, str]] = []
    results = []
    for i, crystal in enumerate(crystals):
        # Energies that differ rule out the same minimum without the slow matcher.
        earlier = next(
            (
                first
                for first in firsts
                if abs(energy[first[0]] - energy[i]) < 0.005
                and _same(crystal, crystals[first[0]])
            ),
            None,
        )
        if earlier is not None:
            results.append((earlier[1], earlier[0]))
            continue
        name = next((name for name, other in known if _same(crystal, other)), "")
        firsts.append((i, name))
        results.append((name, -1))
    return results


def _same(one: structure.Crystal, other: structure.Crystal) -> bool:
    return matching.match(one, other, [_SAME]).rms[0] is not None
