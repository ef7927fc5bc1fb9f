"""A data set and a network that tests train in seconds, and crystals to mend."""

import importlib
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from crystaljax.crystals import elements, structure
from crystaljax.data import columnar
from crystaljax.data import dataset as datasets
from crystaljax.models import build, initial
from crystaljax.sampling import build as build_sampling
from crystaljax.system import sharding
from crystaljax.training import build as build_training
from crystaljax.training import checkpoints, runs

ROOT = pathlib.Path(__file__).parents[1]


def write_dataset(path, *, doubled=0, metals=(29, 47, 79)):
    """Sixty CsCl- and L1_2-like crystals of three metals, in six polymorph groups.

    The last ``doubled`` of each group of ten are doubled along a: 4 or 8 sites.
    """
    rng = np.random.default_rng(0)
    crystals, energies = [], []
    for i in range(60):
        one, other = [metals[::2], metals[:2], metals[1:]][i % 3]
        if i % 2:
            numbers = [one, other]
            coords = [[0, 0, 0], [0.5, 0.5, 0.5]]
        else:
            numbers = [one, other, other, other]
            coords = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
        lattice = np.eye(3) * (3 + rng.random())
        if i // 6 >= 10 - doubled:
            numbers = numbers * 2
            coords = [[x / 2 + half, y, z] for half in (0, 0.5) for x, y, z in coords]
            lattice[0] *= 2
        order = np.argsort([elements.symbol(n) for n in numbers], kind="stable")
        crystals.append(
            structure.Crystal(
                np.array(numbers)[order],
                np.array(coords, float)[order],
                lattice,
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


def disturb(crystal, seed, size=0.01):
    """Moves sites by about ``size`` Å, and strains the lattice by a fifth of it."""
    rng = np.random.default_rng(seed)
    shift = rng.normal(0, size, (crystal.num_sites, 3)) @ np.linalg.inv(crystal.lattice)
    strain = np.eye(3) + rng.normal(0, size / 5, (3, 3))
    return structure.Crystal(
        crystal.atomic_numbers, crystal.frac_coords + shift, crystal.lattice @ strain
    )


def config(method, dataset_path, num_steps=4, **changes):
    """The smoke config of a method, made one of seconds.

    Args:
        method: name of a file in configs/.
        dataset_path: of the data set.
        num_steps: of training, a multiple of 2.
        changes: values by key, with ``__`` for the dots.
    """
    module = importlib.import_module(f"configs.{method}")
    made = shrink(module.get_config("smoke"), dataset_path, num_steps)
    flat = {key.replace("__", "."): value for key, value in changes.items()}
    made.update_from_flattened_dict(flat)
    return made


def flags(method, dataset_path, num_steps=4, **changes):
    """Those of the command that make the config of `config`."""
    made = config(method, dataset_path, num_steps, **changes)
    start = importlib.import_module(f"configs.{method}").get_config("smoke")
    found = [f"--config={ROOT / 'configs' / method}.py:smoke"]
    for section, values in start.items():
        for key, value in getattr(values, "items", dict)():
            if made[section][key] != value:
                text = str(made[section][key]).replace(" ", "")
                found.append(f"--config.{section}.{key}={text}")
    return found


class SmallNetwork(nn.Module):
    """Two layers that know no conditions: for what any network would do.

    It has 4 arrays and compiles in a fifth of the time of those in configs/.
    """

    dtype: Any = jnp.float32
    num_templates: int = 0
    estimator_depth: int = 0
    width: int = 64
    answers: int = 3

    def tables(self):
        """None."""
        return {}

    def setup(self):
        """Makes the layers."""
        self.hidden, self.out = nn.Dense(self.width), nn.Dense(self.answers)

    def encode_conditions(self, *conditions):
        """Nothing."""

    def predict(self, x, t, encoded):
        """Answers by row."""
        return self.out(nn.tanh(self.hidden(x)))

    def __call__(self, x, t, *conditions):
        """Answers by row."""
        return self.predict(x, t, None)


def shrink(config, dataset_path, num_steps=4):
    """Makes a smoke config one of seconds: compilation is most of a test's time."""
    config.data.path = str(dataset_path)
    config.model.channels = 8
    config.model.channel_multipliers = (1,)
    config.model.num_res_blocks = 0
    # In the middle there is attention whatever is said here.
    config.model.attention_levels = ()
    config.model.norm_groups = 2
    config.model.element_channels = (4, 4, 4)
    config.model.site_features = 8
    config.model.width = 16
    config.model.depth = 1
    config.model.num_heads = 2
    config.model.pair_features = 4
    config.model.estimator_depth = min(config.model.estimator_depth, 1)
    config.sampler.draws = min(config.sampler.draws, 2)
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


def build_network(config):
    """A model, its units, and random parameters, where nothing has to be trained."""
    scale = build_training.build_scaling(
        config,
        4 * np.eye(3) + np.zeros((2, 1, 1)),
        np.array([-0.1, 0.1]),
        np.full((2, 1), 29),
    )
    model = build.build_model(config)
    shapes = initial.param_shapes(model, config.data.rows)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: np.float32(rng.normal(0, leaf.size**-0.3, leaf.shape)), shapes
    )
    return model, scale, params


def build_generator(config):
    """The sampler of a config with random parameters."""
    model, scale, params = build_network(config)
    generator = build_sampling.build_generator(
        config, model, scale, sharding.build_local_mesh(), None
    )
    return generator.with_params(params, None)


def write_run(path, config):
    """A run directory with random parameters, as if trained for 0 steps."""
    dataset = datasets.open_dataset(config.data.path)
    _, scale, params = build_network(config)
    vocabulary = {**datasets.vocabulary(dataset), "energy_model": "none"}
    runs.create_run(path, config, scale, vocabulary)
    with checkpoints.open_manager(path, keep=1) as manager:
        checkpoints.save_params(manager, 0, params)
