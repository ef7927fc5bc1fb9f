"""`configs/best.py`: training, draws on the device, final crystals on the host."""

import dataclasses
import time
from typing import Any

import jax
import numpy as np
from gpu import paper
from gpu.measurement import Measurement
from throughput import ours, report, timing

from crystaljax.crystals import canonical, elements, structure
from crystaljax.data import columnar
from crystaljax.data import dataset as datasets
from crystaljax.data.sources import emt
from crystaljax.sampling import build as build_sampling
from crystaljax.sampling import conditions as conditions_lib
from crystaljax.sampling import estimation, generation
from crystaljax.system import config_files, sharding
from crystaljax.training import build as build_training
from crystaljax.training import train_step

# Every so-many-th structure is held out; what is asked for is theirs.
_HELD_OUT = 20
# Batches of final crystals that are timed, where the first did not take long.
_FINAL_REPEATS = 3
_LONG_SECONDS = 15.0


def best(measurement: Measurement, variant: str) -> None:
    """Training, draws, and final crystals of one variant of the config."""
    size = measurement.size
    dataset = open_alloys(measurement)
    workload = build_workload(measurement, dataset, variant, size.best_batch)
    drawing = build_workload(measurement, dataset, variant, size.draws)
    # One after the other: XLA times kernels on the GPU while it compiles.
    program = ours.training_program(workload, size.steps)
    measurement.add_stage("training is compiled")
    measurement.add("training", **time_program(measurement, workload, program))
    # Parameters and activations are not needed any more.
    del program
    program = ours.sampling_program(drawing, seed=0, num_batches=0).device
    measurement.add_stage("sampling is compiled")
    evaluations = drawing.config.sampler.num_steps
    figure = time_program(measurement, drawing, program)
    measurement.add("draws", **figure | {"network_evaluations": evaluations})
    draws_per_second = figure["ours"]["items_per_second"]
    del program
    params, described = train_briefly(measurement, workload, dataset)
    found = time_final_crystals(measurement, workload, dataset, params)
    measurement.add(
        "final crystals",
        config=f"best.py:{variant}" if variant else "best.py",
        network=described,
        **found,
        draws_per_second_on_the_device=draws_per_second,
    )


def open_alloys(measurement: Measurement) -> datasets.Dataset:
    """The built-in alloys as a data set, written once a run."""
    path = measurement.scratch / "alloys"
    if not path.exists():
        records = emt.load_builtin()[: measurement.size.num_alloys]
        crystals: list[Any] = canonical.canonical_crystals(
            [each.crystal for each in records], "mendeleev"
        )
        columns = columnar.columns_from_crystals(
            [each.id for each in records],
            [elements.cell_formula(each.atomic_numbers) for each in crystals],
            crystals,
            [each.space_group for each in records],
            [each.formation_energy for each in records],
        )
        is_held_out = np.arange(len(records)) % _HELD_OUT == 0
        split = np.where(is_held_out, datasets.SPLITS.index("val"), 0)
        datasets.write_dataset(path, columns, split, {"energy_model": "emt"})
    return datasets.open_dataset(path)


def build_workload(
    measurement: Measurement, dataset: datasets.Dataset, variant: str, batch_size: int
) -> ours.Workload:
    """The config's network, and training structures."""
    size = measurement.size
    config = config_files.load_file(paper.CONFIGS / "best.py", variant)
    config.update_from_flattened_dict(dict(size.best_values))
    config = ours.adjust_config(
        config, batch_size=batch_size, rows=size.best_rows, dtype=size.dtype
    )
    train = dataset.indices("train")
    sites = structure.max_sites(size.best_rows)
    whole = datasets.gather(dataset, train, sites)
    scale = build_training.build_scaling(
        config, whole.lattice, whole.energy, whole.atomic_numbers
    )
    trainee = build_training.build_trainee(config, scale, ours.NUM_STEPS)
    batch = datasets.gather(dataset, np.resize(train, batch_size), sites)
    return ours.Workload(config, trainee, batch, sharding.build_mesh())


def time_program(
    measurement: Measurement, workload: ours.Workload, program: ours.Program
) -> dict[str, Any]:
    """Throughput of one program, for the record."""
    size = measurement.size
    program.run(1)
    memory = timing.peak_memory()
    seconds = timing.take_turns(
        {"ours": program.run}, repeats=size.repeats, min_seconds=size.min_seconds
    )
    dtype = ours.resolve_dtype(workload.config)
    described = report.describe_program(program, seconds["ours"], dtype)
    return {
        "batch_size": workload.batch_size,
        "rows": workload.config.data.rows,
        "dtype": dtype,
        "ours": described | {"peak_memory": memory},
    }


def train_briefly(
    measurement: Measurement, workload: ours.Workload, dataset: datasets.Dataset
) -> tuple[Any, dict[str, Any]]:
    """Parameters after some seconds of training, and what they were trained on."""
    steps, mesh = measurement.size.steps, workload.mesh
    state = train_step.init_state(workload.trainee, 0, mesh)
    dispatch_fn = train_step.build_dispatch_fn(workload.trainee, mesh)
    key = jax.device_put(generation.key_of_seed(0), sharding.replicated(mesh))
    train, rng = dataset.indices("train"), np.random.default_rng(0)
    sites = structure.max_sites(workload.config.data.rows)
    start, num_steps = None, 0
    while start is None or (
        time.perf_counter() - start < measurement.size.brief_seconds
    ):
        chosen = rng.choice(train, (steps, workload.batch_size))
        batches = datasets.gather(dataset, chosen, sites)
        batches = sharding.shard_batch(batches, mesh, axis=1)
        state, metrics = dispatch_fn(state, batches, key)
        loss = float(np.mean(metrics["loss"]))
        num_steps += steps
        # The first call compiles.
        start = start or time.perf_counter()
    return state.sampling_params, {
        "trained": "briefly",
        "steps": num_steps,
        "structures": f"{len(train)} built-in alloys",
        "last_loss": loss,
    }


def time_final_crystals(
    measurement: Measurement,
    workload: ours.Workload,
    dataset: datasets.Dataset,
    params: Any,
) -> dict[str, Any]:
    """From conditions to arrays on the host, projection and picking included."""
    config, trainee, mesh = workload.config, workload.trainee, workload.mesh
    generator = build_sampling.build_generator(
        config, trainee.model, trainee.scale, mesh, None
    ).with_params(params, None)
    error = estimation.measure_error(generator.estimate_energies, dataset)
    generator = dataclasses.replace(
        generator.with_params(params, error),
        row_buckets=(config.data.rows,),
        batch_size=measurement.size.final_batch,
    )
    rows, size = config.data.rows, measurement.size.final_batch
    held_out = np.resize(dataset.indices("val"), size)
    asked = conditions_lib.conditions_of(
        datasets.gather(dataset, held_out, structure.max_sites(rows))
    )

    def run(calls: int) -> None:
        for call in range(calls):
            key = generation.key_of_seed(call)
            made = ours.generate(generator, asked, key)
            assert len(made) == size, len(made)

    # Compiles, too.
    run(1)
    start = time.perf_counter()
    run(1)
    first = time.perf_counter() - start
    repeats = _FINAL_REPEATS if first < _LONG_SECONDS else 1
    seconds = timing.take_turns(
        {"final": run}, repeats=repeats, min_seconds=0, warmup=0
    )
    described = timing.describe(seconds["final"])
    return {
        "asked": "formula, space group and energy of held-out built-in alloys",
        "batch_size": size,
        "draws": generator.host.num_draws,
        "network_evaluations": config.sampler.num_steps,
        "rows": rows,
        "dtype": ours.resolve_dtype(config),
        "seconds_per_call": described,
        "final_crystals_per_second": size / described["median"],
    }
