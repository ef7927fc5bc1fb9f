"""How fast is a training step, and how fast is the same step in PyTorch?

    python experiments/benchmark_training.py --config=configs/ddim.py --batch_size=16 \
        --peer=torch

times the training step of any config (`train_step.build_dispatch_fn`) on random
crystals that are on the device already, or with ``--task=forward`` the network alone,
and writes JSON. With ``--peer=torch`` the last line is our throughput over the peer's.
See experiments/throughput/README.md.
"""

from typing import Any

from absl import flags
from throughput import command, ours, report, timing


def main() -> None:
    """Command line."""
    command.run(__doc__, define_flags, run)


def define_flags(values: flags.FlagValues) -> None:
    """Flags beside --config."""
    command.define_workload_flags(values, repeats=10)
    command.define_steps_flag(values)
    command.define_peer_flags(values)
    flags.DEFINE_enum(
        "task",
        "training",
        ["training", "forward"],
        "Training steps, or forward passes of the network.",
        flag_values=values,
    )


def run(values: flags.FlagValues) -> dict[str, Any]:
    """Measures, prints and writes the record."""
    if values.peer:
        command.share_memory()
    config = command.adjust_config(values, values.config)
    workload = ours.build_workload(config, seed=values.seed)
    if values.task == "training":
        steps = values.steps_per_dispatch or config.train.steps_per_dispatch
        program = ours.training_program(workload, steps)
    else:
        program = ours.forward_program(workload)
    record = {
        "benchmark": values.task,
        **command.describe(values, config),
        "batch_size": workload.batch_size,
        "steps_per_call": program.steps,
    }
    dtype = record["dtype"]
    print(
        f"{values.task} of {record['config']} on {timing.device_name()}: "
        f"{program.costs['num_params']:,} parameters, batch {workload.batch_size}, "
        f"{config.data.rows} rows, {dtype}"
    )
    found = report.compare(values, values.task, program, workload, dtype=dtype)
    record |= {
        "seconds_per_step": found["seconds_per_call"]["median"] / program.steps,
        "structures_per_second": found["items_per_second"],
        **found,
        **timing.describe_software("torch", "diffusers"),
    }
    parts = (values.task, f"b{workload.batch_size}", f"r{config.data.rows}", dtype)
    command.finish(values, record, *parts)
    return record


if __name__ == "__main__":
    main()
