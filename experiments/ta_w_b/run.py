"""Ta-W-B as in section 7 of the paper: known crystals, hull, samples, candidates.

    python experiments/ta_w_b/known.py runs/ta_w_b/known.extxyz
    python experiments/ta_w_b/run.py --known=runs/ta_w_b/known.extxyz \
        --calculators=chgnet,sevenn --output=runs/ta_w_b
    # with folders of `crystaljax sample`, named as the table is to have them
    python experiments/ta_w_b/run.py --known=runs/ta_w_b/known.extxyz \
        --samples=flow=runs/samples_flow,diffusion=runs/samples_ddpm \
        --calculators=chgnet,sevenn --output=runs/ta_w_b

For each calculator the known crystals are relaxed and make the hull, `hull.json` with
formation energies and distances; for each folder of samples they are screened on that
hull, the best are written as inputs of VASP, and `table.md` counts how many lie within
0, 25 and 100 meV/atom. The same command goes on where it was stopped.
"""

import argparse
import json
import pathlib
import resource

import numpy as np

from crystaljax import export, screen
from crystaljax.hull import compositions, convex_hull
from crystaljax.screening import funnel, known_crystals, relaxed_hull
from crystaljax.system import environment

WITHIN = (0, 25, 100)  # meV/atom
SYSTEM = {frozenset({"Ta", "W", "B"})}


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--known", required=True, help="from known.py, or others too")
    parser.add_argument("--calculators", default="chgnet,sevenn")
    parser.add_argument("--samples", default="", help="name=folder,…; none: the hull")
    parser.add_argument("--num_workers", type=int, default=None)
    parser.add_argument("--kept", default=None, help="see crystaljax screen --help")
    parser.add_argument("--top", type=int, default=20, help="exported for VASP")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    options = parser.parse_args()
    folders = dict(
        each.split("=", 1) for each in options.samples.split(",") if each.strip()
    )
    results = []
    for calculator in options.calculators.split(","):
        output = options.output / calculator.replace(":", "_")
        result = make_hull(calculator, output, options)
        for name, folder in folders.items():
            counts = screen_samples(calculator, folder, output / name, options)
            result["screenings"][name] = counts
        results.append(result)
        path = options.output / "result.json"
        path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    table = "\n".join([*format_hulls(results), "", *format_screenings(results), ""])
    (options.output / "table.md").write_text(table)
    print(table)


def make_hull(calculator, output, options):
    """Relaxes the known crystals with a calculator; their places on the hull."""
    known = known_crystals.read(options.known, SYSTEM)
    settings = funnel.ScreeningOptions(
        num_workers=options.num_workers,
        kept=pathlib.Path(options.kept) if options.kept else None,
        show_progress=True,
    )
    built = relaxed_hull.build(known, calculator, known.crystals, settings)
    print("\n".join(built.describe()))
    output.mkdir(parents=True, exist_ok=True)
    (output / "hull.json").write_text(json.dumps(convex_hull.to_dict(built.hull)))
    above = convex_hull.energy_above_hull(
        built.hull,
        [compositions.format_composition(e.composition) for e in built.hull.entries],
        [entry.formation_energy for entry in built.hull.entries],
        built.hull.energy_model,
    )
    rows = [
        {
            "id": entry.id,
            "formula": entry.composition.reduced_formula,
            "formation_energy": round(entry.formation_energy, 4),
            # In front of the hull's own entries there is nothing.
            "energy_above_hull": round(max(float(distance), 0.0), 4),
            "volume_per_atom": round(
                float(abs(np.linalg.det(entry.crystal.lattice)))
                / entry.crystal.num_sites,
                3,
            ),
        }
        for entry, distance in zip(built.hull.entries, above, strict=True)
    ]
    usage = [
        resource.getrusage(which)
        for which in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    return {
        "calculator": calculator,
        "energy_model": built.hull.energy_model,
        "known": rows,
        "problems": built.problems,
        "cpu_seconds_so_far": round(sum(u.ru_utime + u.ru_stime for u in usage)),
        "versions": environment.package_versions(),
        "screenings": {},
    }


def export_best(screening, output, top):
    """Inputs of VASP for the best of a screening."""
    export.export(
        export.ExportOptions(
            screening=str(screening),
            top=top,
            format="vasp",
            output=str(output),
            overwrite=True,
        )
    )


def screen_samples(calculator, folder, output, options):
    """Screens samples on the relaxed hull, and writes the best for VASP."""
    result, table = screen.screen(
        screen.ScreenOptions(
            samples=folder,
            calculator=calculator,
            hull=f"relaxed:{options.known}",
            output=str(output),
            kept=options.kept,
            num_workers=options.num_workers,
        ),
        show_progress=True,
    )
    print(screen.report(result, table))
    export_best(output, output / "vasp", options.top)
    ranked = result.ranking()
    above = result.above_hull[ranked]
    new = np.array([not result.known_as[i] for i in ranked], bool)
    return {
        **result.counts(),
        **{
            f"within_{limit}_meV": [
                int(np.sum(above <= limit / 1000)),
                int(np.sum(new & (above <= limit / 1000))),
            ]
            for limit in WITHIN
        },
        "lowest": [
            [str(table["formula"][i]), round(float(result.above_hull[i]), 4)]
            for i in ranked[:10]
        ],
    }


def format_hulls(results):
    """A row for each known crystal, a column for each calculator."""
    names = [result["energy_model"] for result in results]
    lines = [
        "| known crystal | formula | "
        + " | ".join(f"{name}: formation energy, above hull" for name in names)
        + " |",
        "|---|---|" + "---:|" * len(names),
    ]
    by_id = [{row["id"]: row for row in result["known"]} for result in results]
    for name in dict.fromkeys(name for rows in by_id for name in rows):
        found = [rows.get(name) for rows in by_id]
        formula = next(row["formula"] for row in found if row)
        cells = [
            f"{row['formation_energy']:.3f}, {row['energy_above_hull']:.3f}"
            if row
            else "–"
            for row in found
        ]
        lines.append(f"| {name} | {formula} | {' | '.join(cells)} |")
    return lines


def format_screenings(results):
    """A row for each calculator and folder of samples."""
    rows = [
        f"| {result['energy_model']} | {name} | {counts['inputs']} | "
        f"{counts['ranked']} | "
        + " | ".join(
            "{} ({} new)".format(*counts[f"within_{limit}_meV"]) for limit in WITHIN
        )
        + " |"
        for result in results
        for name, counts in result["screenings"].items()
    ]
    if not rows:
        return ["No samples were screened: only the hull was made."]
    head = [
        "| energies | samples | crystals | ranked | "
        + " | ".join(f"≤ {limit} meV/atom" for limit in WITHIN)
        + " |",
        "|---|---|" + "---:|" * (2 + len(WITHIN)),
    ]
    return head + rows


if __name__ == "__main__":
    main()
