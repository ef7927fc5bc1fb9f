"""The record of one comparison, as JSON and in a few lines."""

from collections.abc import Sequence
from typing import Any

import jax
from throughput import flops, ours, timing


def describe_program(
    program: ours.Program, seconds: Sequence[float], dtype: str
) -> dict[str, Any]:
    """Seconds, throughput and share of the peak of one of our programs."""
    found = timing.describe(seconds)
    peak = flops.peak_tflops(dtype)
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
) -> dict[str, Any]:
    """The same of the peer, and the ratio: above 1 ours is faster."""
    found = timing.describe(seconds)
    return {
        "seconds_per_call": found,
        "items_per_second": program.items / found["median"],
        "tflops": program.flops / found["median"] / 1e12,
        "ratio": timing.median_ratio(our_seconds, seconds),
        "ratios": [b / a for a, b in zip(our_seconds, seconds, strict=True)],
    }


def gigabytes(memory: dict[str, Any]) -> str:
    """Peak memory in words."""
    if memory["device_bytes"] is not None:
        return f"{memory['device_bytes'] / 1e9:.2f} GB on the device"
    return f"{memory['process_bytes'] / 1e9:.2f} GB of the process"


def print_speed(name: str, found: dict[str, Any], steps: int, unit: str) -> None:
    """One line: seconds a step or sample with their spread, and throughput."""
    seconds = found["seconds_per_call"]
    median, first, third = (
        1000 * seconds[key] / steps
        for key in ("median", "first_quartile", "third_quartile")
    )
    print(
        f"{name:6s} {median:.2f} ms (quartiles {first:.2f}-{third:.2f}), "
        f"{found['items_per_second']:,.1f} {unit}/s, {found['tflops']:.3f} TFLOP/s"
    )
