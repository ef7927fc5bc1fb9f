"""One training step on 1, 2, 4 and 8 devices, ours and the same with `jax.pmap`.

    python experiments/benchmark_devices.py --config=configs/ddim.py:smoke

times `train_step.build_dispatch_fn` on a mesh of the first n devices beside a step as a
user of `jax.pmap` would write it, with the mean of the gradients over the devices
(`jax.lax.pmean`). The batch over all devices stays the same; with ``--scaled`` that of
each device does. Writes JSON and prints a table.

Where there is a single device the script starts itself again with simulated CPU
devices. These share the same cores: such a run shows what splitting a batch costs, not
how training scales.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import Mesh
from throughput import command, ours, timing

from crystaljax.crystals import sample_tensors
from crystaljax.sampling import generation
from crystaljax.system import errors, sharding
from crystaljax.training import train_step

AXIS = "devices"
_SIMULATE = "--xla_force_host_platform_device_count"


def main() -> None:
    """Command line."""
    command.run(__doc__, define_flags, run)


def define_flags(values: flags.FlagValues) -> None:
    """Flags beside --config."""
    command.define_workload_flags(values, repeats=10)
    flags.DEFINE_list("devices", "1,2,4,8", "Numbers of devices.", flag_values=values)
    flags.DEFINE_bool(
        "scaled",
        False,
        "The batch size is that of one device, not of all.",
        flag_values=values,
    )
    command.define_steps_flag(values)


def run(values: flags.FlagValues) -> dict[str, Any]:
    """Measures, prints and writes the record."""
    counts = [int(count) for count in values.devices]
    if max(counts) > jax.device_count():
        if jax.device_count() == 1:
            raise SystemExit(simulate_devices(max(counts)))
        print(f"note: leaving out more devices than the {jax.device_count()} here")
        counts = [count for count in counts if count <= jax.device_count()]
    config = command.adjust_config(values, values.config)
    batch_size = config.train.batch_size
    steps = values.steps_per_dispatch or config.train.steps_per_dispatch
    is_simulated = _SIMULATE in os.environ.get("XLA_FLAGS", "")
    found = []
    for count in counts:
        config.train.batch_size = batch_size * (count if values.scaled else 1)
        mesh = Mesh(np.array(jax.devices()[:count]), (sharding.DATA_AXIS,))
        workload = ours.build_workload(config, seed=values.seed, mesh=mesh)
        found.append(measure(values, workload, steps))
    record = {
        "benchmark": "devices",
        **command.describe(values, config),
        "simulated": is_simulated,
        "scaled": values.scaled,
        "steps_per_call": steps,
        "devices": found,
        **timing.describe_software(),
    }
    print_table(record)
    kind = ("simulated",) if is_simulated else ()
    kind += ("scaled",) if values.scaled else ()
    parts = ("devices", *kind, f"b{batch_size}", f"r{config.data.rows}")
    command.finish(values, record, *parts, record["dtype"])
    return record


def simulate_devices(count: int) -> int:
    """Runs the same command with simulated CPU devices; its exit status."""
    xla_flags = os.environ.get("XLA_FLAGS", "")
    assert _SIMULATE not in xla_flags, "the simulated devices did not appear"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{xla_flags} {_SIMULATE}={count}".strip(),
    }
    command_line = [sys.executable, *sys.argv]
    return subprocess.run(command_line, env=environment, check=False).returncode


def measure(
    values: flags.FlagValues, workload: ours.Workload, steps: int
) -> dict[str, Any]:
    """Both programs in turns on the devices of one mesh."""
    programs = {
        "ours": our_program(workload, steps),
        "pmap": pmap_program(workload, steps),
    }
    losses = {name: program.call() for name, program in programs.items()}
    if not np.isclose(losses["ours"], losses["pmap"], rtol=1e-2):
        raise errors.UserError(
            f"the first losses differ, {losses}; expected the same steps"
        )
    seconds = timing.take_turns(
        {name: program.run for name, program in programs.items()},
        repeats=values.repeats,
        min_seconds=values.min_seconds,
    )
    result: dict[str, Any] = {
        "num_devices": workload.mesh.size,
        "batch_size": workload.batch_size,
        "losses_of_first_call": losses,
    }
    for name, times in seconds.items():
        described = timing.describe(times)
        result[name] = {
            "seconds_per_call": described,
            "seconds_per_step": described["median"] / steps,
            "structures_per_second": workload.batch_size * steps / described["median"],
        }
    result["ratio_to_pmap"] = timing.median_ratio(seconds["ours"], seconds["pmap"])
    return result


def print_table(record: dict[str, Any]) -> None:
    """One line per number of devices."""
    where = "simulated devices of " if record["simulated"] else ""
    print(
        f"training of {record['config']} on {where}{timing.device_name()}, "
        f"{record['rows']} rows, {record['dtype']}\n"
        "devices  batch     ours ms/step  structures/s     pmap ms/step   ratio"
    )
    for line in record["devices"]:
        print(
            f"{line['num_devices']:7d}  {line['batch_size']:5d}  "
            f"{1000 * line['ours']['seconds_per_step']:15.2f}  "
            f"{line['ours']['structures_per_second']:12,.1f}  "
            f"{1000 * line['pmap']['seconds_per_step']:15.2f}  "
            f"{line['ratio_to_pmap']:6.2f}"
        )


class Program:
    """A program of training steps and the state that it changes."""

    def __init__(self, dispatch_fn: Callable[..., Any], state: Any, *inputs: Any):
        self._dispatch_fn, self._state, self._inputs = dispatch_fn, state, inputs

    def run(self, calls: int) -> None:
        """Makes so many calls and waits."""
        for _ in range(calls):
            self._state, metrics = self._dispatch_fn(self._state, *self._inputs)
        jax.block_until_ready(metrics)

    def call(self) -> float:
        """Makes one call; the mean loss of its steps."""
        self._state, metrics = self._dispatch_fn(self._state, *self._inputs)
        return float(np.mean(metrics["loss"]))


def our_program(workload: ours.Workload, steps: int) -> Program:
    """Sharded batches on a mesh, as `crystaljax.train` has them."""
    mesh = workload.mesh
    stacked = jax.tree.map(lambda a: np.stack([a] * steps), workload.batch)
    return Program(
        train_step.build_dispatch_fn(workload.trainee, mesh),
        jax.device_put(_init_state(workload), sharding.replicated(mesh)),
        sharding.shard_batch(stacked, mesh, axis=1),
        jax.device_put(generation.key_of_seed(0), sharding.replicated(mesh)),
    )


def pmap_program(workload: ours.Workload, steps: int) -> Program:
    """The same steps with `jax.pmap`: arrays with a leading axis of devices."""
    devices = list(workload.mesh.devices.flat)
    count = len(devices)

    def dispatch(state, batches, key):
        def body(state, batch):
            return pmap_step(workload.trainee, state, batch, key, count)

        state, metrics = jax.lax.scan(body, state, batches)
        return state, jax.tree.map(jnp.mean, metrics)

    def split(array):
        """(batch, ...) → (devices, steps, batch of a device, ...)."""
        parts = array.reshape(count, 1, -1, *array.shape[1:])
        return np.repeat(parts, steps, axis=1)

    # An identity is how arrays get onto the devices of a pmap.
    put = jax.pmap(lambda tree: tree, axis_name=AXIS, devices=devices)
    state = jax.tree.map(lambda a: np.stack([a] * count), _init_state(workload))
    return Program(
        jax.pmap(
            dispatch,
            axis_name=AXIS,
            in_axes=(0, 0, None),
            devices=devices,
            donate_argnums=0,
        ),
        put(state),
        put(jax.tree.map(split, workload.batch)),
        generation.key_of_seed(0),
    )


def pmap_step(
    trainee: train_step.Trainee,
    state: train_step.TrainState,
    batch: sample_tensors.CrystalBatch,
    key: jax.Array,
    num_devices: int,
) -> tuple[train_step.TrainState, dict[str, jax.Array]]:
    """One step of one device on its part of the batch."""
    size = batch.num_sites.shape[0]
    keys = jax.random.split(jax.random.fold_in(key, state.step), size * num_devices)
    first = jax.lax.axis_index(AXIS) * size
    keys = jax.lax.dynamic_slice_in_dim(keys, first, size)

    own = train_step.compute_gradients(trainee, state, batch, keys)
    loss, parts, grads = jax.lax.pmean((own.loss, own.parts, own.grads), AXIS)
    # With a loss scale all devices skip a step that overflows on one of them.
    finite = jax.lax.pmin(own.finite.astype(jnp.int32), AXIS) == 1
    loss_scale = jax.lax.pmin(own.loss_scale, AXIS)
    together = train_step.Gradients(loss, parts, grads, finite, loss_scale)
    return train_step.apply_gradients(trainee, state, together)


def _init_state(workload: ours.Workload) -> train_step.TrainState:
    """The state on the host, so that both programs start from the same."""
    return jax.device_get(train_step.init_state(workload.trainee, 0, workload.mesh))


if __name__ == "__main__":
    main()
