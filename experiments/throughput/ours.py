"""Our programs as they are used, with synthetic crystals, ready to be timed."""

import dataclasses
import functools
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from throughput import flops, timing

import crystaljax.sampling.conditions as conditions_lib
from crystaljax.crystals import sample_tensors, structure
from crystaljax.models import build, initial
from crystaljax.sampling import build as build_sampling
from crystaljax.sampling import collective_generation, generation, samples
from crystaljax.system import errors, sharding
from crystaljax.training import build as build_training
from crystaljax.training import train_step

# Elements 1-83: all tables have them.
_LARGEST_NUMBER = 83
# Only the learning rate knows how long a training is.
NUM_STEPS = 100_000


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A compiled program on data that is on the device already.

    Attributes:
        run: calls it so many times and waits.
        items: structures or samples that a call works on.
        steps: training steps of a call; 1 otherwise.
        flops: of a call, see `throughput.flops`.
        costs: seconds of building it, its size, what XLA says of it.
        executables: what a call runs, compiled.
    """

    run: timing.Run
    items: int
    steps: int
    flops: float
    costs: dict[str, Any]
    executables: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Workload:
    """A config's trainee, with data for it.

    Attributes:
        config: as it is measured.
        trainee: network, process, optimiser, units.
        batch: random crystals, NumPy, (batch, ...).
        mesh: the devices.
    """

    config: Any
    trainee: train_step.Trainee
    batch: sample_tensors.CrystalBatch
    mesh: Mesh

    @property
    def batch_size(self) -> int:
        """Structures at a time, over all devices."""
        return len(self.batch.num_sites)


def adjust_config(
    config: Any,
    *,
    batch_size: int | None = None,
    rows: int | None = None,
    dtype: str | None = None,
) -> Any:
    """A copy of a config as it is measured; None keeps what the config says.

    All crystals have ``rows`` rows, whatever ``data.row_buckets`` says, and without a
    ``dtype`` CPUs calculate in float32.
    """
    config = config.copy_and_resolve_references()
    config.data.row_buckets = ()
    config.data.rows = rows or config.data.rows
    config.train.batch_size = batch_size or config.train.batch_size
    on_cpu = jax.default_backend() == "cpu"
    config.train.dtype = dtype or ("float32" if on_cpu else config.train.dtype)
    return config


def widen(
    workload: Workload, *, rows: int | None = None, num_steps: int | None = None
) -> Workload:
    """The same crystals in more rows, sampled with another number of evaluations.

    Raises:
        ValueError: fewer rows than the workload has, or than the model is built for.
    """
    config = workload.config.copy_and_resolve_references()
    config.sampler.num_steps = num_steps or config.sampler.num_steps
    more = (rows or config.data.rows) - config.data.rows
    if more < 0:
        raise errors.UserError(
            f"rows is {rows}, but the crystals have {config.data.rows}; expected as "
            "many at least"
        )
    config.data.rows += more
    build.build_model(config)

    def pad(array: np.ndarray) -> np.ndarray:
        return np.pad(array, [(0, 0), (0, more)] + [(0, 0)] * (array.ndim - 2))

    batch = workload.batch
    source = batch.source
    if source is not None:
        source = source.replace(frac_coords=pad(source.frac_coords))
    batch = batch.replace(
        atomic_numbers=pad(batch.atomic_numbers),
        frac_coords=pad(batch.frac_coords),
        source=source,
    )
    trainee = dataclasses.replace(workload.trainee, rows=config.data.rows)
    return Workload(config, trainee, batch, workload.mesh)


def sampling_flops(workload: Workload) -> int:
    """Operations of sampling one batch."""
    model, rows = workload.trainee.model, workload.config.data.rows
    evaluations = workload.config.sampler.num_steps
    return workload.batch_size * (
        flops.encoding_flops(model, rows)
        + evaluations * flops.evaluation_flops(model, rows)
    )


def build_workload(config: Any, *, seed: int = 0, mesh: Mesh | None = None) -> Workload:
    """The trainee of an adjusted config, and crystals for it.

    Raises:
        ValueError: the config does not fit together, or its batch the devices.
    """
    mesh = mesh or sharding.build_mesh()
    sharding.require_divisible(config.train.batch_size, mesh)
    batch = random_batch(
        config.train.batch_size,
        config.data.rows,
        seed=seed,
        with_source=build.is_modification(config),
    )
    scale = build_training.build_scaling(
        config, batch.lattice, batch.energy, batch.atomic_numbers
    )
    trainee = build_training.build_trainee(config, scale, NUM_STEPS)
    return Workload(config, trainee, batch, mesh)


def random_batch(
    batch_size: int, rows: int, *, seed: int, with_source: bool = False
) -> sample_tensors.CrystalBatch:
    """Random crystals of 1 site up to as many as the rows hold; one has as many."""
    rng = np.random.default_rng(seed)
    sites = structure.max_sites(rows)
    num_sites = rng.integers(1, sites + 1, batch_size).astype(np.int32)
    num_sites[0] = sites
    is_site = np.arange(sites) < num_sites[:, None]
    numbers = np.sort(rng.integers(1, _LARGEST_NUMBER + 1, (batch_size, sites)))

    def cells() -> sample_tensors.CellBatch:
        coords = rng.random((batch_size, sites, 3), np.float32)
        lattice = np.tril(rng.normal(0, 1, (batch_size, 3, 3)), -1)
        lattice += np.eye(3) * rng.uniform(3, 12, (batch_size, 3, 1))
        return sample_tensors.CellBatch(
            np.where(is_site[..., None], coords, 0), lattice.astype(np.float32)
        )

    crystals = cells()
    return sample_tensors.CrystalBatch(
        atomic_numbers=np.where(is_site, numbers, 0).astype(np.uint8),
        frac_coords=crystals.frac_coords,
        lattice=crystals.lattice,
        num_sites=num_sites,
        space_group=rng.integers(1, 231, batch_size).astype(np.uint8),
        energy=rng.normal(-1, 1, batch_size).astype(np.float32),
        source=cells() if with_source else None,
    )


def resolve_dtype(config: Any) -> str:
    """Name of the arithmetic of an adjusted config."""
    return build.resolve_dtype(config.train.dtype).name


def num_params(params: Any) -> int:
    """Numbers in all arrays of a tree."""
    return sum(array.size for array in jax.tree.leaves(params))


def training_program(workload: Workload, steps: int) -> Program:
    """`train_step.build_dispatch_fn`: so many steps a call, on the same crystals."""
    trainee, mesh = workload.trainee, workload.mesh
    start = time.perf_counter()
    state = train_step.init_state(trainee, 0, mesh)
    jax.block_until_ready(state)
    init_seconds = time.perf_counter() - start
    size = num_params(state.params)
    stacked = jax.tree.map(lambda a: np.stack([a] * steps), workload.batch)
    batches = sharding.shard_batch(stacked, mesh, axis=1)
    key = jax.device_put(generation.key_of_seed(0), sharding.replicated(mesh))
    dispatch_fn = train_step.build_dispatch_fn(trainee, mesh)
    trainee = dispatch_fn.trainee
    if steps == 1:
        inputs = (trainee, state, batches, key)
        gradients_fn, costs = _compile(dispatch_fn.gradients_fn, *inputs)
        shapes = jax.eval_shape(dispatch_fn.gradients_fn, *inputs)
        apply_fn, more = _compile(dispatch_fn.apply_fn, trainee, state, shapes)
        costs = {name: _add(costs[name], more[name]) for name in costs}
        compiled = train_step.Dispatch(trainee, None, gradients_fn, apply_fn)
        executables = (gradients_fn, apply_fn)
    else:
        many_fn, costs = _compile(dispatch_fn.many_fn, trainee, state, batches, key)
        compiled = functools.partial(many_fn, trainee)
        executables = (many_fn,)

    def run(calls: int) -> None:
        nonlocal state
        for _ in range(calls):
            state, metrics = compiled(state, batches, key)
        jax.block_until_ready(metrics)

    flops_per_call = (
        steps
        * workload.batch_size
        * flops.training_flops(trainee.model, workload.config.data.rows)
    )
    costs = {"num_params": size, "init_seconds": init_seconds, **costs}
    return Program(
        run, steps * workload.batch_size, steps, flops_per_call, costs, executables
    )


def init_params(workload: Workload) -> tuple[Any, float]:
    """Parameters of the network on all devices, and seconds for it."""
    model, rows = workload.trainee.model, workload.config.data.rows
    start = time.perf_counter()
    params = sharding.replicate(initial.init_params(model, rows, 0), workload.mesh)
    jax.block_until_ready(params)
    return params, time.perf_counter() - start


def forward_program(workload: Workload) -> Program:
    """The forward pass of the network alone, conditions included."""
    trainee, rows = workload.trainee, workload.config.data.rows
    params, init_seconds = init_params(workload)
    size = workload.batch_size
    rng = np.random.default_rng(1)
    batch = workload.batch
    data = (
        rng.normal(0, 1, (size, rows, 3)).astype(np.float32),
        rng.random(size, np.float32),
        batch.atomic_numbers,
        batch.space_group,
        trainee.scale.scale_energy(batch.energy),
        trainee.scale.encode_cells(
            batch.source, batch.num_sites, batch.atomic_numbers, rows
        ),
    )
    data = sharding.shard_batch(jax.tree.map(np.asarray, data), workload.mesh)
    compiled, costs = _compile(jax.jit(trainee.model.apply), params, *data)

    def run(calls: int) -> None:
        for _ in range(calls):
            output = compiled(params, *data)
        jax.block_until_ready(output)

    costs = {"num_params": num_params(params), "init_seconds": init_seconds, **costs}
    flops_per_call = size * flops.forward_flops(trainee.model, rows)
    return Program(run, size, 1, flops_per_call, costs, (compiled,))


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
    """The compiled sampler, on the device and from end to end.

    Attributes:
        device: conditions on the device in, arrays on the device out.
        end_to_end: conditions on the host in, files out; a call makes
            ``num_batches`` batches.
        num_batches: of a call from end to end.
    """

    device: Program
    end_to_end: timing.Run
    num_batches: int


def sampling_program(workload: Workload, *, seed: int, num_batches: int) -> Sampler:
    """`build_generate_fn`, and `collective_generation.generate` with files."""
    mesh, size = workload.mesh, workload.batch_size
    params, init_seconds = init_params(workload)
    generator = build_generator(workload, params)
    key = jax.device_put(generation.key_of_seed(seed), sharding.replicated(mesh))
    asked = conditions_lib.conditions_of(workload.batch)
    batch, indices = sharding.shard_batch(
        (asked, np.arange(size, dtype=np.int32)), mesh
    )
    inputs = (*generator.numbers, batch, key, indices)
    compiled, costs = _compile(generator.generate_fn, *inputs)
    generator = dataclasses.replace(generator, generate_fn=compiled)

    def run(calls: int) -> None:
        for _ in range(calls):
            crystals = compiled(*inputs)
            # As in use: a batch is fetched before many more are started.
            jax.block_until_ready(crystals)

    all_asked = jax.tree.map(lambda a: np.concatenate([a] * max(num_batches, 1)), asked)

    def run_end_to_end(calls: int) -> None:
        for _ in range(calls):
            crystals = generate(generator, all_asked, key)
            made = samples.Samples(crystals, all_asked, [], {"seed": seed})
            if all_asked.source is not None:
                made = dataclasses.replace(made, inputs=["input"] * len(crystals))
            with tempfile.TemporaryDirectory() as folder:
                samples.write_samples(made, pathlib.Path(folder), cifs="none")

    costs = {"num_params": num_params(params), "init_seconds": init_seconds, **costs}
    device = Program(run, size, 1, sampling_flops(workload), costs, (compiled,))
    return Sampler(device, run_end_to_end, num_batches)


def build_generator(workload: Workload, params: Any) -> generation.Generator:
    """The package's sampler; the only place here that builds one.

    What comes after it, such as picking, is left out.
    """
    trainee = workload.trainee
    generator = build_sampling.build_generator(
        workload.config, trainee.model, trainee.scale, workload.mesh, None
    )
    return dataclasses.replace(
        generator,
        params=params,
        row_buckets=(workload.config.data.rows,),
        batch_size=workload.batch_size,
        host=generation.NO_HOST_WORK,
    )


def generate(
    generator: generation.Generator, asked: conditions_lib.Conditions, key: jax.Array
) -> list[structure.Crystal]:
    """The package's sampling from host to host; the only place here that calls it."""
    return collective_generation.generate(generator, asked, key)


def _add(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _compile(jitted, *args) -> tuple[Callable[..., Any], dict[str, Any]]:
    """A compiled program, and what building it took and XLA counts in it."""
    start = time.perf_counter()
    lowered = jitted.lower(*args)
    trace_seconds = time.perf_counter() - start
    start = time.perf_counter()
    compiled = lowered.compile()
    compile_seconds = time.perf_counter() - start
    analysis = compiled.cost_analysis() or {}
    memory = compiled.memory_analysis()
    costs = {
        "trace_seconds": trace_seconds,
        "compile_seconds": compile_seconds,
        # Of one device. XLA counts the body of a loop (steps of a dispatch, steps of
        # a sampler) once, whatever the number of rounds.
        "xla_flops_loop_bodies_once": analysis.get("flops"),
        "xla_bytes_loop_bodies_once": analysis.get("bytes accessed"),
    }
    if memory is not None:
        costs["xla_argument_bytes"] = memory.argument_size_in_bytes
        costs["xla_temporary_bytes"] = memory.temp_size_in_bytes
    return compiled, costs
