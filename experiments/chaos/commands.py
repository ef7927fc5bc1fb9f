"""The commands that are interrupted: inputs, flags, results, and what must not go.

Small enough to take seconds each, and in enough parts (chunks, checkpoints, shards,
relaxations) that an interruption finds some of them finished.
"""

import csv
import dataclasses
import hashlib
import json
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import tiny  # noqa: E402
import vasprun_xml  # noqa: E402

from crystaljax.crystals import elements, structure, structure_files  # noqa: E402

OUTPUT = "out"
# Columns and entries that say how long something took, or when it was.
_TIMES = ("seconds", "relaxation_seconds")


@dataclasses.dataclass(frozen=True)
class Case:
    """A command that is interrupted.

    Attributes:
        name: for the counts.
        verb: module of the package that is the command.
        flags: of the command; the output is the folder ``out`` of the current
            directory.
        again: flags that going on takes besides.
        read_result: function of the current directory: everything the result is, by
            name; times are left out.
        read_finished: function of the current directory: what is finished, by name.
            It must be there at the end, and the same.
        preload: modules that the command imports.
        compiles: whether it has JAX compile programs.
    """

    name: str
    verb: str
    flags: Sequence[str]
    read_result: Callable[[pathlib.Path], dict[str, Any]]
    read_finished: Callable[[pathlib.Path], dict[str, Any]]
    again: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    compiles: bool = False


# ------------------------------------------------------------------------------- inputs
def write_inputs(folder: pathlib.Path, *, is_small: bool) -> None:
    """Writes what all commands read, the trained run of `sample` excepted."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_rows(folder / "rows.csv", 60 if is_small else 120)
    tiny.write_dataset(folder / "alloys")
    write_samples(folder / "samples", 34)
    _write_dft(folder / "dft")


def _alloy(number: int) -> structure.Crystal:
    """One of a series of strained alloys of Cu, Ag and Au."""
    rng = np.random.default_rng(number)
    pair = [(29, 79), (29, 47), (47, 79)][number % 3]
    if number % 2:
        numbers, coords = list(pair), [[0, 0, 0], [0.5, 0.5, 0.5]]
    else:
        numbers = [pair[0], pair[1], pair[1], pair[1]]
        coords = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    edge = 3.2 if number % 2 else 4.0
    lattice = edge * np.eye(3) + rng.normal(0, 0.15, (3, 3))
    return structure.Crystal(np.array(numbers), np.array(coords, float), lattice)


def _write_rows(path: pathlib.Path, count: int) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", "cif", "formation_energy"])
        for number in range(count):
            text = structure_files.cif_text(_alloy(number), f"row{number}")
            writer.writerow([f"row-{number}", text, -0.01 * (number % 7)])


def write_samples(folder: pathlib.Path, count: int) -> None:
    """A folder as `crystaljax sample` leaves it."""
    folder.mkdir()
    crystals = [_alloy(number) for number in range(count)]
    infos = [{"name": f"s{number:03d}"} for number in range(count)]
    structure_files.write_extxyz(folder / "samples.extxyz", crystals, infos)


def _write_dft(folder: pathlib.Path) -> None:
    reference = {29: -3.72, 47: -2.83, 79: -3.27}
    for number, energy in reference.items():
        crystal = structure.Crystal(
            np.array([number]), np.zeros((1, 3)), 2.6 * np.eye(3)
        )
        name = f"reference_{elements.symbol(number)}"
        vasprun_xml.write_run(folder / name, crystal, [energy])
    for number in range(24):
        crystal = _alloy(number)
        energy = sum(reference[int(n)] for n in crystal.atomic_numbers) - 0.1
        vasprun_xml.write_run(
            folder / f"run{number:02d}", crystal, [energy + 1, energy]
        )
    text = "formula,formation_energy\nCuAu,-0.05\nCuAg3,0.01\n"
    (folder.parent / "known.csv").write_text(text)


# ------------------------------------------------------------------------------ results
def _bytes(here: pathlib.Path) -> dict[str, Any]:
    """All files below the current directory, bit by bit, and their names."""
    return {
        str(path.relative_to(here)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(here.rglob("*"))
        if path.is_file()
    }


def _read_run(here: pathlib.Path) -> dict[str, Any]:
    """All arrays of the last state, the log, and the names of all other files."""
    out = here / OUTPUT
    result = {
        name: digest
        for name, digest in _bytes(here).items()
        if "/checkpoints/" not in name
        and "/tensorboard/" not in name
        # It says which command was started when.
        and not name.endswith(("environment.json", "metrics.jsonl"))
    }
    result |= {f"step {path.name}": "" for path in (out / "checkpoints").iterdir()}
    result["metrics"] = [
        {key: value for key, value in line.items() if key != "structures_per_second"}
        for line in _log(out)
    ]
    from crystaljax.sampling import shards
    from crystaljax.training import checkpoints

    with checkpoints.open_manager(out) as manager:
        restored = manager.restore(manager.latest_step())
    for item in ("state", "params"):
        result[item] = shards.fingerprint(restored[item])
    result["data"] = restored["data"]
    return result


def _log(out: pathlib.Path) -> list[dict[str, Any]]:
    if not (out / "metrics.jsonl").exists():
        return []
    text = (out / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines(keepends=True) if "\n" in line]


def _finished_steps(here: pathlib.Path) -> dict[str, Any]:
    """Lines of the log up to the last checkpoint: another rate if made again."""
    out = here / OUTPUT
    steps = [
        int(path.name)
        for path in (out / "checkpoints").glob("*")
        if path.name.isdigit()
    ]
    return {
        f"{line['step']} {sorted(line)[0]}": line
        for line in _log(out)
        if line["step"] <= max(steps, default=-1)
    }


def _finished_shards(here: pathlib.Path) -> dict[str, Any]:
    """When each whole shard was written."""
    out = here / OUTPUT
    return {path.name: path.stat().st_mtime_ns for path in out.glob("samples*.parquet")}


def _finished_relaxations(here: pathlib.Path) -> dict[str, Any]:
    path = here / OUTPUT / "work" / "relaxations.jsonl"
    if not path.exists():
        return {}
    lines = path.read_text().splitlines(keepends=True)
    # How long each took is another number where it was made again.
    return {line: "" for line in lines if line.endswith("\n")}


def _read_screening(here: pathlib.Path) -> dict[str, Any]:
    out = here / OUTPUT
    result = _bytes(here)
    for name in ("screening.csv", "screening.parquet", "candidates.extxyz"):
        result.pop(f"{OUTPUT}/{name}", None)
    with (out / "screening.csv").open(newline="") as file:
        result["table"] = [
            {key: value for key, value in row.items() if not key.endswith(_TIMES)}
            for row in csv.DictReader(file)
        ]
    crystals, _ = structure_files.read_extxyz(out / "candidates.extxyz")
    result["candidates"] = [
        (each.atomic_numbers.tolist(), each.frac_coords.tolist(), each.lattice.tolist())
        for each in crystals
    ]
    about = json.loads((out / "screening.json").read_text())
    result["about"] = {k: v for k, v in about.items() if k not in _TIMES}
    for name in ("screening.json", "work/relaxations.jsonl", "report.html"):
        result[f"{OUTPUT}/{name}"] = (out / name).exists()
    return result


def _nothing(here: pathlib.Path) -> dict[str, Any]:
    return {}


# ---------------------------------------------------------------------------- the cases
def build_cases(inputs: pathlib.Path, *, is_small: bool = False) -> list[Case]:
    """The commands that are interrupted.

    Args:
        inputs: folder of `write_inputs`.
        is_small: without figures and validation, for a test.
    """
    return [
        _prepare(inputs, is_small),
        _train(inputs, is_small),
        _sample(inputs),
        _screen(inputs, "ase"),
        _screen(inputs, "batched"),
        _collect(inputs),
    ]


def _prepare(inputs: pathlib.Path, is_small: bool) -> Case:
    flags = [
        *("--source=cif_csv", f"--input={inputs / 'rows.csv'}", "--num_workers=1"),
        *("--energy_column=formation_energy", f"--output={OUTPUT}"),
        *(["--nofigures"] if is_small else []),
    ]
    modules = ("crystaljax.data.sources.cif_csv", "matplotlib.pyplot")
    return Case("prepare", "prepare", flags, _bytes, _nothing, preload=modules)


def _train(inputs: pathlib.Path, is_small: bool) -> Case:
    # A line of the log covers steps before and after a checkpoint.
    flags = tiny.flags(
        "ddim",
        inputs / "alloys",
        num_steps=8 if is_small else 24,
        train__checkpoint_every=2 if is_small else 4,
        train__log_every=4 if is_small else 6,
        train__validate_every=0 if is_small else 12,
        evaluation__num_structures=0 if is_small else 2,
    )
    return Case(
        "train",
        "train",
        [*flags, f"--workdir={OUTPUT}"],
        _read_run,
        _finished_steps,
        again=("--resume",),
        preload=("crystaljax.sampling.evaluation", "crystaljax.matching.matcher"),
        compiles=True,
    )


def _sample(inputs: pathlib.Path) -> Case:
    flags = [
        *(f"--workdir={inputs / 'run'}", "--formulas=Cu3Au1,Cu1Au1"),
        *("--energies=-0.1:0.1:0.1", "--space_groups=221", "--num_samples=40"),
        *("--shard_size=20", f"--output={OUTPUT}"),
    ]
    modules = ("crystaljax.sampling.requests", "crystaljax.sampling.formulas")
    return Case(
        *("sample", "sample", flags, _bytes, _finished_shards),
        preload=modules,
        compiles=True,
    )


def _screen(inputs: pathlib.Path, method: str) -> Case:
    flags = [
        *(f"--samples={inputs / 'samples'}", "--calculator=emt", "--hull=builtin"),
        *("--known=none", f"--relaxation={method}", "--num_workers=1"),
        f"--output={OUTPUT}",
    ]
    return Case(
        f"screen {method}",
        "screen",
        flags,
        _read_screening,
        _finished_relaxations,
        preload=(
            "crystaljax.screening.funnel",
            "crystaljax.screening.html_report",
            "crystaljax.relaxation.batches",
        ),
        compiles=method == "batched",
    )


def _collect(inputs: pathlib.Path) -> Case:
    flags = [
        *(f"--runs={inputs / 'dft'}", f"--hull={inputs / 'known.csv'}"),
        *("--hull_energy_model=VASP PBE", f"--output={OUTPUT}", "--num_workers=1"),
    ]
    modules = ("crystaljax.dft.results", "crystaljax.hull.convex_hull")
    return Case("collect", "collect", flags, _bytes, _nothing, preload=modules)
