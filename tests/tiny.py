"""A data set and a network that tests train in seconds."""

import numpy as np

from crystaljax import elements, structure
from crystaljax.data import columnar
from crystaljax.data import dataset as datasets


def write_dataset(path):
    """Sixty CsCl- and L1_2-like crystals of three metals, in six polymorph groups."""
    rng = np.random.default_rng(0)
    crystals, energies = [], []
    for i in range(60):
        one, other = [(29, 79), (29, 47), (47, 79)][i % 3]
        if i % 2:
            numbers = [one, other]
            coords = [[0, 0, 0], [0.5, 0.5, 0.5]]
        else:
            numbers = [one, other, other, other]
            coords = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
        order = np.argsort([elements.symbol(n) for n in numbers], kind="stable")
        crystals.append(
            structure.Crystal(
                np.array(numbers)[order],
                np.array(coords, float)[order],
                np.eye(3) * (3 + rng.random()),
            )
        )
        energies.append(rng.normal(0, 0.1))
    columns = columnar.columns_from_crystals(
        [f"crystal-{i}" for i in range(60)],
        [elements.cell_formula(c.atomic_numbers) for c in crystals],
        crystals,
        [221] * 60,
        energies,
    )
    split = np.where(np.arange(60) < 48, 0, 1)
    datasets.write_dataset(path, columns, split, {"energy_model": "none"})


def shrink(config, dataset_path, num_steps=4):
    """Makes a smoke config one of seconds."""
    config.data.path = str(dataset_path)
    config.model.channels = 8
    config.model.channel_multipliers = (1,)
    config.model.norm_groups = 2
    config.model.element_channels = (4, 4, 4)
    config.model.site_features = 8
    config.sampler.num_steps = min(config.sampler.num_steps, 5)
    config.train.batch_size = 8
    config.train.num_steps = num_steps
    config.train.steps_per_dispatch = 2
    config.train.log_every = 2
    config.train.checkpoint_every = 2
    config.train.validate_every = 0
    config.evaluation.num_structures = 4
    config.evaluation.batch_size = 8
    config.evaluation.num_workers = 1
    return config
