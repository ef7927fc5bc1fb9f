"""Answers that no network gave: what a match rate has to be compared with."""

import collections
from collections.abc import Sequence

import numpy as np

from crystaljax.crystals import elements, structure
from crystaljax.data import dataset as datasets
from crystaljax.data import templates


def nearest(
    known: datasets.Dataset, test: datasets.Dataset, asked: np.ndarray
) -> list[structure.Crystal]:
    """The training structure with the nearest condition, relabelled.

    Among training structures of the same anonymous cell formula, one with the same
    space group if there is any, then the one whose species (in the order of their
    Mendeleev numbers among those that are equally frequent) and energy are nearest:
    root mean square of the differences of Mendeleev numbers, in tens, and of the
    energies, in deviations of the training structures. Where no training structure has
    the anonymous formula the answer is a site at the origin for each atom, which
    matches nothing.
    """
    train = known.indices("train")
    scale = float(np.std(known.formation_energy[train])) or 1.0
    by_formula = collections.defaultdict(list)
    for index in train.tolist():
        crystal = datasets.crystal(known, index)
        species, counts = templates.roles(crystal.atomic_numbers)
        by_formula[counts].append((index, species))
    numbers = elements.mendeleev_number()
    answers = []
    for index in asked.tolist():
        target = datasets.crystal(test, index)
        species, counts = templates.roles(target.atomic_numbers)
        candidates = by_formula[counts]
        group = test.space_group[index]
        same = [each for each in candidates if known.space_group[each[0]] == group]
        candidates = same or candidates
        if not candidates:
            nothing = np.zeros_like(target.frac_coords)
            answers.append(
                structure.Crystal(target.atomic_numbers, nothing, target.lattice)
            )
            continue
        indices = np.array([each[0] for each in candidates])
        theirs = numbers[np.array([each[1] for each in candidates])]
        apart = np.mean(((theirs - numbers[list(species)]) / 10) ** 2, axis=1)
        energy = known.formation_energy[indices] - test.formation_energy[index]
        best = indices[np.argmin(apart + (energy / scale) ** 2)]
        answers.append(relabel(datasets.crystal(known, int(best)), species))
    return answers


def relabel(crystal: structure.Crystal, species: Sequence[int]) -> structure.Crystal:
    """The same structure of other elements."""
    old, _ = templates.roles(crystal.atomic_numbers)
    new_of = dict(zip(old, species, strict=True))
    renamed = [new_of[number] for number in np.asarray(crystal.atomic_numbers).tolist()]
    return structure.Crystal(np.array(renamed), crystal.frac_coords, crystal.lattice)


def random_placement(
    targets: Sequence[structure.Crystal], seed: int
) -> list[structure.Crystal]:
    """Sites anywhere in the true lattice."""
    rng = np.random.default_rng(seed)
    return [
        structure.Crystal(
            target.atomic_numbers, rng.random(target.frac_coords.shape), target.lattice
        )
        for target in targets
    ]
