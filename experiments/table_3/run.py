"""The paper's table 3: how far above the hull do the best generated crystals relax?

    python experiments/table_3/run.py --diffusion=runs/tables_1_and_2/ddpm \
        --flow=runs/tables_1_and_2/cfm_uniform --formulas=Au1Cu1Pd2,Au1Cu2Pd1,Au2Cu1Pd1

asks two models for three formulas in 19 space groups at 21 formation energies, on three
schedules: down from the hull in steps of 0.01 and of 0.1 eV/atom, and down from 1
eV/atom below it (paper section 7). The crystals are checked, relaxed and put on the
hull, beside the best that the hull's source has of each formula. Leaves ``result.json``
and ``table.md`` in ``--output``.
"""

import argparse
import json
import pathlib
import shlex
import sys
import time
from typing import Any

import numpy as np
from pymatgen.core import Composition

from crystaljax import sample
from crystaljax.data import dataset as datasets
from crystaljax.hull import convex_hull
from crystaljax.screening import funnel
from crystaljax.system import atomic_files, environment
from crystaljax.training import runs

HERE = pathlib.Path(__file__).parent
PAPER_FORMULAS = "Ta1W1B6,Ta1W2B5,Ta2W1B5"
NUM_ENERGIES = 21
# (gap below the hull, step), eV/atom.
SCHEDULES = ((0.0, 0.01), (0.0, 0.1), (1.0, 0.01))
MODELS = {"diffusion": "Diffusion", "flow": "Flow matching"}


def main() -> None:
    """Runs the six experiments, and writes after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--diffusion", required=True, help="run directory")
    parser.add_argument("--flow", required=True, help="run directory")
    parser.add_argument("--formulas", default=PAPER_FORMULAS)
    parser.add_argument("--space_groups", help="the most frequent in training if unset")
    parser.add_argument("--num_space_groups", type=int, default=19)
    parser.add_argument("--hull", default="builtin")
    parser.add_argument("--hull_energy_model")
    parser.add_argument("--calculator", default="emt")
    parser.add_argument("--sampling", default=None, help="preset, such as fast")
    parser.add_argument("--output", type=pathlib.Path, default=HERE)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    formulas = tuple(args.formulas.split(","))
    known_hull = convex_hull.load_hull(
        args.hull, formulas, energy_model=args.hull_energy_model
    )
    result: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "calculator": args.calculator,
        "energy_model": known_hull.energy_model,
        "hull": args.hull,
        "formulas": formulas,
        "known": [lowest_known(known_hull, formula) for formula in formulas],
        "sampling": args.sampling,
        "environment": environment.describe_environment(),
        "experiments": [],
    }
    for model in MODELS:
        workdir = getattr(args, model)
        groups = args.space_groups or frequent_groups(workdir, args.num_space_groups)
        for gap, step in SCHEDULES:
            found = measure(workdir, groups, gap, step, known_hull, args)
            found = {"model": model, "workdir": workdir, "space_groups": groups} | found
            result["experiments"].append(found)
            atomic_files.write_json(args.output / "result.json", result)
            print(json.dumps(found), flush=True)
    table = format_table(result)
    (args.output / "table.md").write_text(table)
    print(table)


def frequent_groups(workdir: str, count: int) -> str:
    """The space groups that most of a run's training structures have."""
    vocabulary = runs.load_vocabulary(pathlib.Path(workdir))
    dataset = datasets.open_dataset(vocabulary["dataset"])
    groups, counts = np.unique(
        dataset.space_group[dataset.indices("train")], return_counts=True
    )
    chosen = groups[np.argsort(-counts, kind="stable")][:count]
    return ",".join(map(str, sorted(chosen.tolist())))


def lowest_known(known_hull: convex_hull.Hull, formula: str) -> float | None:
    """Of the known crystals of a formula, the least energy above the hull, meV/atom."""
    composition = Composition(formula).reduced_composition
    energies = [
        entry.formation_energy
        for entry in known_hull.entries
        if entry.composition.reduced_composition == composition
    ]
    if not energies:
        return None
    (above,) = convex_hull.energy_above_hull(
        known_hull, [formula], [min(energies)], known_hull.energy_model
    )
    return round(1000 * float(above), 3)


def energies_of(gap: float, step: float) -> str:
    """A schedule in the words of ``sample --energies``."""
    lowest = gap + (NUM_ENERGIES - 1) * step
    return f"hull-{lowest:g}:hull-{gap:g}:{step:g}"


def measure(
    workdir: str,
    space_groups: str,
    gap: float,
    step: float,
    known_hull: convex_hull.Hull,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """One experiment: the best energies above the hull of each formula."""
    start = time.perf_counter()
    samples = sample.sample(
        sample.SampleOptions(
            workdir=workdir,
            preset=args.sampling,
            formulas=tuple(args.formulas.split(",")),
            space_groups=space_groups,
            energies=energies_of(gap, step),
            hull=args.hull,
            hull_energy_model=args.hull_energy_model,
        ),
        show_progress=True,
    )
    seconds = {"sample": time.perf_counter() - start}
    screened = funnel.screen(
        samples.crystals,
        args.calculator,
        known_hull,
        options=funnel.ScreeningOptions(method="auto", show_progress=True),
    )
    formulas = np.array(samples.condition_columns()["formula"])
    above = {
        formula: screened.above_hull[formulas == formula]
        for formula in dict.fromkeys(formulas.tolist())
    }
    return {
        "gap": gap,
        "step": step,
        "counts": screened.counts(),
        "seconds": seconds | dict(screened.seconds),
        # In the paper's order: as the formulas were given.
        "cells": [describe_cell(values) for values in above.values()],
    }


def describe_cell(above_hull: np.ndarray) -> dict[str, Any]:
    """The lowest energy above the hull, and all that are below it, meV/atom."""
    values = np.sort(1000 * above_hull[np.isfinite(above_hull)]).round(3)
    return {
        "relaxed": len(values),
        "lowest": float(values[0]) if len(values) else None,
        # Two crystals of one energy are one structure.
        "below_hull": sorted(set(values[values < 0].tolist())),
    }


def format_table(result: dict[str, Any]) -> str:
    """The layout of the paper's table 3, as Markdown."""
    lines = [
        ["", *(f"{formula}, meV/atom" for formula in result["formulas"])],
        ["---"] + ["---:"] * len(result["formulas"]),
    ]
    known = ["" if each is None else f"{each:.3f}" for each in result["known"]]
    lines.append(["Best known", *known])
    for found in result["experiments"]:
        name = f"{MODELS[found['model']]}, step {found['step']:g}, gap {found['gap']:g}"
        cells = []
        for cell in found["cells"]:
            if cell["below_hull"]:
                cells.append(", ".join(f"**{v:.3f}**" for v in cell["below_hull"][:5]))
            else:
                cells.append("" if cell["lowest"] is None else f"{cell['lowest']:.3f}")
        lines.append([name, *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
