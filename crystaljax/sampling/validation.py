"""What is measured on held-out structures in the course of a training."""

from typing import Any

import numpy as np

from crystaljax.data import dataset as datasets
from crystaljax.data import pairs
from crystaljax.models import build
from crystaljax.sampling import collective_generation, generation, usable_structures
from crystaljax.system import sharding


def validate(
    config: Any, generator: Any, dataset: datasets.Dataset
) -> dict[str, float]:
    """Match rates and validity on structures, or pairs, of the validation split.

    All processes sample, each its share; the first one compares.
    """
    # The matcher brings pymatgen, which training itself does without.
    from crystaljax.matching import matcher
    from crystaljax.sampling import evaluation

    count = config.evaluation.num_structures
    indices, sites = usable_structures.find_usable(config, dataset, "val")
    if len(indices) == 0 or count == 0:
        return {}
    if build.is_modification(config):
        if np.unique(dataset.group[indices]).size == len(indices):
            # No polymorphs, so there is nothing to modify one into.
            return {}
        held_out = pairs.lowest_energy_pairs(
            group=dataset.group,
            energy=dataset.formation_energy,
            indices=indices,
            seed=config.train.seed,
        )[:count]
        questions = evaluation.pair_questions(dataset, held_out, sites)
    else:
        questions = evaluation.structure_questions(dataset, indices[:count], sites)
    key = generation.key_of_seed(config.train.seed)
    if not sharding.is_first_process():
        collective_generation.generate(generator, questions.conditions, key)
        return {}
    results = evaluation.evaluate_samples(
        generator,
        questions,
        key,
        # The paper's and the literature's; looser ones take seconds a pair.
        tolerances=[matcher.TOLERANCES[name] for name in ("paper", "literature")],
        num_workers=config.evaluation.num_workers or None,
    )
    summary = results.summary()
    if generator.energy_error is not None:
        summary["energy_error"] = generator.energy_error
    return {f"validation/{name}": value for name, value in summary.items()}
