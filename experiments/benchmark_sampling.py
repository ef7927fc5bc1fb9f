"""How many crystals a second are sampled, and how many by the same in PyTorch?

    python experiments/benchmark_sampling.py --config=configs/ddim.py --batch_size=16 \
        --num_steps=10 --peer=torch

times the compiled sampler of any config (`generation.build_generate_fn`), conditions
and crystals on the device, and sampling from end to end: conditions on the host in,
extxyz and tables out. Weights are random, crystals too. Writes JSON; with
``--peer=torch`` the last line is our throughput over the peer's, both on the device.
``--peer_rows`` and ``--peer_num_steps`` have the peer make the same crystals in more
rows and with more evaluations, as the paper does. See experiments/throughput/README.md.
"""

from typing import Any

from absl import flags
from throughput import command, ours, report, timing

from crystaljax import defaults
from crystaljax.sampling import build as build_sampling
from crystaljax.sampling import options as sampling_options


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
    for name, text in {
        "peer_rows": "Rows in which the peer makes the same crystals; ours by default.",
        "peer_num_steps": "Network evaluations of the peer; ours by default.",
    }.items():
        flags.DEFINE_integer(name, None, text, 1, flag_values=values)


def run(values: flags.FlagValues) -> dict[str, Any]:
    """Measures, prints and writes the record."""
    if values.peer:
        command.share_memory()
    values.batch_size = values.batch_size or values.config.evaluation.batch_size
    config = command.adjust_config(
        values,
        build_sampling.override_sampler(
            values.config,
            sampling_options.SamplerSettings(
                num_steps=values.num_steps, sampler=values.sampler
            ),
        ),
    )
    workload = ours.build_workload(config, seed=values.seed)
    peer_workload = ours.widen(
        workload, rows=values.peer_rows, num_steps=values.peer_num_steps
    )
    sampler = ours.sampling_program(
        workload, seed=values.seed, num_batches=values.num_batches
    )
    record = {
        "benchmark": "sampling",
        **command.describe(values, config),
        "batch_size": workload.batch_size,
        "sampler": config.sampler.name,
        "network_evaluations": config.sampler.num_steps,
    }
    dtype = record["dtype"]
    print(
        f"sampling of {record['config']} on {timing.device_name()}: "
        f"{sampler.device.costs['num_params']:,} parameters, {config.sampler.name} "
        f"with {config.sampler.num_steps} evaluations, batch {workload.batch_size}, "
        f"{config.data.rows} rows, {dtype}"
    )
    found = report.compare(
        values,
        "sampling",
        sampler.device,
        peer_workload,
        dtype=dtype,
        peer_flops=ours.sampling_flops(peer_workload),
    )
    record |= {"samples_per_second": found["items_per_second"], **found}
    if values.peer:
        theirs = peer_workload.config
        asked = (theirs.data.rows, theirs.sampler.num_steps)
        record["peer"] |= dict(zip(("rows", "network_evaluations"), asked, strict=True))
        if asked != (config.data.rows, config.sampler.num_steps):
            print(f"       torch: {asked[0]} rows, {asked[1]} evaluations")
    if sampler.num_batches:
        record["end_to_end"] = measure_end_to_end(values, sampler)
        print(
            f"       from conditions to files: "
            f"{record['end_to_end']['samples_per_second']:,.1f} samples/s"
        )
    record |= timing.describe_software("torch", "diffusers")
    size = f"b{workload.batch_size}"
    steps = f"{config.sampler.name}{config.sampler.num_steps}"
    parts = ["sampling", steps, size, f"r{config.data.rows}", dtype]
    if values.peer_rows or values.peer_num_steps:
        parts.append("peer-as-in-the-paper")
    command.finish(values, record, *parts)
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
