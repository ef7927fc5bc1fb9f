"""Are known crystals found on the hull, known, and with the energies they should have?

    python experiments/known_crystals/run.py --known=mp_20.csv.gz --num=200 \
        --calculator=sevenn:7net-0 --output=runs/known_crystals/7net-0
    python experiments/known_crystals/run.py --known=mp_20.csv.gz \
        --ids=mp-7832,mp-8046 --calculator=chgnet --output=runs/known_crystals/six

``--known`` is a CSV of crystals of the Materials Project with the columns material_id,
cif, formation_energy_per_atom and e_above_hull. Some of them are screened on a hull of
all of their chemical systems, relaxed with the same calculator, within their space
groups and without (``--keep_symmetry``). Leaves `result.json` in ``--output``. The same
command goes on where it was stopped.
"""

import argparse
import csv
import gzip
import json
import pathlib
import resource
import sys

import numpy as np

from crystaljax import screen
from crystaljax.system import environment

# Relaxations to 0.05 eV/Å end within 1 meV/atom of their minima.
ON_HULL = 0.002  # eV/atom


def main():
    """Screens, compares and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--known", required=True)
    parser.add_argument("--calculator", required=True)
    parser.add_argument("--num", type=int, default=200)
    parser.add_argument("--ids", default="", help="instead of a random choice")
    parser.add_argument("--max_sites", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep_symmetry", action="store_true")
    parser.add_argument("--relaxation", default="auto")
    parser.add_argument("--kept", default=None, help="see crystaljax screen --help")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    options = parser.parse_args()
    rows = choose(read(options.known), options)
    options.output.mkdir(parents=True, exist_ok=True)
    samples = options.output / "samples.csv"
    with samples.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", "cif"])
        writer.writerows([row["material_id"], row["cif"]] for row in rows)
    result, table = screen.screen(
        screen.ScreenOptions(
            samples=str(samples),
            calculator=options.calculator,
            hull=f"relaxed:{options.known}",
            output=str(options.output / "screening"),
            kept=options.kept,
            keep_symmetry=options.keep_symmetry,
            relaxation=options.relaxation,
            relax_duplicates=True,
            num_workers=1,
        ),
        show_progress=True,
    )
    print(screen.report(result, table))
    found = compare(rows, result)
    usage = [
        resource.getrusage(which)
        for which in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    described = {
        "command": sys.argv,
        "calculator": options.calculator,
        "energy_model": result.energy_model,
        "keep_symmetry": options.keep_symmetry,
        **found,
        "counts": result.counts(),
        "cpu_seconds_of_this_call": round(sum(u.ru_utime + u.ru_stime for u in usage)),
        "versions": environment.package_versions(),
    }
    text = json.dumps(described, indent=1, ensure_ascii=False)
    (options.output / "result.json").write_text(text + "\n")
    print(json.dumps({k: v for k, v in found.items() if k != "crystals"}, indent=1))


def read(path):
    """Rows of a CSV, compressed or not."""
    csv.field_size_limit(2**31 - 1)
    opened = gzip.open if path.endswith(".gz") else open
    with opened(path, "rt") as file:
        return list(csv.DictReader(file))


def choose(rows, options):
    """Those named, or as many as are wanted by chance."""
    if options.ids:
        by_id = {row["material_id"]: row for row in rows}
        return [by_id[each] for each in options.ids.split(",")]
    small = [
        row
        for row in rows
        if row["cif"].count("\n") < 40 + options.max_sites  # a line for each site
    ]
    order = np.random.default_rng(options.seed).permutation(len(small))
    return [small[i] for i in order[: options.num]]


def compare(rows, result):
    """What was found beside what the Materials Project has."""
    expected = np.array([float(row["formation_energy_per_atom"]) for row in rows])
    above = np.array([float(row["e_above_hull"]) for row in rows])
    has_energy = np.isfinite(result.formation_energy)
    difference = (result.formation_energy - expected)[has_energy]
    is_stable = (above <= 0) & has_energy
    groups = np.array([int(row["spacegroup.number"]) for row in rows])
    is_same = result.space_groups[:, 1] == groups
    reasons = [
        f"{row['material_id']}: {reason}"
        for row, reason in zip(rows, result.rejected_reason, strict=True)
        if reason and not reason.startswith("relaxed to the same")
    ]
    return {
        "crystals": [
            {
                "id": row["material_id"],
                "formula": row["pretty_formula"],
                "formation_energy": [round(float(e), 4), round(float(x), 4)],
                "above_hull": [round(float(a), 4), round(float(b), 4)],
                "known_as": known,
                "space_group_0.01": [int(g), int(h)],
            }
            for row, x, e, b, a, known, g, h in zip(
                rows,
                result.formation_energy,
                expected,
                result.above_hull,
                above,
                result.known_as,
                groups,
                result.space_groups[:, 1],
                strict=True,
            )
        ],
        "with_energy": int(has_energy.sum()),
        "rejected": reasons,
        "mean_absolute_difference": round(float(np.abs(difference).mean()), 4),
        "mean_difference": round(float(difference.mean()), 4),
        "largest_difference": round(float(np.abs(difference).max()), 4),
        "on_the_hull_of_mp": int(is_stable.sum()),
        "of_these_on_this_hull": int(np.sum(result.above_hull[is_stable] <= ON_HULL)),
        "known": sum(map(bool, result.known_as)),
        "space_group_kept_0.01": int(is_same[has_energy].sum()),
    }


if __name__ == "__main__":
    main()
