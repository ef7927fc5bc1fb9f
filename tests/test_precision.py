"""Training in float16 and bfloat16."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax.training import dynamic_scale

from configs import ddim
from crystaljax import train
from crystaljax.data import dataset as datasets
from crystaljax.system import sharding
from crystaljax.training import build as build_training
from crystaljax.training import train_step


@pytest.fixture(scope="module")
def dataset_path(alloys):
    return alloys


def small_training(dataset_path, coordinate_weight=1.0, dtype="float32"):
    """Trainee and batch of a small network, without a moving average."""
    config = tiny.shrink(ddim.get_config("smoke"), dataset_path)
    config.loss.coordinate_weight = coordinate_weight
    config.train.ema_decay = 0.0
    dataset = datasets.open_dataset(dataset_path)
    batch = datasets.gather(dataset, np.arange(8), 12)
    scale = build_training.build_scaling(
        config, batch.lattice, batch.energy, batch.atomic_numbers
    )
    trainee = build_training.build_trainee(config, scale, 4)
    network = tiny.SmallNetwork(dtype=jnp.dtype(dtype))
    return trainee.replace(model=network, tables={}), batch


def test_overflow_of_gradients_skips_the_step_and_lowers_the_scale(dataset_path):
    """As float16 does it; in float32, which compiles in a tenth of the time."""
    # Large enough for gradients to overflow where the loss just does not.
    trainee, batch = small_training(dataset_path, coordinate_weight=1e6)
    state = train_step.init_state(trainee, 0, sharding.build_mesh())
    largest = 2.0**127
    state = state.replace(loss_scale=dynamic_scale.DynamicScale(scale=largest))
    step = jax.jit(lambda *args: train_step.train_step(trainee, *args))
    after, metrics = step(state, batch, jax.random.key(1))
    assert after.loss_scale.scale == largest / 2
    assert metrics["skipped_steps"] == 1
    assert metrics["gradient_norm"] == 0
    for new, old in ((after.params, state.params), (after.opt_state, state.opt_state)):
        jax.tree.map(np.testing.assert_array_equal, new, old)


def test_one_program_serves_for_the_first_step_and_those_after_it(dataset_path):
    trainee, batch = small_training(dataset_path, dtype="float16")
    state = train_step.init_state(trainee, 0, sharding.build_mesh())
    after, _ = jax.eval_shape(
        lambda *args: train_step.train_step(trainee, *args),
        *(state, batch, jax.random.key(1)),
    )
    assert state.loss_scale.scale == 2.0**16

    def kinds(state):
        return jax.tree.map(lambda leaf: (leaf.dtype, leaf.weak_type), state)

    assert kinds(after) == kinds(state)


def last_metrics(dataset_path, path, dtype):
    """Those of a training of 100 steps."""
    config = tiny.shrink(ddim.get_config("smoke"), dataset_path, 100)
    config.train.dtype = dtype
    # As many steps to a program as in other tests: that of float32 is theirs.
    config.train.log_every = 50
    config.train.checkpoint_every = 100
    config.evaluation.num_structures = 0
    train.train(config, path, show_progress=False)
    return json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.fixture(scope="module")
def loss_in_float32(dataset_path, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "float32"
    return last_metrics(dataset_path, path, "float32")["loss"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_precision_learns_like_float32(
    dataset_path, loss_in_float32, tmp_path, dtype
):
    """As experiments/mixed_precision measures it for the smoke configs."""
    last = last_metrics(dataset_path, tmp_path / "run", dtype)
    if dtype == "float16":
        assert last["loss_scale"] > 1 and last["skipped_steps"] == 0
    assert last["loss"] == pytest.approx(loss_in_float32, rel=0.02)
