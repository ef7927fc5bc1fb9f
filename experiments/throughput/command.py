"""Command lines of the benchmarks: a config with overrides, then plain flags."""

import os
import pathlib
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags, logging
from ml_collections import config_flags
from throughput import ours, timing

from crystaljax import command_line

RESULTS = pathlib.Path(__file__).with_name("results")
DTYPES = ("auto", "float32", "bfloat16", "float16")


def run(
    docstring: str,
    define: Callable[[flags.FlagValues], None],
    benchmark: Callable[[flags.FlagValues], Any],
    *,
    config_required: bool = True,
) -> None:
    """Parses the command line and runs a benchmark.

    Args:
        docstring: of the script, for --help.
        define: defines the flags.
        benchmark: is given their values, by attribute.
        config_required: whether there must be a --config.
    """
    # Values of its own and not absl's global ones, so that tests can call several.
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file, such as configs/ddim.py or configs/ddim.py:smoke; values are set "
        "by --config.model.channels=64 and the like.",
        flag_values=values,
    )
    flags.DEFINE_bool("help", False, "Show the flags.", flag_values=values)
    define(values)
    logging.set_verbosity(logging.ERROR)
    try:
        left = values(sys.argv)[1:]
    # OSError: the config cannot be loaded.
    except (flags.Error, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    if values.help:
        print(f"{docstring}\n{values.get_help()}")
        return
    if left:
        raise SystemExit(f"error: unexpected arguments {left}")
    if config_required and values.config is None:
        raise SystemExit("error: --config is missing, such as --config=configs/ddim.py")
    try:
        benchmark(values)
    except command_line.USER_ERRORS as error:
        raise SystemExit(f"error: {error}") from error


def define_workload_flags(values: flags.FlagValues, repeats: int) -> None:
    """Flags of what is measured, and how often."""
    flags.DEFINE_integer(
        "batch_size",
        None,
        "Structures at a time, over all devices; the config's by default.",
        1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "rows",
        None,
        "Rows of the sample tensor; config.data.rows by default.",
        8,
        flag_values=values,
    )
    flags.DEFINE_enum(
        "dtype",
        None,
        DTYPES,
        "Arithmetic; by default float32 on CPUs and the config's on accelerators.",
        flag_values=values,
    )
    flags.DEFINE_integer("seed", 0, "Seed of the data.", 0, flag_values=values)
    flags.DEFINE_integer(
        "repeats", repeats, "Measurements of each program.", 1, flag_values=values
    )
    flags.DEFINE_float(
        "min_seconds",
        0.5,
        "Length of a measurement, seconds; one call at least.",
        0,
        flag_values=values,
    )
    flags.DEFINE_string(
        "output",
        None,
        "JSON file; a name in experiments/throughput/results by default.",
        flag_values=values,
    )


def define_steps_flag(values: flags.FlagValues) -> None:
    """``--steps_per_dispatch``."""
    flags.DEFINE_integer(
        "steps_per_dispatch",
        None,
        "Training steps a call; the config's by default.",
        1,
        flag_values=values,
    )


def define_peer_flags(values: flags.FlagValues) -> None:
    """Flags of what ours is compared with."""
    flags.DEFINE_enum(
        "peer",
        None,
        ["torch"],
        "Measure the same work in PyTorch too, in turns with ours.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "peer_compile", False, "Give the peer torch.compile.", flag_values=values
    )


def adjust_config(values: flags.FlagValues, config: Any) -> Any:
    """A copy of a config as the flags want it measured."""
    return ours.adjust_config(
        config, batch_size=values.batch_size, rows=values.rows, dtype=values.dtype
    )


def share_memory() -> None:
    """Lets a second framework have memory of the GPU; call it before JAX looks."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def config_name(values: flags.FlagValues) -> str:
    """The config as it was given, ``ddim.py:smoke``, without its folder."""
    return pathlib.Path(config_flags.get_config_filename(values["config"])).name


def config_overrides(values: flags.FlagValues) -> dict[str, Any]:
    """Values of the config that were set by flag."""
    found = config_flags.get_override_values(values["config"])
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in found.items()
    }


def describe(values: flags.FlagValues, config: Any) -> dict[str, Any]:
    """The head of a record: what is measured, and on what."""
    return {
        "config": config_name(values),
        "config_overrides": config_overrides(values),
        **timing.describe_machine(),
        "dtype": ours.resolve_dtype(config),
        "convolution": config.model.convolution,
        "rows": config.data.rows,
    }


def finish(values: flags.FlagValues, record: Mapping[str, Any], *parts: Any) -> None:
    """Writes a record; the last line is the ratio to the peer, where there is one."""
    path = output_path(values, *parts)
    timing.write_record(path, record)
    print(f"written: {path}")
    if "peer" in record:
        print(f"ratio to peer: {record['peer']['ratio']:.2f}")


def output_path(values: flags.FlagValues, *parts: Any) -> pathlib.Path:
    """``--output``, or a name of config, device, overrides and other parts."""
    if values.output:
        return pathlib.Path(values.output)
    words, overrides = [timing.device_name(), *map(str, parts)], []
    if values.config is not None:
        words.insert(0, config_name(values).replace(".py", "").replace(":", "-"))
        overrides = [
            f"{key}-{value}" for key, value in config_overrides(values).items()
        ]
    words += overrides
    slug = "_".join(re.sub(r"[^A-Za-z0-9.]+", "-", word).strip("-") for word in words)
    return RESULTS / f"{slug}.json"
