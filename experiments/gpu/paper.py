"""The paper's network: beside PyTorch, where its time goes, variants, memory."""

import concurrent.futures
import os
import pathlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from gpu import kernels
from gpu.measurement import Measurement, describe_error
from throughput import ours, report, timing

from crystaljax import defaults
from crystaljax.sampling import batch_sizes as batch_sizes_lib
from crystaljax.sampling import generation
from crystaljax.system import sharding

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
# Ways to compute the same, beside that of the config; the first round is of most worth.
VARIANTS = (
    {"convolution": "xla", "attention": "cudnn"},
    {"rematerialize": True, "steps": 1, "convolution": "shift", "attention": "xla"},
)
_BASE = "as configured"


def build_workload(
    measurement: Measurement, batch_size: int, **model: Any
) -> ours.Workload:
    """The paper's network and random crystals; ``model`` are values of its config."""
    size = measurement.size
    config = defaults.load_config_file(CONFIGS / "ddim.py", size.paper)
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
    """Ours in turns with PyTorch; where that fails, ours alone and the reason."""
    workload = build_workload(measurement, batch_size)
    # XLA compiles outside Python's lock, and PyTorch's compiler has its own processes.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(build_program, task, workload, measurement)
        peers: dict[str, Any] = {}
        problems: dict[str, str] = {}
        seconds_of_first_call: dict[str, float] = {}
        for name in ("eager", "compiled"):
            start = time.perf_counter()
            try:
                peers[name] = build_peer(
                    task, workload, measurement, name == "compiled"
                )
                peers[name].run(1)
            # Whatever PyTorch and its compiler raise.
            except Exception as error:
                peers.pop(name, None)
                problems[name] = describe_error(error)
            else:
                seconds_of_first_call[name] = time.perf_counter() - start
        program = future.result()
    program.run(1)
    memory = timing.peak_memory()
    size = measurement.size
    contenders = {"ours": program.run, **{name: p.run for name, p in peers.items()}}
    seconds = timing.take_turns(
        contenders, repeats=size.repeats, min_seconds=size.min_seconds
    )
    figure = describe_workload(workload, task)
    described = report.describe_program(program, seconds["ours"], figure["dtype"])
    figure["ours"] = described | {"peak_memory": memory}
    for name, peer in peers.items():
        figure[name] = {
            **report.describe_peer(
                program, seconds["ours"], seconds[name], program.flops
            ),
            **peer.describe(),
            "seconds_of_building_and_first_call": seconds_of_first_call[name],
        }
    for name, problem in problems.items():
        figure[name] = {"error": problem}
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
    """Ways to compute the same training step, timed in turns; names the fastest."""
    size, start = measurement.size, time.monotonic()
    for number, values in enumerate(VARIANTS):
        if number and measurement.remaining() < time.monotonic() - start:
            measurement.add("variants", error="no time for the second round")
            return
        programs, problems = build_variants(measurement, batch_size, values)
        seconds = timing.take_turns(
            {name: program.run for name, program in programs.items()},
            repeats=size.repeats,
            min_seconds=size.min_seconds,
        )
        found = {
            name: describe_variant(program, seconds[name], seconds[_BASE], programs)
            for name, program in programs.items()
        }
        measurement.add(
            "variants",
            **describe_workload(build_workload(measurement, batch_size), "training"),
            steps_per_dispatch=size.steps,
            variants=found,
            problems=problems,
            fastest=max(found, key=lambda name: found[name]["gain"]),
        )


def build_variants(
    measurement: Measurement, batch_size: int, values: Mapping[str, Any]
) -> tuple[dict[str, ours.Program], dict[str, str]]:
    """The programs that can be built, `_BASE` first, and why the others cannot.

    Args:
        measurement: of the part.
        batch_size: of all of them.
        values: "steps", a dispatch, or a key of the config's model → its other value.
    """

    def build(name: str | None, value: Any) -> ours.Program:
        model = {} if name in (None, "steps") else {name: value}
        workload = build_workload(measurement, batch_size, **model)
        steps = value if name == "steps" else 0
        return build_program("training", workload, measurement, steps)

    # XLA compiles outside Python's lock.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = {_BASE: pool.submit(build, None, None)}
        for name, value in values.items():
            futures[f"{name}={value}"] = pool.submit(build, name, value)
    programs = {_BASE: futures.pop(_BASE).result()}
    problems = {}
    for name, future in futures.items():
        try:
            program = future.result()
            program.run(1)
        # Whatever XLA and cuDNN raise: the others are measured.
        except Exception as error:
            problems[name] = describe_error(error)
        else:
            programs[name] = program
    return programs, problems


def describe_variant(
    program: ours.Program,
    seconds: Sequence[float],
    seconds_of_base: Sequence[float],
    programs: Mapping[str, ours.Program],
) -> dict[str, Any]:
    """Throughput, and its ratio to that of `_BASE`."""
    # Of as many structures: programs differ in their steps a call.
    share = program.items / programs[_BASE].items
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
    free = batch_sizes_lib.available_bytes(sharding.build_mesh())
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
