"""Everything that is worth measuring on a GPU, in the minutes that one is at hand.

    python experiments/gpu/run.py --minutes=11
    python experiments/gpu/run.py --check

measures part by part, in the order of worth (`sizes.PARTS`), each in a process of its
own, so that one that crashes or hangs costs itself alone. A part that no longer fits
into the time is left out. The record is written anew after each figure; the same
command with the same ``--output`` goes on with the parts that it lacks. ``--check``
tells in seconds, without a GPU, whether all that is needed imports, and ``--size=toy``
tries everything on a CPU. See README.md.
"""

import argparse
import contextlib
import dataclasses
import datetime
import importlib
import importlib.metadata
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
# Nothing needs to be installed: the package and the experiments are beside this.
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

from gpu import measurement, sizes  # noqa: E402

from crystaljax.system import atomic_files, environment  # noqa: E402

RESULTS = HERE / "results"
WHEELS = HERE / "wheels"
# Beside the wheels, so that their folder stays as small as it is reported.
UNPACKED = HERE / "unpacked"
CACHE = HERE / "cache"
# Modules that the parts need, and which of them do without the others.
NEEDED = {
    "all parts": (
        "jax",
        "flax",
        "optax",
        "orbax.checkpoint",
        "numpy",
        "absl",
        "jaxtyping",
        "ml_collections",
        "tqdm",
        "gpu.paper",
    ),
    "training and sampling beside PyTorch": ("torch", "throughput.torch_peer"),
    "best": (
        "pyarrow",
        "scipy",
        "crystaljax.crystals.projection",
        "crystaljax.data.sources.emt",
        "crystaljax.sampling.picking",
        "gpu.recipe",
    ),
    "orbits": ("spglib", "gpu.orbits"),
    "relaxation": ("gpu.alloys", "batched_relaxation.benchmark"),
}
# Left for the last figures to be written, seconds.
_RESERVE = 3.0
_POLL_SECONDS = 0.2
_LOG_LINES = 15


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=11.0, help="time for it all")
    parser.add_argument("--parts", help="names, comma-separated; all by default")
    parser.add_argument("--size", choices=tuple(sizes.SIZES), default="full")
    parser.add_argument("--output", type=pathlib.Path, help="record, JSON")
    parser.add_argument("--dataset", help="of the model mp, for its match rate")
    parser.add_argument(
        "--cache", type=pathlib.Path, default=CACHE, help="what compilers found, kept"
    )
    parser.add_argument("--check", action="store_true", help="only import everything")
    for name in ("--part", "--figures", "--scratch", "--seconds"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.check:
        add_wheels(WHEELS, UNPACKED)
        return check()
    if options.part:
        measure_part(options)
        return 0
    start = time.monotonic()
    plan = select(sizes.parts_of(options.size), options.parts)
    machine = find_gpu()
    output = options.output or default_output(machine, options.size)
    cache = options.cache.resolve()
    record = open_record(output, machine, options.size)
    record["command"] = shlex.join(["python", *sys.argv])
    with tempfile.TemporaryDirectory(prefix="crystaljax-gpu-") as scratch:
        return run(
            plan,
            record,
            output,
            deadline=start + 60 * options.minutes - _RESERVE,
            command_of=lambda part, figures, seconds: [
                sys.executable,
                str(pathlib.Path(__file__).resolve()),
                f"--part={part.name}",
                f"--size={options.size}",
                f"--figures={figures}",
                f"--scratch={scratch}",
                f"--seconds={seconds}",
                *([f"--dataset={options.dataset}"] if options.dataset else []),
            ],
            scratch=pathlib.Path(scratch),
            cache=cache,
        )


# ------------------------------------------------------------------------------- record
def select(parts: Sequence[sizes.Part], names: str | None) -> list[sizes.Part]:
    """The parts with these names, comma-separated, in this order; all if None.

    Raises:
        SystemExit: a name that no part has.
    """
    by_name = {part.name: part for part in parts}
    chosen = names.split(",") if names else list(by_name)
    unknown = [name for name in chosen if name not in by_name]
    if unknown:
        raise SystemExit(
            f"error: no part is called {', '.join(unknown)}; expected "
            f"{', '.join(by_name)}"
        )
    return [by_name[name] for name in chosen]


def find_gpu() -> dict[str, str] | None:
    """Name, driver, memory and clock of the first GPU of NVIDIA's; None without one."""
    fields = ("name", "driver_version", "memory.total", "power.limit", "clocks.max.sm")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        found = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = found.stdout.splitlines()
    if not lines:
        return None
    return dict(zip(fields, map(str.strip, lines[0].split(",")), strict=False))


def default_output(machine: dict[str, str] | None, size: str) -> pathlib.Path:
    """A name of the device and the minute; beside the others if it is a GPU's."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", machine["name"] if machine else "cpu")
    when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H%MZ")
    folder = RESULTS if machine and size == "full" else pathlib.Path.cwd()
    return folder / f"gpu_{name}_{size}_{when}.json"


def open_record(
    path: pathlib.Path, machine: dict[str, str] | None, size: str
) -> dict[str, Any]:
    """A new record, or the one that is there.

    Raises:
        SystemExit: the one that is there is of another machine or size.
    """
    if not path.exists():
        return {"gpu": machine, "size": size, "cpus": os.cpu_count(), "parts": {}}
    record = json.loads(path.read_text())
    theirs, ours = (record["gpu"], record["size"]), (machine, size)
    if theirs != ours:
        raise SystemExit(
            f"error: {path} is of (GPU, size) {theirs}, but this is {ours}; choose "
            "another --output"
        )
    return record


# ------------------------------------------------------------------------------- runner
# part, file for figures, seconds → command line.
CommandOf = Callable[[sizes.Part, pathlib.Path, float], Sequence[str]]


def run(
    plan: Sequence[sizes.Part],
    record: dict[str, Any],
    output: pathlib.Path,
    *,
    deadline: float,
    command_of: CommandOf,
    scratch: pathlib.Path,
    cache: pathlib.Path,
) -> int:
    """Measures parts one after the other; the exit status.

    Args:
        plan: parts in the order of worth.
        record: what there is already; parts are added, and written to ``output``
            whenever there is something new.
        output: JSON file.
        deadline: when all must be over, in the seconds of `time.monotonic`.
        command_of: what measures a part.
        scratch: folder for what only this run needs.
        cache: folder for compiled programs and for which kernels were the fastest.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    parts = record["parts"]
    with _interrupted_by_sigterm():
        for part in plan:
            if parts.get(part.name, {}).get("status") == "done":
                print(f"{part.name}: done before", flush=True)
                continue
            left = deadline - time.monotonic()
            entry = parts[part.name] = {
                "started": _now(),
                "commit": environment.commit(),
                "estimated_seconds": part.seconds,
                "xla_flags": os.environ.get("XLA_FLAGS", ""),
                "files_in_cache": sum(1 for _ in cache.rglob("*")),
                "status": "running",
                "figures": [],
            }
            if left < part.seconds:
                entry["status"] = "left out"
                entry["error"] = f"needs {part.seconds:.0f} s, {max(left, 0):.0f} left"
            else:
                seconds = min(part.limit, left)
                try:
                    _run_part(
                        part, entry, record, output, seconds, command_of, scratch, cache
                    )
                except KeyboardInterrupt:
                    entry["status"] = "interrupted"
                    atomic_files.write_json(output, record)
                    print(f"interrupted; written: {output}", flush=True)
                    return 130
            atomic_files.write_json(output, record)
            reason = entry.get("error", "").strip().splitlines()[-1:]
            line = [f"{part.name}: {entry['status']}", *reason]
            print(": ".join(line), flush=True)
    print(f"written: {output}", flush=True)
    return 0


def _run_part(
    part: sizes.Part,
    entry: dict[str, Any],
    record: dict[str, Any],
    output: pathlib.Path,
    seconds: float,
    command_of: CommandOf,
    scratch: pathlib.Path,
    cache: pathlib.Path,
) -> None:
    """Starts the process of a part and brings its figures into the record."""
    figures, log = (scratch / f"{part.name}.{end}" for end in ("jsonl", "log"))
    atomic_files.write_json(output, record)
    start = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            command_of(part, figures, seconds),
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | _variables(part, cache),
            # A group of its own, so that what it started ends with it.
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                _take_figures(part, figures, entry, record, output)
                if time.monotonic() - start > seconds:
                    entry["status"] = "out of time"
                    entry["error"] = f"stopped after {seconds:.0f} s"
                    break
                time.sleep(_POLL_SECONDS)
        finally:
            _end(process)
            entry["seconds"] = round(time.monotonic() - start, 1)
            _take_figures(part, figures, entry, record, output)
    if entry["status"] == "running":
        entry["status"] = "done" if process.returncode == 0 else "failed"
    if entry["status"] != "done":
        lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        if entry["status"] == "failed":
            entry["error"] = "\n".join([f"exit status {process.returncode}", *lines])
        else:
            entry["log"] = "\n".join(lines)


def _take_figures(
    part: sizes.Part,
    figures: pathlib.Path,
    entry: dict[str, Any],
    record: dict[str, Any],
    output: pathlib.Path,
) -> None:
    found = measurement.read(figures)
    for figure in found[len(entry["figures"]) :]:
        entry["figures"].append(figure)
        print(f"{part.name}: {figure['name']}", flush=True)
        atomic_files.write_json(output, record)


def _end(process: subprocess.Popen) -> None:
    """Ends a process and all that it started, if need be by force."""
    for stop in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, stop)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=3)


def _variables(part: sizes.Part, cache: pathlib.Path) -> dict[str, str]:
    """Environment of the process of a part."""
    variables = {
        # Later parts and runs find what earlier ones compiled, and which kernels XLA
        # found the fastest, also where compilation did not come to its end.
        "JAX_COMPILATION_CACHE_DIR": str(cache / "compiled"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        # Two frameworks share the memory.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "PYTHONUNBUFFERED": "1",
    }
    if part.memory_share is not None:
        variables["XLA_PYTHON_CLIENT_MEM_FRACTION"] = str(part.memory_share)
    return variables


@contextlib.contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM is what a tool sends when its time is over: as Ctrl-C, in here."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


# ----------------------------------------------------------------- process of one part
def measure_part(options: argparse.Namespace) -> None:
    """Measures one part in this process."""
    add_wheels(WHEELS, UNPACKED)
    parts = {part.name: part for part in sizes.parts_of(options.size)}
    part = parts[options.part]
    ours = measurement.Measurement(
        figures=pathlib.Path(options.figures),
        scratch=pathlib.Path(options.scratch),
        size=sizes.SIZES[options.size],
        deadline=time.monotonic() + float(options.seconds),
        dataset=options.dataset,
    )
    measure(part, ours)


def measure(part: sizes.Part, ours: measurement.Measurement) -> None:
    """Measures a part here and now; first of all what on."""
    module = importlib.import_module(f"gpu.{part.module}")
    timing = importlib.import_module("throughput.timing")
    # Not the command of this process, whose folders mean nothing elsewhere.
    software = timing.describe_software()
    software["command"] = f"python experiments/gpu/run.py --parts={part.name}"
    ours.add("machine", **timing.describe_machine(), **software)
    getattr(module, part.function)(ours, **part.arguments)


# ------------------------------------------------------------------------------- wheels
def add_wheels(folder: pathlib.Path, target: pathlib.Path) -> None:
    """Makes importable what wheels hold; what is installed goes first.

    Args:
        folder: of the wheels.
        target: folder that they are unpacked into.
    """
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        return
    names = "\n".join(path.name for path in wheels)
    stamp = target / "wheels.txt"
    if not stamp.exists() or stamp.read_text() != names:
        shutil.rmtree(target, ignore_errors=True)
        for path in wheels:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(target)
        stamp.write_text(names)
    sys.path.append(str(target))
    importlib.invalidate_caches()


@dataclasses.dataclass(frozen=True)
class Imported:
    """How an import went.

    Attributes:
        module: its name.
        problem: why it failed; "" if it did not.
        version: of the package, where it has one.
    """

    module: str
    problem: str
    version: str


def check() -> int:
    """Imports all that the parts need and prints what is missing; the exit status."""
    start, missing = time.monotonic(), 0
    for what, modules in NEEDED.items():
        print(f"{what}:")
        for each in map(try_import, modules):
            missing += bool(each.problem)
            print(f"  {each.module} {each.version or each.problem or 'imports'}")
    seconds = time.monotonic() - start
    if missing:
        print(f"{missing} cannot be imported ({seconds:.0f} s)")
        print("python experiments/gpu/collect_wheels.py fetches what is not installed")
        return 1
    print(f"all that is needed imports ({seconds:.0f} s)")
    return 0


def try_import(module: str) -> Imported:
    """Imports a module."""
    try:
        importlib.import_module(module)
    # Whatever an import raises, a broken library's OSError too.
    except Exception as error:
        return Imported(module, measurement.describe_error(error), "")
    names = importlib.metadata.packages_distributions().get(module.partition(".")[0])
    if not names:
        return Imported(module, "", "")
    return Imported(module, "", importlib.metadata.version(names[0]))


if __name__ == "__main__":
    sys.exit(main())
