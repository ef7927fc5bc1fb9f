"""One comparison: measured, as JSON and in a few lines."""

from collections.abc import Sequence
from typing import Any

import jax
from absl import flags
from throughput import flops as flops_lib
from throughput import ours, timing


def compare(
    values: flags.FlagValues,
    task: str,
    program: ours.Program,
    peer_workload: ours.Workload,
    *,
    dtype: str,
    peer_flops: float | None = None,
) -> dict[str, Any]:
    """Times one of our programs; with ``--peer`` in turns with its work in PyTorch.

    Prints a line for each and returns the record's part: ours, and ``peer`` if any.

    Args:
        values: of the flags.
        task: "training", "forward" or "sampling".
        program: ours.
        peer_workload: what the peer works on.
        dtype: of the arithmetic, whose peak ours is compared with.
        peer_flops: of a call of the peer; as many as ours if None.
    """
    program.run(1)
    memory = timing.peak_memory()
    contenders, peer = {"ours": program.run}, None
    if values.peer:
        # Only needed for a comparison.
        from throughput import torch_peer

        peer = torch_peer.build_contender(
            task,
            peer_workload,
            steps=program.steps,
            compile_network=values.peer_compile,
        )
        contenders["peer"] = peer.run
    seconds = timing.take_turns(
        contenders, repeats=values.repeats, min_seconds=values.min_seconds
    )
    record = describe_program(program, seconds["ours"], dtype)
    record["peak_memory"] = memory
    print(
        f"init {record['init_seconds']:.1f} s, compile "
        f"{record['trace_seconds'] + record['compile_seconds']:.1f} s, "
        f"{record['share_of_peak']:.1%} of the peak, {gigabytes(memory)}"
    )
    per, unit = {
        "training": ("step", "structures"),
        "forward": ("pass", "structures"),
        "sampling": ("batch", "samples"),
    }[task]
    print_speed("ours", record, program.steps, per, unit)
    if peer is not None:
        described = describe_peer(
            program, seconds["ours"], seconds["peer"], peer_flops or program.flops
        )
        record["peer"] = described | peer.describe()
        print_speed("torch", described, program.steps, per, unit)
    return record


def describe_program(
    program: ours.Program, seconds: Sequence[float], dtype: str
) -> dict[str, Any]:
    """Seconds, throughput and share of the peak of one of our programs."""
    found = timing.describe(seconds)
    peak = flops_lib.peak_tflops(dtype)
    # Simulated devices share the cores that the peak was measured on.
    on_cpu = jax.default_backend() == "cpu"
    num_devices = 1 if on_cpu else jax.device_count()
    tflops = program.flops / found["median"] / 1e12
    return {
        "seconds_per_call": found,
        "items_per_call": program.items,
        "items_per_second": program.items / found["median"],
        "tflops": tflops,
        "flops_per_call": program.flops,
        "peak": peak,
        "share_of_peak": tflops / (num_devices * peak["tflops"]),
        **program.costs,
    }


def describe_peer(
    program: ours.Program,
    our_seconds: Sequence[float],
    seconds: Sequence[float],
    flops: float,
) -> dict[str, Any]:
    """The same of the peer, and the ratio: above 1 ours is faster."""
    found = timing.describe(seconds)
    return {
        "seconds_per_call": found,
        "items_per_second": program.items / found["median"],
        "tflops": flops / found["median"] / 1e12,
        "ratio": timing.median_ratio(our_seconds, seconds),
        "ratios": [b / a for a, b in zip(our_seconds, seconds, strict=True)],
    }


def gigabytes(memory: dict[str, Any]) -> str:
    """Peak memory in words."""
    if memory["device_bytes"] is not None:
        return f"{memory['device_bytes'] / 1e9:.2f} GB on the device"
    return f"{memory['process_bytes'] / 1e9:.2f} GB of the process"


def print_speed(
    name: str, found: dict[str, Any], steps: int, per: str, unit: str
) -> None:
    """One line: milliseconds a step, pass or batch with spread, and throughput."""
    seconds = found["seconds_per_call"]
    median, first, third = (
        1000 * seconds[key] / steps
        for key in ("median", "first_quartile", "third_quartile")
    )
    print(
        f"{name:6s} {median:.2f} ms a {per} (quartiles {first:.2f}-{third:.2f}), "
        f"{found['items_per_second']:,.1f} {unit}/s, {found['tflops']:.3f} TFLOP/s"
    )
