"""A hull of known crystals, relaxed with the screening's own calculator and settings.

Nothing of another energy scale comes in, so that what the hull lacks is only what the
known crystals lack. Relaxations are kept, and later screenings take them from there.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from crystaljax.crystals import structure, validity
from crystaljax.hull import compositions, convex_hull, energy_scale
from crystaljax.hull import entries as hull_entries
from crystaljax.relaxation import calculators, kept, references
from crystaljax.screening import funnel, known_crystals, stages
from crystaljax.system import errors


@dataclasses.dataclass(frozen=True, eq=False)
class RelaxedHull:
    """Known crystals, relaxed.

    Attributes:
        hull: of those that have an energy, with their relaxed crystals.
        references: energies of the elements by atomic number: the lower of the
            reference crystals and the known crystals of each.
        num_known: crystals of these chemical systems.
        num_new: that were relaxed now.
        path: where the relaxations are kept; None for nowhere but the screening.
        problems: of those without an energy, a line each.
    """

    hull: convex_hull.Hull
    references: references.References
    num_known: int
    num_new: int
    path: pathlib.Path | None
    problems: list[str]

    def describe(self) -> list[str]:
        """What there is, in lines."""
        systems = {
            "-".join(sorted(compositions.symbols_of(entry.composition)))
            for entry in self.hull.entries
        }
        num_left = self.num_known - len(self.problems)
        lines = [
            f"hull: {num_left} known crystals of {len(systems)} chemical systems "
            f"({', '.join(sorted(systems)[:6])}{', …' if len(systems) > 6 else ''}), "
            f"relaxed with {self.hull.energy_model} under the same settings: "
            f"{self.num_new} now, {self.num_known - self.num_new} before"
            + (f"; kept in {self.path}" if self.path else "")
        ]
        lines += [f"not on the hull: {problem}" for problem in self.problems[:10]]
        if len(self.problems) > 10:
            lines.append(f"… and {len(self.problems) - 10} more")
        return lines


def build(
    known: known_crystals.KnownCrystals,
    calculator: str,
    crystals: Sequence[structure.Crystal],
    options: funnel.ScreeningOptions,
    work: pathlib.Path | None = None,
) -> RelaxedHull:
    """Relaxes known crystals and makes their hull.

    Args:
        known: of the chemical systems of ``crystals``.
        calculator: see `calculators.build_calculator`.
        crystals: to be screened; the elements of these need energies.
        options: of the screening.
        work: folder of the screening, for calculators without an identity of their
            own.

    Raises:
        ValueError, ImportError: see `calculators.build_calculator`.
    """
    supported = calculators.supported_elements(calculator)
    problems = list(known.problems)
    chosen: list[int] = []
    for i, crystal in enumerate(known.crystals):
        symbols = compositions.symbols_of(np.asarray(crystal.atomic_numbers))
        reason = validity.find_relaxation_problem(crystal)
        if supported is not None and not symbols <= supported:
            missing = ", ".join(sorted(symbols - supported))
            reason = f"{calculator} has no parameters for {missing}"
        if reason:
            problems.append(f"{known.ids[i]}: {reason}")
        else:
            chosen.append(i)
    numbers = {int(n) for each in crystals for n in each.atomic_numbers if n > 0}
    numbers |= {int(n) for i in chosen for n in known.crystals[i].atomic_numbers}
    found, missing_elements = stages.find_references(
        calculator,
        sorted(numbers),
        options.references,
        options.workers("relax elements"),
        options.kept,
    )
    path = kept.find_file(calculator, options.settings, options.kept)
    place = path
    if place is None and work is not None:
        place = work / "known.jsonl"

    def relax(waiting):
        method = stages.choose_method(
            options.method,
            calculator,
            options.settings.optimizer,
            len(waiting),
            options.cluster,
        )
        return stages.relax(
            waiting,
            calculator,
            options.settings,
            method,
            options.workers("relax known crystals"),
        )

    relaxed, num_new = kept.relax([known.crystals[i] for i in chosen], place, relax)
    energies = dict(found)
    for each in relaxed:
        elements = set(map(int, each.crystal.atomic_numbers))
        given = options.references
        is_given = given is not None and elements <= given.energies.keys()
        if len(elements) == 1 and not each.problem and not is_given:
            number = elements.pop()
            energies[number] = min(each.energy, energies.get(number, np.inf))
    scale = energy_scale.EnergyScale(
        funnel.find_energy_model(calculator, None, options.energy_model),
        energies,
        energy_scale.adds_corrections(calculator),
    )
    entries = []
    for i, each in zip(chosen, relaxed, strict=True):
        reason = each.problem
        try:
            if not reason and not np.isfinite(each.energy):
                reason = "the calculator gave no energy"
            if not reason:
                energy = scale.formation_energy(each.crystal, each.energy)
                entries.append(
                    hull_entries.build_entry(
                        np.asarray(each.crystal.atomic_numbers, dtype=int),
                        energy,
                        known.ids[i],
                        each.crystal,
                    )
                )
        except ValueError as error:
            reason = str(error)
        except KeyError as error:
            (number,) = error.args
            reason = missing_elements.get(number, f"element {number} has no energy")
        if reason:
            problems.append(f"{known.ids[i]}: {reason}")
    return RelaxedHull(
        convex_hull.Hull(tuple(entries), scale.energy_model),
        references.References(energies=energies),
        num_known=len(known.crystals) + len(known.problems),
        num_new=num_new,
        path=path,
        problems=problems,
    )


def read_known(
    path: str, crystals: Sequence[structure.Crystal]
) -> known_crystals.KnownCrystals:
    """Known crystals of the chemical systems of crystals to be screened.

    Raises:
        FileNotFoundError, ValueError: see `known_crystals.read`.
    """
    systems = {
        compositions.symbols_of(np.asarray(each.atomic_numbers, dtype=int))
        for each in crystals
        if len(each.atomic_numbers) and min(each.atomic_numbers) > 0
    }
    if not systems:
        raise errors.UserError("none of the crystals to be screened could be read")
    return known_crystals.read(path, systems)
