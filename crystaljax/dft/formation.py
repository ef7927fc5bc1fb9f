"""Total energies of DFT runs → formation energies, against the elements.

A formation energy is a small difference of large numbers: the elements must have been
computed with the same functional, potentials and cutoff as the compound, or it means
nothing. Where they were not, there is no number, and the reason is given.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from crystaljax.crystals import elements
from crystaljax.dft import vasp_runs

# Cutoffs are written with a few digits.
_SAME_CUTOFF = 0.5  # eV


@dataclasses.dataclass(frozen=True)
class Formation:
    """Formation energy of one run.

    Attributes:
        energy: eV/atom; NaN if there is none.
        problem: why there is none; "" if there is one.
    """

    energy: float
    problem: str = ""


def formation_energies(
    runs: Sequence[vasp_runs.Run], given: Mapping[int, float] | None = None
) -> list[Formation]:
    """Formation energies of runs that have an energy, converged or not.

    Args:
        runs: of compounds, and of the elements: the lowest converged run of an element
            with the same settings is what a compound is measured against.
        given: total energies of the elements by atomic number, eV/atom; these come
            before runs, and that they were computed with the same settings is on the
            word of whoever gives them.
    """
    by_element: dict[int, list[vasp_runs.Run]] = collections.defaultdict(list)
    for run in runs:
        numbers = set(run.crystal.atomic_numbers.tolist())
        if run.converged and len(numbers) == 1:
            by_element[numbers.pop()].append(run)
    return [_formation_energy(run, by_element, given or {}) for run in runs]


def _formation_energy(
    run: vasp_runs.Run,
    by_element: Mapping[int, Sequence[vasp_runs.Run]],
    given: Mapping[int, float],
) -> Formation:
    if not np.isfinite(run.energy):
        return Formation(np.nan)
    numbers, counts = np.unique(run.crystal.atomic_numbers, return_counts=True)
    references = []
    problems = []
    for number in numbers.tolist():
        if number in given:
            references.append(given[number])
            continue
        choices = by_element.get(number, ())
        fit = [each for each in choices if not _difference(run, each, number)]
        if fit:
            references.append(min(each.energy for each in fit))
        elif choices:
            problems.append(_difference(run, choices[0], number))
        else:
            problems.append(f"{elements.symbol(number)} has no reference energy")
    if problems:
        return Formation(
            np.nan,
            f"no formation energy: {'; '.join(problems)}: compute the element with "
            "the same settings, or give --references",
        )
    return Formation(float(run.energy - np.dot(references, counts) / counts.sum()))


def _difference(run: vasp_runs.Run, reference: vasp_runs.Run, number: int) -> str:
    """In what a reference differs from a run, in words; "" if in nothing."""
    symbol = elements.symbol(number)
    pairs = [
        (run.energy_model, reference.energy_model),
        (run.potentials.get(symbol), reference.potentials.get(symbol)),
    ]
    for ours, theirs in pairs:
        if ours != theirs:
            return f"{symbol} was computed with {theirs}, this with {ours}"
    # Where a file does not say, nothing is known to differ.
    if abs(run.cutoff - reference.cutoff) > _SAME_CUTOFF:
        return (
            f"{symbol} was computed with a cutoff of {reference.cutoff:g} eV, this "
            f"with {run.cutoff:g} eV"
        )
    return ""
