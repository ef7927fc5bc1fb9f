"""Two devices train, sample and relax like one."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import test_relaxation_batches
import test_training

from crystaljax import sample

TESTS = pathlib.Path(__file__).parent
SCRIPT = """
import sys
import jax
import numpy as np
import test_relaxation_batches
import test_training
from crystaljax import sample, train
from crystaljax.relaxation import batches

dataset, workdir, folder = sys.argv[1:]
assert jax.local_device_count() == 2
config = test_training.tiny_config(dataset)
# What is sampled is compared below.
config.evaluation.num_structures = 0
train.train(config, f"{folder}/run", show_progress=False)
samples = sample.sample(test_training.options(workdir, batch_size=4))
np.savez(
    f"{folder}/samples.npz",
    lattice=np.array([crystal.lattice for crystal in samples.crystals]),
)
crystals = test_relaxation_batches.alloys(5)
for result in batches.relax_many(crystals, "emt", batch_size=3):
    print("relaxed", result.num_steps, result.energy)
"""


@pytest.fixture(scope="module")
def workdir(trained):
    return trained("ddim")


@pytest.fixture(scope="module")
def two_devices(alloys, workdir, tmp_path_factory):
    """Folder of what a process with two devices made, and what it printed."""
    folder = tmp_path_factory.mktemp("devices")
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    printed = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(alloys), str(workdir), str(folder)],
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    ).stdout
    return folder, printed


def test_they_train_like_one(workdir, two_devices):
    folder, _ = two_devices
    one, two = (
        jax.tree.leaves(test_training.restore(path)[1])
        for path in (workdir, folder / "run")
    )
    # Sums over the batch are split over devices: equal but for rounding, which Adam's
    # first steps enlarge where a gradient is nearly 0.
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_they_sample_like_one(workdir, two_devices):
    folder, _ = two_devices
    samples = sample.sample(test_training.options(workdir, batch_size=12))
    lattice = np.load(folder / "samples.npz")["lattice"]
    np.testing.assert_allclose(
        lattice, [crystal.lattice for crystal in samples.crystals], atol=1e-4
    )


def test_they_share_a_batch_of_relaxations(two_devices):
    _, printed = two_devices
    found = [line.split() for line in printed.splitlines()]
    found = [line[1:] for line in found if line and line[0] == "relaxed"]
    expected = test_relaxation_batches.relaxed_alloys()[:5]
    for (num_steps, energy), result in zip(found, expected, strict=True):
        assert int(num_steps) == result.num_steps
        assert float(energy) == pytest.approx(result.energy, abs=1e-5)
