"""How many structures a second does the input pipeline read, of any data set?

    python experiments/benchmark_pipeline.py --dataset=data/mp_20 --batch_size=256
    python experiments/benchmark_pipeline.py --dataset=data/mp_20 \
        --config=configs/ddim.py

reads shuffled batches through Grain as training does, beside nothing else, and with a
config also times its training step on crystals that are on the device already: what
share of a step reading its batch takes. Reading goes on in a thread during the step, so
a share below 1 costs nothing where a core is free. Configs of modification read pairs.
Writes JSON. See experiments/data_at_scale for what the pipeline does at 2 million
structures.
"""

import pathlib
from typing import Any

from absl import flags
from data_at_scale import measure
from throughput import command, ours, timing

from crystaljax import defaults
from crystaljax.data import dataset as datasets
from crystaljax.models import build
from crystaljax.system import errors
from crystaljax.training import batches as batches_lib


def main() -> None:
    """Command line."""
    command.run(__doc__, define_flags, run, config_required=False)


def define_flags(values: flags.FlagValues) -> None:
    """Flags beside --config."""
    command.define_workload_flags(values, repeats=5)
    flags.DEFINE_string("dataset", None, "Data set directory.", flag_values=values)
    command.define_steps_flag(values)


def run(values: flags.FlagValues) -> dict[str, Any]:
    """Measures, prints and writes the record."""
    if values.dataset is None:
        raise errors.UserError("--dataset is missing; give a folder made by prepare")
    config = command.adjust_config(
        values, values.config or defaults.paper("generation")
    )
    steps = values.steps_per_dispatch or config.train.steps_per_dispatch
    config.train.steps_per_dispatch = steps
    batch_size, rows = config.train.batch_size, config.data.rows
    dataset = datasets.open_dataset(values.dataset)
    rates = measure_rates(config, dataset, values.repeats, values.min_seconds)
    found = timing.describe(rates)
    unit = "pairs" if build.is_modification(config) else "structures"
    record = {
        "benchmark": "pipeline",
        "dataset": str(values.dataset),
        "num_structures": len(dataset),
        **timing.describe_machine(),
        "batch_size": batch_size,
        "rows": rows,
        "steps_per_dispatch": steps,
        "unit": unit,
        "rates_per_second": found,
        "structures_per_second": found["median"],
        "seconds_per_batch": batch_size / found["median"],
    }
    print(
        f"pipeline of {values.dataset} ({len(dataset):,} structures), batch "
        f"{batch_size}, {rows} rows, {steps} steps a dispatch\n"
        f"{found['median']:,.0f} {unit}/s (quartiles {found['first_quartile']:,.0f}-"
        f"{found['third_quartile']:,.0f}), "
        f"{1000 * record['seconds_per_batch']:.3f} ms a batch"
    )
    if values.config is not None:
        record |= measure_step(values, config, steps)
        record["share_of_step"] = (
            record["seconds_per_batch"] / record["seconds_per_step"]
        )
        print(
            f"training step of {record['config']}: "
            f"{1000 * record['seconds_per_step']:.2f} ms; reading its batch takes "
            f"{record['share_of_step']:.2%} of it"
        )
    record |= timing.describe_software()
    parts = (
        "pipeline",
        pathlib.Path(values.dataset).name,
        f"b{batch_size}",
        f"r{rows}",
    )
    command.finish(values, record, *parts)
    return record


def measure_rates(
    config: Any, dataset: datasets.Dataset, repeats: int, min_seconds: float
) -> list[float]:
    """Structures or pairs a second of what training reads, once per repeat."""
    steps, num_dispatches = config.train.steps_per_dispatch, 16
    num_items = config.train.batch_size * steps

    def build_source(num_dispatches: int) -> Any:
        batches = batches_lib.build_batches(config, dataset, num_dispatches * steps)
        return batches.source

    rate = measure.rate(build_source(num_dispatches), num_items)
    num_dispatches = max(num_dispatches, round(min_seconds * rate / num_items))
    source = build_source(num_dispatches)
    return [measure.rate(source, num_items) for _ in range(repeats)]


def measure_step(values: flags.FlagValues, config: Any, steps: int) -> dict[str, Any]:
    """Seconds of the config's training step, the data on the device."""
    workload = ours.build_workload(config, seed=values.seed)
    program = ours.training_program(workload, steps)
    seconds = timing.take_turns(
        {"ours": program.run}, repeats=values.repeats, min_seconds=values.min_seconds
    )
    found = timing.describe(seconds["ours"])
    return {
        "config": command.config_name(values),
        "config_overrides": command.config_overrides(values),
        "dtype": ours.resolve_dtype(config),
        "seconds_per_step": found["median"] / steps,
        "num_params": program.costs["num_params"],
    }


if __name__ == "__main__":
    main()
