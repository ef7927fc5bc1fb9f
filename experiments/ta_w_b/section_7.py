"""Section 7 of the paper: TaWB6, TaW2B5 and Ta2WB5 in 19 space groups at 63 energies.

    python experiments/ta_w_b/known.py runs/ta_w_b/known.extxyz
    python experiments/ta_w_b/run.py --known=runs/ta_w_b/known.extxyz \
        --calculators=sevenn --output=runs/ta_w_b
    python experiments/ta_w_b/section_7.py --known=runs/ta_w_b/known.extxyz \
        --hull=runs/ta_w_b/sevenn/hull.json --output=runs/ta_w_b/section_7

The model of the package is sampled in two ways, with known prototypes followed and by
its network alone, on the paper's three schedules of 21 formation energies: down from
the hull in steps of 0.01 and of 0.1 eV/atom, and down from 1 eV/atom below it. All
samples are screened together on the relaxed hull of the known crystals, so that a
crystal that comes twice is relaxed once; the best are written as inputs of VASP. Leaves
`section_7.json` and `section_7.md`, the layout of the paper's table 3, in ``--output``.
The same command goes on where it was stopped.
"""

import argparse
import collections
import json
import pathlib
import resource
import subprocess
import sys

import numpy as np
import run
from pymatgen.core import Composition

from crystaljax import screen
from crystaljax.crystals import structure_files
from crystaljax.hull import convex_hull
from crystaljax.screening import inputs as screening_inputs
from crystaljax.system import environment

FORMULAS = ("Ta1W1B6", "Ta1W2B5", "Ta2W1B5")
# Those of the paper's data set.
SPACE_GROUPS = "6,8,10,12,25,35,44,47,65,71,99,119,123,129,139,160,166,216,225"
NUM_ENERGIES = 21
# (step, gap below the hull), eV/atom, in the paper's order.
SCHEDULES = ((0.01, 0.0), (0.1, 0.0), (0.01, 1.0))
SAMPLERS = {
    "prototypes": "mp, following known prototypes",
    "network": "mp, its network alone",
}


def main():
    """Samples, screens, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--known", required=True, help="from known.py")
    parser.add_argument("--hull", required=True, help="hull.json of run.py")
    parser.add_argument("--calculator", default="sevenn")
    parser.add_argument("--schedules", type=int, default=len(SCHEDULES))
    parser.add_argument("--max_steps", type=int, default=None, help="of a relaxation")
    parser.add_argument("--kept", default=None, help="see crystaljax screen --help")
    parser.add_argument("--top", type=int, default=20, help="exported for VASP")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    options = parser.parse_args()
    experiments = [
        (sampler, step, gap)
        for step, gap in SCHEDULES[: options.schedules]
        for sampler in SAMPLERS
    ]
    folders = {each: make_samples(*each, options) for each in experiments}
    collected = options.output / "samples.extxyz"
    experiment_of = collect_samples(folders, collected)
    output = options.output / "screening"
    result, table = screen.screen(
        screen.ScreenOptions(
            samples=str(collected),
            calculator=options.calculator,
            hull=f"relaxed:{options.known}",
            output=str(output),
            kept=options.kept,
            max_steps=options.max_steps,
            relaxation="batched",
            num_workers=1,
        ),
        show_progress=True,
    )
    print(screen.report(result, table))
    run.export_best(output, options.output / "vasp", options.top)
    described = describe(result, table, experiment_of, options)
    text = json.dumps(described, indent=1, ensure_ascii=False)
    (options.output / "section_7.json").write_text(text + "\n")
    text = format_tables(described)
    (options.output / "section_7.md").write_text(text)
    print(text)


def make_samples(sampler, step, gap, options):
    """The samples of one experiment, by the command."""
    folder = options.output / "samples" / f"{sampler}_{step:g}_{gap:g}"
    lowest = gap + (NUM_ENERGIES - 1) * step
    command = [
        *(sys.executable, "-m", "crystaljax", "sample"),
        f"--formulas={','.join(FORMULAS)}",
        f"--space_groups={SPACE_GROUPS}",
        f"--energies=hull-{lowest:g}:hull-{gap:g}:{step:g}",
        f"--hull={options.hull}",
        f"--follow_known={sampler == 'prototypes'}",
        "--cifs=none",
        f"--output={folder}",
    ]
    subprocess.run(command, check=True)
    return folder


def collect_samples(folders, path):
    """All samples in one file, which experiment each is of beside it.

    Returns:
        By name of a sample its experiment and formula.
    """
    experiments, crystals, infos = {}, [], []
    for (sampler, step, gap), folder in folders.items():
        rows = screening_inputs.read_candidates(folder)
        columns = rows.table()
        for i, name in enumerate(rows.names):
            name = f"{sampler}_{step:g}_{gap:g}_{name}"
            formula = next(
                each for each in FORMULAS if is_of(each, columns["formula"][i])
            )
            experiments[name] = (sampler, step, gap), formula
            kept = ("formula", "space_group", "formation_energy", "follows_known")
            info = {key: columns[key][i] for key in kept}
            crystals.append(rows.crystals[i])
            infos.append({"name": name, "workdir": columns["workdir"][i], **info})
    structure_files.write_extxyz(path, crystals, infos, overwrite=True)
    return experiments


def is_of(formula, cell):
    """Whether a cell has the composition of a formula."""
    return Composition(formula).reduced_formula == Composition(cell).reduced_formula


def describe(result, table, experiment_of, options):
    """What came of each experiment, and of all together."""
    text = pathlib.Path(options.hull).read_text(encoding="utf-8")
    known_hull = convex_hull.from_dict(json.loads(text))
    above = 1000 * inherited(result)
    names, ranked = result.names, result.ranking()
    cells = collections.defaultdict(list)
    samples = collections.Counter()
    for name, energy in zip(names, above.tolist(), strict=True):
        experiment, formula = experiment_of[name]
        samples[experiment] += 1
        if np.isfinite(energy):
            cells[experiment, formula].append(energy)
    usage = [
        resource.getrusage(which)
        for which in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    return {
        "calculator": options.calculator,
        "energy_model": result.energy_model,
        "energy_of_hull": {
            formula: round(convex_hull.hull_energy(known_hull, Composition(formula)), 4)
            for formula in FORMULAS
        },
        "counts": result.counts(),
        # Different crystals, and all samples that are or equal one of them.
        "within_meV": {
            str(limit): [
                int(np.sum(1000 * result.above_hull[ranked] <= limit)),
                int(np.sum(above <= limit)),
            ]
            for limit in run.WITHIN
        },
        "impossible": describe_impossible(experiment_of, result, table),
        "experiments": [
            {
                "sampler": experiment[0],
                "step": experiment[1],
                "gap": experiment[2],
                "samples": samples[experiment],
                "cells": [
                    describe_cell(cells[experiment, formula]) for formula in FORMULAS
                ],
            }
            for experiment in samples
        ],
        "lowest": [describe_crystal(result, table, i) for i in ranked[:20].tolist()],
        "seconds": {name: round(each, 1) for name, each in result.seconds.items()},
        "cpu_seconds_of_this_call": round(sum(u.ru_utime + u.ru_stime for u in usage)),
        "versions": environment.package_versions(),
    }


def describe_impossible(experiment_of, result, table):
    """Groups of the 19 that no cell of one formula unit can have, by formula."""
    asked = {int(group) for group in SPACE_GROUPS.split(",")}
    found = {formula: set() for formula in FORMULAS}
    for name, group in zip(result.names, table["requested_space_group"], strict=True):
        found[experiment_of[name][1]].add(int(group))
    return {formula: sorted(asked - groups) for formula, groups in found.items()}


def inherited(result):
    """Energy above the hull of every sample, eV/atom: its own, or of what it equals."""
    above = result.above_hull.copy()
    for i in range(len(above)):
        first = i
        while result.duplicate_of[first] >= 0:
            first = result.duplicate_of[first]
        above[i] = result.above_hull[first]
    return above


def describe_cell(values):
    """The lowest energy above the hull and all below it, meV/atom, and counts."""
    values = np.sort(np.array(values)).round(3)
    return {
        "relaxed": len(values),
        "lowest": float(values[0]) if len(values) else None,
        # Two crystals of one energy are one structure.
        "below_hull": sorted(set(values[values < 0].tolist())),
        "within_meV": {
            str(limit): int(np.sum(values <= limit)) for limit in run.WITHIN
        },
    }


def describe_crystal(result, table, i):
    """One of the best."""
    return {
        "formula": table["formula"][i],
        "meV_above_hull": round(1000 * float(result.above_hull[i]), 2),
        "formation_energy": round(float(result.formation_energy[i]), 4),
        "requested_space_group": int(table["requested_space_group"][i]),
        "relaxed_space_group": int(result.space_groups[i][0]),
        "known_as": result.known_as[i],
        "name": result.names[i],
    }


def format_tables(described):
    """The layout of the paper's table 3, counts, and the lowest, as Markdown."""
    rows = [["", *(f"{formula}, meV/atom" for formula in FORMULAS)]]
    for found in described["experiments"]:
        cells = []
        for cell in found["cells"]:
            below = ", ".join(f"**{value:.1f}**" for value in cell["below_hull"][:5])
            lowest = "–" if cell["lowest"] is None else f"{cell['lowest']:.1f}"
            cells.append(below or lowest)
        name = (
            f"{SAMPLERS[found['sampler']]}; step {found['step']:g}, gap "
            f"{found['gap']:g}"
        )
        rows.append([name, *cells])
    lines = format_rows(rows)
    limits = [f"≤ {limit} meV/atom" for limit in run.WITHIN]
    rows = [["", "samples", "relaxed", *limits]]
    for found in described["experiments"]:
        within = [
            str(sum(cell["within_meV"][str(limit)] for cell in found["cells"]))
            for limit in run.WITHIN
        ]
        relaxed = sum(cell["relaxed"] for cell in found["cells"])
        name = f"{found['sampler']}; step {found['step']:g}, gap {found['gap']:g}"
        rows.append([name, str(found["samples"]), str(relaxed), *within])
    counts = described["counts"]
    within = [str(described["within_meV"][str(limit)][0]) for limit in run.WITHIN]
    rows.append(
        ["different crystals", str(counts["inputs"]), str(counts["ranked"]), *within]
    )
    lines += ["", *format_rows(rows)]
    rows = [["formula", "meV/atom above hull", "space group: requested, relaxed"]]
    for each in described["lowest"]:
        groups = f"{each['requested_space_group']}, {each['relaxed_space_group']}"
        rows.append([each["formula"], f"{each['meV_above_hull']:.1f}", groups])
    lines += ["", *format_rows(rows), ""]
    lines += [
        f"{formula} cannot have {', '.join(map(str, groups))} of the 19 groups."
        if groups
        else f"{formula} can have all 19 groups."
        for formula, groups in described["impossible"].items()
    ]
    return "\n".join(lines) + "\n"


def format_rows(rows):
    """A table in Markdown; all columns but the first are numbers."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---|" + "---:|" * (len(rows[0]) - 1), *lines[1:]]


if __name__ == "__main__":
    main()
