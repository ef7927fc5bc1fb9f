"""Do crystals have the energy that they were asked to have? For alloys, by EMT."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from crystaljax.crystals import elements, structure
from crystaljax.relaxation import ase_relaxation, batches, references

FEWEST_FOR_RANKS = 4


def compare(samples: Sequence[structure.Crystal], asked: np.ndarray) -> dict[str, Any]:
    """Relaxes samples with EMT; formation energies against those asked for, eV/atom.

    The rank correlation is Spearman's within each cell formula of at least four
    samples, averaged over formulas.
    """
    settings = ase_relaxation.RelaxationSettings(max_steps=200)
    relaxed = batches.relax_many(samples, "emt", settings)
    present = {int(z) for sample in samples for z in sample.atomic_numbers}
    elemental, _ = references.element_energies("emt", sorted(present))
    found = np.array(
        [
            np.nan
            if each.failure
            else references.formation_energy(
                elemental, sample.atomic_numbers, each.energy
            )
            for each, sample in zip(relaxed, samples, strict=True)
        ]
    )
    good = np.isfinite(found)
    by_formula = collections.defaultdict(list)
    for i in np.flatnonzero(good).tolist():
        by_formula[elements.cell_formula(samples[i].atomic_numbers)].append(i)
    ranks = [
        stats.spearmanr(found[members], asked[members])[0]
        for members in by_formula.values()
        if len(members) >= FEWEST_FOR_RANKS
    ]
    errors = np.abs(found[good] - asked[good])
    return {
        "model": "EMT of ASE, cells relaxed",
        "relaxed": int(good.sum()),
        "mean_absolute_error": float(errors.mean()),
        "median_absolute_error": float(np.median(errors)),
        "rank_correlation_within_formulas": float(np.mean(ranks)) if ranks else None,
        "num_formulas": len(ranks),
    }
