"""How fast is a training step, and how fast is the same step in PyTorch?

    python experiments/benchmark_training.py --config=configs/ddim.py --batch_size=16 \
        --peer=torch

times the training step of any config (`training.build_dispatch_fn`) on random crystals
that are on the device already, or with ``--task=forward`` the network alone, and writes
JSON. With ``--peer=torch`` the last line is our throughput over the peer's. See
experiments/throughput/README.md.
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
    command.define_peer_flags(values)
    flags.DEFINE_enum(
        "task",
        "training",
        ["training", "forward"],
        "Training steps, or forward passes of the network.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "steps_per_dispatch",
        None,
        "Steps a call; the config's by default.",
        1,
        flag_values=values,
    )


def run(values: flags.FlagValues) -> dict[str, Any]:
    """Measures, prints and writes the record."""
    if values.peer:
        command.share_memory()
    config = ours.adjust_config(
        values.config,
        batch_size=values.batch_size,
        rows=values.rows,
        dtype=values.dtype,
    )
    workload = ours.build_workload(config, seed=values.seed)
    dtype = ours.resolve_dtype(config)
    is_training = values.task == "training"
    if is_training:
        steps = values.steps_per_dispatch or config.train.steps_per_dispatch
        program = ours.training_program(workload, steps)
    else:
        program = ours.forward_program(workload)
    program.run(1)
    memory = timing.peak_memory()

    contenders, peer = {"ours": program.run}, None
    if values.peer:
        # Only needed for a comparison.
        from throughput import torch_peer

        peer = torch_peer.build_contender(
            values.task,
            workload,
            steps=program.steps,
            compile_network=values.peer_compile,
        )
        contenders["peer"] = peer.run
    seconds = timing.take_turns(
        contenders, repeats=values.repeats, min_seconds=values.min_seconds
    )

    found = report.describe_program(program, seconds["ours"], dtype)
    record = {
        "benchmark": values.task,
        "config": command.config_name(values),
        "config_overrides": command.config_overrides(values),
        **timing.describe_machine(),
        "dtype": dtype,
        "batch_size": workload.batch_size,
        "rows": config.data.rows,
        "steps_per_call": program.steps,
        "seconds_per_step": found["seconds_per_call"]["median"] / program.steps,
        "structures_per_second": found["items_per_second"],
        **found,
        "peak_memory": memory,
    }
    print(
        f"{values.task} of {record['config']} on {timing.device_name()}: "
        f"{record['num_params']:,} parameters, batch {workload.batch_size}, "
        f"{config.data.rows} rows, {dtype}\n"
        f"init {record['init_seconds']:.1f} s, compile "
        f"{record['trace_seconds'] + record['compile_seconds']:.1f} s, "
        f"{record['share_of_peak']:.1%} of the peak, {report.gigabytes(memory)}"
    )
    report.print_speed("ours", found, program.steps, "structures")
    if peer is not None:
        theirs = report.describe_peer(program, seconds["ours"], seconds["peer"])
        record["peer"] = theirs | peer.describe()
        report.print_speed("torch", theirs, program.steps, "structures")
    record |= timing.describe_software("torch", "diffusers")
    parts = (values.task, f"b{workload.batch_size}", f"r{config.data.rows}", dtype)
    path = command.output_path(values, *parts)
    timing.write_record(path, record)
    print(f"written: {path}")
    if peer is not None:
        print(f"ratio to peer: {record['peer']['ratio']:.2f}")
    return record


if __name__ == "__main__":
    main()
