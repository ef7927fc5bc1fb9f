"""The estimator of energies of models of orbits: it learns, and goes on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crystaljax.models import orbit_estimator
from crystaljax.training import estimator_training

SETTINGS = estimator_training.Settings(depth=1, num_epochs=24, max_sites=2)


@pytest.fixture(scope="module")
def cells():
    """Pairs of atoms whose energy follows from elements and distance."""
    rng = np.random.default_rng(0)
    count = 256
    numbers = rng.choice([29, 47, 79], (count, 2)).astype(np.int32)
    edges = rng.uniform(2.5, 4.0, count).astype(np.float32)
    lattice = edges[:, None, None] * np.eye(3, dtype=np.float32)
    coords = np.tile(np.array([[0, 0, 0], [0.5, 0.5, 0.5]], np.float32), (count, 1, 1))
    energy = 2 * (edges - 3.2) + 0.02 * (numbers.mean(axis=1) - 50)
    return [(numbers, coords, lattice, energy.astype(np.float32))]


@pytest.fixture(scope="module")
def trained(cells):
    losses = []
    estimator = estimator_training.train(cells, SETTINGS, log_fn=losses.append)
    return estimator, losses


def estimate(estimator, cells):
    network = orbit_estimator.build_network(estimator.depth)
    table = orbit_estimator.element_table()
    arrays = map(jnp.asarray, cells[0][:3])
    return np.asarray(jax.jit(network.apply)(estimator.params, *arrays, table))


def test_energies_are_learned(cells, trained):
    estimator, losses = trained
    assert len(losses) == SETTINGS.num_epochs
    assert losses[-1] < losses[0] / 4
    error = np.abs(estimate(estimator, cells) - cells[0][3]).mean()
    assert error < 0.25 * np.abs(cells[0][3] - cells[0][3].mean()).mean()


def test_a_trained_one_is_trained_further(cells, trained):
    estimator, losses = trained
    further = []
    settings = estimator_training.Settings(depth=1, num_epochs=1, max_sites=2)
    estimator_training.train(cells, settings, start=estimator, log_fn=further.append)
    assert further[0] < losses[0] / 4
