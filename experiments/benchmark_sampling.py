"""How many crystals a second are sampled, and how many by the same in PyTorch?

    python experiments/benchmark_sampling.py --config=configs/ddim.py --batch_size=16 \
        --num_steps=10 --peer=torch

times the compiled sampler of any config (`generation.build_generate_fn`), conditions
and crystals on the device, and sampling from end to end: conditions on the host in,
extxyz and tables out. Weights are random, crystals too. Writes JSON; with
``--peer=torch`` the last line is our throughput over the peer's, both on the device.
See experiments/throughput/README.md.
"""

from typing import Any

from absl import flags
from throughput import command, ours, report, timing

from crystaljax import build, defaults


def main() -> None:
    """Command line."""
    command.run(__doc__, define_flags, run)


def define_flags(values: flags.FlagValues) -> None:
    """Flags beside --config."""
    command.define_workload_flags(values, repeats=5)
    command.define_peer_flags(values)
    flags.DEFINE_enum(
        "sampler",
        None,
        [name for names in defaults.SAMPLERS.values() for name in names],
        "The config's by default.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_steps",
        None,
        "Network evaluations a sample; the config's by default.",
        1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_batches",
        2,
        "Batches of a run from end to end; 0 leaves it out.",
        0,
        flag_values=values,
    )


def run(values: flags.FlagValues) -> dict[str, Any]:
    """Measures, prints and writes the record."""
    if values.peer:
        command.share_memory()
    config = ours.adjust_config(
        build.override_sampler(
            values.config, num_steps=values.num_steps, name=values.sampler
        ),
        batch_size=values.batch_size or values.config.evaluation.batch_size,
        rows=values.rows,
        dtype=values.dtype,
    )
    workload = ours.build_workload(config, seed=values.seed)
    dtype = ours.resolve_dtype(config)
    sampler = ours.sampling_program(
        workload, seed=values.seed, num_batches=values.num_batches
    )
    program = sampler.device
    program.run(1)
    memory = timing.peak_memory()

    contenders, peer = {"ours": program.run}, None
    if values.peer:
        # Only needed for a comparison.
        from throughput import torch_peer

        peer = torch_peer.build_contender(
            "sampling", workload, steps=1, compile_network=values.peer_compile
        )
        contenders["peer"] = peer.run
    seconds = timing.take_turns(
        contenders, repeats=values.repeats, min_seconds=values.min_seconds
    )

    found = report.describe_program(program, seconds["ours"], dtype)
    record = {
        "benchmark": "sampling",
        "config": command.config_name(values),
        "config_overrides": command.config_overrides(values),
        **timing.describe_machine(),
        "dtype": dtype,
        "batch_size": workload.batch_size,
        "rows": config.data.rows,
        "sampler": config.sampler.name,
        "network_evaluations": config.sampler.num_steps,
        "samples_per_second": found["items_per_second"],
        **found,
        "peak_memory": memory,
    }
    print(
        f"sampling of {record['config']} on {timing.device_name()}: "
        f"{record['num_params']:,} parameters, {config.sampler.name} with "
        f"{config.sampler.num_steps} evaluations, batch {workload.batch_size}, "
        f"{config.data.rows} rows, {dtype}\n"
        f"init {record['init_seconds']:.1f} s, compile "
        f"{record['trace_seconds'] + record['compile_seconds']:.1f} s, "
        f"{record['share_of_peak']:.1%} of the peak, {report.gigabytes(memory)}"
    )
    report.print_speed("ours", found, program.items, "samples")
    if sampler.num_batches:
        record["end_to_end"] = measure_end_to_end(values, sampler)
        print(
            f"       from conditions to files: "
            f"{record['end_to_end']['samples_per_second']:,.1f} samples/s"
        )
    if peer is not None:
        theirs = report.describe_peer(program, seconds["ours"], seconds["peer"])
        record["peer"] = theirs | peer.describe()
        report.print_speed("torch", theirs, program.items, "samples")
    record |= timing.describe_software("torch", "diffusers")
    parts = (
        "sampling",
        f"{config.sampler.name}{config.sampler.num_steps}",
        f"b{workload.batch_size}",
        f"r{config.data.rows}",
        dtype,
    )
    path = command.output_path(values, *parts)
    timing.write_record(path, record)
    print(f"written: {path}")
    if peer is not None:
        print(f"ratio to peer: {record['peer']['ratio']:.2f}")
    return record


def measure_end_to_end(
    values: flags.FlagValues, sampler: ours.Sampler
) -> dict[str, Any]:
    """Conditions on the host in, files out."""
    seconds = timing.take_turns(
        {"ours": sampler.end_to_end},
        repeats=values.repeats,
        min_seconds=values.min_seconds,
    )
    found = timing.describe(seconds["ours"])
    num_samples = sampler.num_batches * sampler.device.items
    return {
        "num_samples": num_samples,
        "seconds_per_call": found,
        "samples_per_second": num_samples / found["median"],
    }


if __name__ == "__main__":
    main()
