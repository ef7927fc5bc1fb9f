"""How many crystals that are asked for by formula alone are stable, unique and novel?

    python experiments/stable_unique_novel/run.py --workdir=mp --dataset=data/mp \
        --calculator=sevenn:7net-0 --num_structures=1000 \
        --output=runs/stable_unique_novel

Formulas of held-out structures, each asked once and with nothing else, beside the
nearest training structure of the same formula type, relabelled. Both are screened in
the same way: relaxed, put on the hull of all structures of the data set, and compared
with these. The same command goes on where it was stopped; ``result.json`` in
``--output`` has the counts.
"""

import argparse
import json
import pathlib
import shlex
import sys
from typing import Any

import numpy as np

from crystaljax import sample, screen
from crystaljax.crystals import structure_files
from crystaljax.matching import matcher
from crystaljax.screening import inputs
from crystaljax.system import atomic_files, environment

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "orbits"))

import measure  # noqa: E402

# Relaxed crystals are what they were where they match at this.
SAME = matcher.TOLERANCES["literature"]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--calculator", required=True)
    parser.add_argument("--num_structures", type=int, default=1000)
    parser.add_argument("--max_sites", type=int, default=20)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    # Each formula once.
    task = measure.load_task(
        args.workdir,
        args.dataset,
        args.num_structures,
        max_sites=args.max_sites,
        once=True,
    )
    files = {"mp": generate(task, args), "nearest structure": copy(task, args)}
    result: dict[str, Any] = {
        "formulas": len(task.asked),
        "calculator": args.calculator,
        "command": shlex.join(["python", *sys.argv]),
        "environment": environment.describe_environment(),
    }
    for name, path in files.items():
        result[name] = screen_one(name, path, args)
        print(json.dumps({name: result[name]}, indent=1), flush=True)
        atomic_files.write_json(args.output / "result.json", result)


def generate(task: measure.Task, args: argparse.Namespace) -> pathlib.Path:
    """One sample of each formula, with group and energy left to the model."""
    formulas = [task.dataset.formula[int(index)].as_py() for index in task.asked]
    options = sample.SampleOptions(workdir=str(args.workdir), formulas=tuple(formulas))
    made = sample.sample(options)
    path = args.output / "mp.extxyz"
    infos = [
        {"name": f"{row}_{formula}", "formation_energy": float(energy)}
        for row, (formula, energy) in enumerate(
            zip(formulas, np.asarray(made.conditions.energy), strict=True)
        )
    ]
    structure_files.write_extxyz(path, made.crystals, infos, overwrite=True)
    return path


def copy(task: measure.Task, args: argparse.Namespace) -> pathlib.Path:
    """The nearest training structures, where there is one of the formula type."""
    path = args.output / "nearest.extxyz"
    crystals = measure.nearest_structures(task, of_group=False)
    found = [each for each in crystals if each is not None]
    infos = [
        {"name": f"{row}_{task.dataset.formula[int(index)].as_py()}"}
        for row, (index, each) in enumerate(zip(task.asked, crystals, strict=True))
        if each is not None
    ]
    structure_files.write_extxyz(path, found, infos, overwrite=True)
    return path


def screen_one(
    name: str, path: pathlib.Path, args: argparse.Namespace
) -> dict[str, Any]:
    """Counts, how far relaxation moves crystals, and their energies."""
    model = "Materials Project"
    folder = args.output / name.replace(" ", "_")
    result, _ = screen.screen(
        screen.ScreenOptions(
            samples=str(path),
            calculator=args.calculator,
            hull=f"dataset:{args.dataset}",
            known=args.dataset,
            energy_model=model,
            hull_energy_model=model,
            output=str(folder),
            relaxation="batched",
            relax_duplicates=True,
            num_workers=1,
        ),
        show_progress=True,
    )
    relaxed = [row for row, each in enumerate(result.relaxations) if each is not None]
    before = inputs.read_candidates(str(path)).crystals
    matches = matcher.match_many(
        [before[row] for row in relaxed],
        [result.relaxed[row] for row in relaxed],
        (SAME,),
        num_workers=1,
    )
    same = matches.matched[:, 0]
    energies = result.formation_energy[np.isfinite(result.formation_energy)]
    return {
        "generated": len(before),
        "counts": result.counts(),
        "sun": json.loads((folder / "sun.json").read_text("utf-8")),
        "relaxed": len(relaxed),
        "relaxed_to_the_same": int(same.sum()),
        "mean_distance_moved": round(float(matches.rms[same, 0].mean()), 4),
        "median_above_hull": round(float(np.nanmedian(result.above_hull)), 4),
        "mean_formation_energy": round(float(energies.mean()), 4),
        "seconds": result.seconds,
    }


if __name__ == "__main__":
    main()
