"""Several JAX processes on one machine: what each of them reads."""

import json
import socket
import subprocess
import sys

import numpy as np
import pytest
import tiny

from crystaljax.data import dataset as datasets

BATCH_SIZE = 12
# Two epochs and a bit, so that batches straddle epochs.
SCRIPT = """
import json, sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_cpu_collectives_implementation", "gloo")
address, count, index, path, steps, batch_size = sys.argv[1:]
jax.distributed.initialize(address, int(count), int(index))
import jax.numpy as jnp
import numpy as np
from crystaljax import parallel
from crystaljax.data import dataset as datasets, pipeline

assert jax.process_count() == int(count)
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
mesh = parallel.build_mesh()
total = jax.jit(jnp.sum, out_shardings=parallel.replicated(mesh))
own, sums = [], []
for batch in pipeline.build_iterator(source):
    own.append(batch.energy[0].tolist())
    # Over all processes: their shares make one array.
    sums.append(float(total(parallel.shard_batch(batch, mesh, axis=1).energy)))
print(json.dumps({"own": own, "sums": sums}))
jax.distributed.shutdown()
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("processes") / "dataset"
    tiny.write_dataset(path)
    return datasets.open_dataset(path)


def run_processes(count, dataset, steps):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    given = [str(dataset.path), str(steps), str(BATCH_SIZE)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, address, str(count), str(index), *given],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs]


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_every_epoch_without_overlap(dataset, count):
    # Energies tell structures apart.
    everything = sorted(dataset.formation_energy.tolist())
    assert len(set(everything)) == len(everything)
    num_epochs = 3
    assert len(dataset) * num_epochs % BATCH_SIZE == 0
    steps = len(dataset) * num_epochs // BATCH_SIZE
    found = run_processes(count, dataset, steps)
    own = np.array([each["own"] for each in found])
    assert own.shape == (count, steps, BATCH_SIZE // count)
    # Process after process within a step, as one process would read it.
    stream = np.swapaxes(own, 0, 1).reshape(num_epochs, len(dataset))
    for epoch in stream:
        assert sorted(epoch.tolist()) == everything
    for step, expected in enumerate(own.sum(axis=(0, 2))):
        for each in found:
            assert each["sums"][step] == pytest.approx(expected, abs=1e-5)
