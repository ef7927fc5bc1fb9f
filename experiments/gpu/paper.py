"""The paper's network: beside PyTorch, where its time goes, variants, memory."""

import pathlib
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
from gpu import kernels
from gpu.measurement import Measurement, describe_error
from throughput import ours, report, timing

from crystaljax.sampling import generation
from crystaljax.system import config_files, device_memory, sharding

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
# Ways to compute the same, beside that of the config, in the order of worth: "steps",
# a dispatch, or a key of the config's model, and its other value.
VARIANTS: tuple[tuple[str, Any], ...] = (
    ("convolution", "xla"),
    ("attention", "cudnn"),
    ("convolution", "shift"),
    ("rematerialize", True),
    ("steps", 1),
    ("attention", "xla"),
)
_BASE = "as configured"


def build_workload(
    measurement: Measurement, batch_size: int, **model: Any
) -> ours.Workload:
    """The paper's network and random crystals; ``model`` are values of its config."""
    size = measurement.size
    config = config_files.load_file(CONFIGS / "ddim.py", size.paper)
    config.update_from_flattened_dict(dict(size.paper_values))
    config.model.update(model)
    config.sampler.num_steps = size.evaluations
    config = ours.adjust_config(
        config, batch_size=batch_size, rows=size.rows, dtype=size.dtype
    )
    return ours.build_workload(config)


def build_program(
    task: str, workload: ours.Workload, measurement: Measurement, steps: int = 0
) -> ours.Program:
    """Our compiled "training" (``steps`` a call) or "sampling"."""
    if task == "training":
        return ours.training_program(workload, steps or measurement.size.steps)
    return ours.sampling_program(workload, seed=0, num_batches=0).device


def describe_workload(workload: ours.Workload, task: str) -> dict[str, Any]:
    """What is measured, for the record."""
    config = workload.config
    evaluations = config.sampler.num_steps if task == "sampling" else None
    return {
        "task": task,
        "batch_size": workload.batch_size,
        "rows": config.data.rows,
        "dtype": ours.resolve_dtype(config),
        "network_evaluations": evaluations,
    }


# --------------------------------------------------------------------- beside PyTorch
def training(measurement: Measurement, batch_size: int) -> None:
    """Training steps, ours and PyTorch's, eager and compiled, in turns."""
    compare(measurement, "training", batch_size)


def sampling(measurement: Measurement, batch_size: int) -> None:
    """Sampling with DDIM likewise, on the device."""
    compare(measurement, "sampling", batch_size)


def compare(measurement: Measurement, task: str, batch_size: int) -> None:
    """Ours, then in turns with each of PyTorch's; what fails costs itself.

    The figure is reported anew with each contender, so that a slow compiler costs its
    own column alone; the last one holds all, measured in turns.
    """
    workload = build_workload(measurement, batch_size)
    program = build_program(task, workload, measurement)
    measurement.add_stage("ours is compiled")
    program.run(1)
    memory = timing.peak_memory()
    contenders: dict[str, timing.Run] = {"ours": program.run}
    peers: dict[str, dict[str, Any]] = {}
    for name in ("ours", "eager", "compiled"):
        if name != "ours":
            start = time.perf_counter()
            try:
                peer = build_peer(task, workload, measurement, name == "compiled")
                peer.run(1)
            # Whatever PyTorch and its compiler raise.
            except Exception as error:
                peers[name] = {"error": describe_error(error)}
            else:
                seconds_of_first_call = time.perf_counter() - start
                contenders[name] = peer.run
                peers[name] = peer.describe() | {
                    "seconds_of_building_and_first_call": seconds_of_first_call
                }
            measurement.add_stage(f"PyTorch, {name}, is built")
        seconds = timing.take_turns(
            contenders,
            repeats=measurement.size.repeats,
            min_seconds=measurement.size.min_seconds,
        )
        figure = describe_workload(workload, task)
        described = report.describe_program(program, seconds["ours"], figure["dtype"])
        figure["ours"] = described | {"peak_memory": memory}
        for each, peer in peers.items():
            measured = {}
            if each in seconds:
                measured = report.describe_peer(
                    program, seconds["ours"], seconds[each], program.flops
                )
            figure[each] = measured | peer
        measurement.add("beside PyTorch", **figure)


def build_peer(
    task: str, workload: ours.Workload, measurement: Measurement, is_compiled: bool
) -> Any:
    """The same work in PyTorch."""
    # Ours is measured without it too.
    from throughput import torch_peer

    return torch_peer.build_contender(
        task, workload, steps=measurement.size.steps, compile_network=is_compiled
    )


# ------------------------------------------------------------------ where the time goes
def profile(measurement: Measurement, batch_size: int) -> None:
    """Time by kind of kernel in training and sampling."""
    for task in ("training", "sampling"):
        workload = build_workload(measurement, batch_size)
        program = build_program(task, workload, measurement)
        program.run(1)
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                program.run(1)
            found = kernels.summarize(
                kernels.read_trace(pathlib.Path(folder)),
                kernels.read_programs(program.executables),
            )
        seconds = timing.take_turns(
            {"ours": program.run},
            repeats=measurement.size.repeats,
            min_seconds=measurement.size.min_seconds,
        )
        measurement.add(
            "profile",
            **describe_workload(workload, task),
            steps_per_call=program.steps,
            seconds_without_profiler=timing.describe(seconds["ours"]),
            **found,
        )


def variants(measurement: Measurement, batch_size: int) -> None:
    """Ways to compute the same training step, each in turns with the config's own.

    One is compiled and timed after the other, since compilers time kernels on the GPU
    themselves. The figure is reported anew with each; the last one holds all.
    """
    size = measurement.size
    base = build_variant(measurement, batch_size, None, None)
    base.run(1)
    measurement.add_stage(f"{_BASE}: compiled")
    figure = describe_workload(build_workload(measurement, batch_size), "training")
    found: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for key, value in VARIANTS:
        name = f"{key}={value}"
        start = time.monotonic()
        try:
            program = build_variant(measurement, batch_size, key, value)
            program.run(1)
        # Whatever XLA and cuDNN raise: the others are measured.
        except Exception as error:
            problems[name] = describe_error(error)
        else:
            measurement.add_stage(f"{name}: compiled")
            seconds = timing.take_turns(
                {_BASE: base.run, name: program.run},
                repeats=size.repeats,
                min_seconds=size.min_seconds,
            )
            if not found:
                found[_BASE] = describe_variant(
                    base, seconds[_BASE], seconds[_BASE], base
                )
            found[name] = describe_variant(program, seconds[name], seconds[_BASE], base)
            del program
        measurement.add(
            "variants",
            **figure,
            steps_per_dispatch=size.steps,
            variants=found,
            problems=problems,
            fastest=max(found, key=lambda each: found[each]["gain"], default=None),
        )
        if measurement.remaining() < time.monotonic() - start:
            measurement.add_stage(f"no time for what comes after {name}")
            return


def build_variant(
    measurement: Measurement, batch_size: int, key: str | None, value: Any
) -> ours.Program:
    """The training step with another value of "steps" (a dispatch) or of the model."""
    model = {} if key in (None, "steps") else {key: value}
    workload = build_workload(measurement, batch_size, **model)
    steps = value if key == "steps" else 0
    return build_program("training", workload, measurement, steps)


def describe_variant(
    program: ours.Program,
    seconds: Sequence[float],
    seconds_of_base: Sequence[float],
    base: ours.Program,
) -> dict[str, Any]:
    """Throughput, and its ratio to that of `_BASE`, timed in turns with it."""
    # Of as many structures: programs differ in their steps a call.
    share = program.items / base.items
    described = timing.describe(seconds)
    return {
        "seconds_per_call": described,
        "steps_per_call": program.steps,
        "structures_per_second": program.items / described["median"],
        "gain": share * timing.median_ratio(seconds, seconds_of_base),
        "compile_seconds": program.costs["compile_seconds"],
        "temporary_bytes": program.costs.get("xla_temporary_bytes"),
    }


# ------------------------------------------------------------------------------- memory
def memory(
    measurement: Measurement, batch_sizes: tuple[int, int], tasks: Sequence[str]
) -> None:
    """The largest batch that fits, in each of the tasks.

    Memory is taken to grow with the batch as between two small ones; what is predicted
    to fit is run, and a smaller one if it does not.
    """
    for task in tasks:
        needed = [
            needed_bytes(build_program(task, workload, measurement))
            for workload in (build_workload(measurement, b) for b in batch_sizes)
        ]
        predicted = predict_batch(batch_sizes, needed, free_bytes())
        batch_size = min(predicted, measurement.size.largest_batch)
        while batch_size >= max(batch_sizes):
            figure = describe_workload(build_workload(measurement, batch_size), task)
            try:
                found = try_batch(measurement, task, batch_size)
            except jax.errors.JaxRuntimeError as error:
                if not generation.is_out_of_memory(error):
                    raise
                measurement.add("does not fit", **figure)
                batch_size = round_batch(0.85 * batch_size)
                continue
            measurement.add(
                "largest batch",
                **figure,
                **found,
                predicted=predicted,
                needed_bytes=dict(zip(map(str, batch_sizes), needed, strict=True)),
            )
            break


def try_batch(measurement: Measurement, task: str, batch_size: int) -> dict[str, Any]:
    """Builds and runs a batch.

    Raises:
        JaxRuntimeError: it does not fit, in compilation or after.
    """
    program = build_program(task, build_workload(measurement, batch_size), measurement)
    # The first call may allocate more than others take.
    program.run(1)
    start = time.perf_counter()
    program.run(1)
    seconds = time.perf_counter() - start
    return {
        "seconds_per_call": seconds,
        "items_per_second": program.items / seconds,
        "needed_bytes_of_program": needed_bytes(program),
        "peak_memory": timing.peak_memory(),
    }


def needed_bytes(program: ours.Program) -> int:
    """Bytes of the arguments and of what comes between, as XLA plans them."""
    costs = program.costs
    return costs["xla_argument_bytes"] + costs["xla_temporary_bytes"]


def free_bytes() -> float:
    """Bytes that may be taken on each device."""
    free = device_memory.available_bytes(sharding.build_mesh())
    if free is None:
        raise ValueError("the devices do not say how much memory they have")
    return free


def predict_batch(sizes: tuple[int, int], needed: Sequence[int], free: float) -> int:
    """The batch whose memory, on a straight line through two, is what is free."""
    per_structure = (needed[1] - needed[0]) / (sizes[1] - sizes[0])
    # On a toy's scale nothing may grow.
    room = (free - needed[0]) / max(per_structure, 1.0)
    return round_batch(sizes[0] + room)


def round_batch(batch_size: float) -> int:
    """Down to a multiple of 64; smaller ones are left as they are."""
    return int(batch_size) // 64 * 64 or int(batch_size)
