"""Several JAX processes on one machine: what each reads, and that they act as one."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import test_generation
import tiny

from crystaljax import train
from crystaljax.data import dataset as datasets
from crystaljax.data import pipeline
from crystaljax.models import build
from crystaljax.system import sharding, startup
from crystaljax.training import checkpoints

ROOT = pathlib.Path(__file__).parents[1]

BATCH_SIZE = 12
NUM_EPOCHS = 3
# The command trains, as if started in each process; then samples are made, and a source
# is read, with a small network: test_two_devices has one of configs/.
SCRIPT = """
import json, sys
sys.path[:0] = [".", "tests"]
import tiny
from crystaljax import train
from crystaljax.models import build

build.build_model = lambda config: tiny.SmallNetwork()
train.main(sys.argv[5:])

import jax
import jax.numpy as jnp
import numpy as np
from crystaljax.system import sharding
from crystaljax.data import dataset as datasets, pipeline

path, steps, batch_size, output = sys.argv[1:5]
assert jax.process_count() == 2 and jax.local_device_count() == 1

import test_several_processes

generator = test_several_processes.build_generator()
# As training has them: on the devices of all processes.
everywhere = sharding.replicated(sharding.build_mesh())
params = jax.tree.map(
    lambda leaf: jax.make_array_from_process_local_data(everywhere, np.asarray(leaf)),
    generator.params,
)
params = sharding.localize(params, sharding.build_local_mesh())
made = test_several_processes.make_arrays(generator.with_params(params, None))
np.savez(f"{output}-{jax.process_index()}.npz", *made)

dataset = datasets.open_dataset(path)
source = pipeline.ShuffledBatches(
    pipeline.Permutations(np.arange(len(dataset)), seed=3),
    lambda items: datasets.gather(dataset, items, 12),
    batch_size=int(batch_size),
    steps_per_dispatch=1,
    num_steps=int(steps),
    process_index=jax.process_index(),
    process_count=jax.process_count(),
)
mesh = sharding.build_mesh()
total = jax.jit(jnp.sum, out_shardings=sharding.replicated(mesh))
own, sums = [], []
for batch in pipeline.build_iterator(source):
    own.append(batch.energy[0].tolist())
    # Over all processes: their shares make one array.
    sums.append(float(total(sharding.shard_batch(batch, mesh, axis=1).energy)))
print(json.dumps({"own": own, "sums": sums}))
jax.distributed.shutdown()
"""


def build_generator():
    return tiny.build_generator(test_generation.tiny_config())


def make_arrays(generator):
    crystals = test_generation.make(generator, 4, (16,))
    return [array for each in crystals for array in (each.lattice, each.frac_coords)]


@pytest.fixture(scope="module", autouse=True)
def small_network():
    """As the processes have it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "build_model", lambda config: tiny.SmallNetwork())
        yield


@pytest.fixture(scope="module")
def dataset(alloys):
    return datasets.open_dataset(alloys)


def free_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture(scope="module")
def two_processes(dataset, tmp_path_factory):
    """What two processes printed, and the run directory; samples lie beside it."""
    workdir = tmp_path_factory.mktemp("processes") / "run"
    steps = NUM_EPOCHS * len(dataset) // BATCH_SIZE
    output = workdir.with_name("samples")
    given = [str(dataset.path), str(steps), str(BATCH_SIZE), str(output)]
    flags = [*tiny.flags("ddim", dataset.path), f"--workdir={workdir}"]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COORDINATOR_ADDRESS": free_address(),
        "JAX_NUM_PROCESSES": "2",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *given, *flags],
            cwd=ROOT,
            env=environment | {"JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=400) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs], workdir


@pytest.mark.parametrize("count", [2, 3])
def test_parts_of_processes_are_every_epoch_without_overlap(dataset, count):
    """As each of so many processes is to read it."""
    require_whole_epochs(dataset, [read_part(dataset, i, count) for i in range(count)])


def test_processes_share_every_epoch_and_their_arrays_are_one(dataset, two_processes):
    """Real processes."""
    count = 2
    found, _ = two_processes
    own = [each["own"] for each in found]
    require_whole_epochs(dataset, own)
    for index, part in enumerate(own):
        np.testing.assert_array_equal(part, read_part(dataset, index, count))
    for step, expected in enumerate(np.sum(own, axis=(0, 2))):
        for each in found:
            assert each["sums"][step] == pytest.approx(expected, abs=1e-5)


def read_part(dataset, index, count):
    """Energies that a process reads, (steps, structures)."""
    source = pipeline.ShuffledBatches(
        pipeline.Permutations(np.arange(len(dataset)), seed=3),
        lambda items: datasets.gather(dataset, items, 12),
        batch_size=BATCH_SIZE,
        steps_per_dispatch=1,
        num_steps=NUM_EPOCHS * len(dataset) // BATCH_SIZE,
        process_index=index,
        process_count=count,
    )
    return [source[i].energy[0].tolist() for i in range(len(source))]


def require_whole_epochs(dataset, own):
    # Energies tell structures apart.
    everything = sorted(dataset.formation_energy.tolist())
    assert len(set(everything)) == len(everything)
    assert len(dataset) * NUM_EPOCHS % BATCH_SIZE == 0
    steps, count = len(dataset) * NUM_EPOCHS // BATCH_SIZE, len(own)
    assert np.shape(own) == (count, steps, BATCH_SIZE // count)
    # Process after process within a step, as one process would read it.
    stream = np.swapaxes(own, 0, 1).reshape(NUM_EPOCHS, len(dataset))
    for epoch in stream:
        assert sorted(epoch.tolist()) == everything


# ---------------------------------------------------------------------------- training
def params_of(workdir):
    return jax.tree.leaves(checkpoints.load_run(workdir, sharding.build_mesh()).params)


def assert_close(one, other):
    for a, b in zip(params_of(one), params_of(other), strict=True):
        # But for rounding, which Adam's first steps enlarge.
        np.testing.assert_allclose(a, b, atol=1e-4)


def read_log(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_two_processes_train_like_one_which_goes_on_from_their_checkpoint(
    dataset, two_processes, tmp_path
):
    config = tiny.config("ddim", dataset.path)
    one, (_, two) = tmp_path / "run", two_processes
    train.train(config, one, show_progress=False)
    assert_close(one, two)
    # Written once, though there are two processes; their samples are the same too.
    assert [line["step"] for line in read_log(two)] == [2, 4, 4]
    assert read_log(two)[-1] == pytest.approx(read_log(one)[-1], abs=1e-2)
    environment = json.loads((two / "environment.json").read_text())
    assert environment["num_processes"] == 2

    shutil.rmtree(two / "checkpoints" / "4")
    train.train(config, two, resume=True, show_progress=False)
    assert_close(one, two)


def test_processes_share_the_work_and_all_get_everything(two_processes):
    _, workdir = two_processes
    arrays = make_arrays(build_generator())
    for index in range(2):
        found = np.load(workdir.with_name(f"samples-{index}.npz"))
        assert len(found.files) == len(arrays)
        for name, array in zip(found.files, arrays, strict=True):
            np.testing.assert_allclose(found[name], array, atol=1e-5)


@pytest.mark.parametrize(
    "count,index", [("2", None), (None, "0"), ("2", "2"), ("two", "0"), ("2", "-1")]
)
def test_half_described_processes_are_refused(monkeypatch, count, index):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    for name, value in (("JAX_NUM_PROCESSES", count), ("JAX_PROCESS_ID", index)):
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="JAX_PROCESS_ID"):
        startup.initialize_processes()


@pytest.mark.parametrize(
    "environment,is_joined",
    [
        ({}, False),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"}, False),
        ({"SLURM_JOB_ID": "1", "SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
    ],
)
def test_processes_are_joined_where_a_launcher_started_several(
    monkeypatch, environment, is_joined
):
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args: calls.append(args))
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    startup.initialize_processes()
    assert calls == ([()] if is_joined else [])


@pytest.mark.parametrize("given", [None, "elsewhere"])
def test_compiled_programs_are_kept_where_the_user_keeps_caches(
    monkeypatch, tmp_path, given
):
    name = "jax_compilation_cache_dir"
    names = (name, "jax_compilation_cache_max_size")
    before = {each: getattr(jax.config, each) for each in names}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # As JAX sets it from JAX_COMPILATION_CACHE_DIR.
    jax.config.update(name, given)
    try:
        startup.enable_compilation_cache()
        found = getattr(jax.config, name)
    finally:
        for each, value in before.items():
            jax.config.update(each, value)
    if given:
        assert found == given
    else:
        assert pathlib.Path(found).parent == tmp_path / "crystaljax"
