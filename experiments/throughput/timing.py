"""How long things take: warm-up, repeats in turns, median and spread, the record."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import resource
import shlex
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from crystaljax.system import atomic_files, environment

# Does so many calls of one program, and returns when the last one is done.
Run = Callable[[int], None]

# Threads that wait for more work, of JAX and of PyTorch, go to sleep in this time.
PAUSE_SECONDS = 0.05
# To warm up for calls that take longer changes little.
_LONG_SECONDS = 10.0


def take_turns(
    contenders: Mapping[str, Run], *, repeats: int, min_seconds: float, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds a call of each contender, once per repeat.

    They are measured in turns (a, b, a, b, …), never together: what else the machine
    does then weighs on all of them, and `median_ratio` holds although it changes.

    Args:
        contenders: programs by name, already compiled.
        repeats: measurements of each.
        min_seconds: a measurement makes as many calls as take this long, one at least.
        warmup: calls of each beforehand.
    """
    calls = {}
    for name, run in contenders.items():
        start = time.perf_counter()
        run(warmup)
        seconds = (time.perf_counter() - start) / max(warmup, 1)
        if seconds < min_seconds:
            # The first calls may have been slower than the others will be.
            start = time.perf_counter()
            run(1)
            seconds = time.perf_counter() - start
        calls[name] = max(1, round(min_seconds / max(seconds, 1e-6)))
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            time.sleep(PAUSE_SECONDS)
            start = time.perf_counter()
            run(calls[name])
            found[name].append((time.perf_counter() - start) / calls[name])
    return found


def time_call(run: Run) -> float:
    """Seconds of a call; where that is short, of the second one."""
    for _ in range(2):
        start = time.perf_counter()
        run(1)
        seconds = time.perf_counter() - start
        if seconds > _LONG_SECONDS:
            break
    return seconds


def describe(seconds: Sequence[float]) -> dict[str, Any]:
    """Median, quartiles and smallest of repeated measurements."""
    quartiles = (
        statistics.quantiles(seconds, n=4, method="inclusive")
        if len(seconds) > 1
        else list(seconds) * 3
    )
    return {
        "median": quartiles[1],
        "first_quartile": quartiles[0],
        "third_quartile": quartiles[2],
        "smallest": min(seconds),
        "repeats": len(seconds),
    }


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Our throughput over theirs, from their seconds for the same work.

    The median of the ratios of neighbouring measurements, not the ratio of medians.
    """
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=True))


def usable_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """The processor as Linux names it."""
    path = pathlib.Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def device_name() -> str:
    """What the first device is: the GPU's name, or the processor's."""
    device = jax.devices()[0]
    return cpu_name() if device.platform == "cpu" else device.device_kind


def describe_machine() -> dict[str, Any]:
    """Devices and processor."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "num_devices": jax.device_count(),
        "cpu": cpu_name(),
        "usable_cpus": usable_cpus(),
        "load_average": os.getloadavg()[0],
    }


def describe_software(*more: str) -> dict[str, Any]:
    """Versions (of ``more`` packages too), commit and command."""
    record = environment.describe_environment()
    versions = record["versions"]
    for package in more:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "command": command(record["command"]),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": record["commit"],
        "versions": {"python": record["python"], **versions},
        # Compilation is faster where this is set and the program was compiled before.
        "compilation_cache": bool(jax.config.jax_compilation_cache_dir),
    }


def command(argv: Sequence[str]) -> str:
    """A command line to copy; the script by its path from the repository's root."""
    root = pathlib.Path(__file__).resolve().parents[2]
    script = pathlib.Path(argv[0]).resolve()
    name = script.relative_to(root) if script.is_relative_to(root) else argv[0]
    return shlex.join(["python", str(name), *argv[1:]])


def peak_memory() -> dict[str, Any]:
    """Most memory held so far, bytes: of JAX on an accelerator, and of the process."""
    stats = jax.devices()[0].memory_stats() or {}
    return {
        "device_bytes": stats.get("peak_bytes_in_use"),
        "process_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def write_record(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Writes a measurement as JSON, its folder too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_files.write_json(path, dict(record))
