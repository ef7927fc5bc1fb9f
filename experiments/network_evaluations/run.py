"""How few network evaluations do the samplers need?

    python experiments/network_evaluations/run.py \
        --diffusion=runs/tables_1_and_2/ddpm --flow=runs/tables_1_and_2/cfm_uniform

evaluates two trained runs on held-out structures with every sampler at 5 to 100 network
evaluations, and leaves ``result.json``, ``table.md`` and ``evaluations.png`` in
``--output``.
"""

import argparse
import json
import pathlib
import shlex
import sys
from typing import Any

from crystaljax.crystals import structure
from crystaljax.data import dataset as datasets
from crystaljax.matching import matcher
from crystaljax.sampling import build as build_sampling
from crystaljax.sampling import evaluation, generation
from crystaljax.sampling import options as sampling_options
from crystaljax.system import sharding
from crystaljax.training import checkpoints

HERE = pathlib.Path(__file__).parent
NUM_EVALUATIONS = (5, 10, 20, 50, 100)
SAMPLERS = {"diffusion": ("ddpm", "ddim", "dpm_solver"), "flow": ("euler", "heun")}
TOLERANCES = "0.3/0.5/10"


def main() -> None:
    """Evaluates, and writes after each evaluation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--diffusion", help="run directory")
    parser.add_argument("--flow", help="run directory")
    parser.add_argument("--dataset", help="that of each run if unset")
    parser.add_argument("--split", default="test")
    parser.add_argument("--num_structures", type=int, help="all if unset")
    parser.add_argument("--evaluations", default=",".join(map(str, NUM_EVALUATIONS)))
    parser.add_argument("--output", type=pathlib.Path, default=HERE)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"command": shlex.join(["python", *sys.argv])}
    rows: list[dict[str, Any]] = []
    for kind, samplers in SAMPLERS.items():
        workdir = getattr(args, kind)
        if workdir is None:
            continue
        for num_steps in map(int, args.evaluations.split(",")):
            for sampler in samplers:
                rows.append(measure(workdir, sampler, num_steps, args))
                result["rows"] = rows
                text = json.dumps(result, indent=2)
                (args.output / "result.json").write_text(text + "\n")
                print(rows[-1], flush=True)
    table = format_table(rows)
    (args.output / "table.md").write_text(table)
    draw(rows, args.output / "evaluations.png")
    print(table)


def measure(
    workdir: str, sampler: str, num_steps: int, args: argparse.Namespace
) -> dict[str, Any]:
    """Match rate of one sampler at one number of evaluations."""
    mesh = sharding.build_mesh()
    run = checkpoints.load_run(workdir, mesh)
    settings = sampling_options.SamplerSettings(num_steps=num_steps, sampler=sampler)
    config = build_sampling.override_sampler(run.config, settings)
    dataset = datasets.open_dataset(args.dataset or run.vocabulary["dataset"])
    indices = dataset.indices(args.split)[: args.num_structures]
    sites = structure.max_sites(config.data.rows)
    result = evaluation.evaluate_samples(
        build_sampling.generator_of_run(run, config, mesh),
        evaluation.structure_questions(dataset, indices, sites),
        generation.key_of_seed(0),
        tolerances=[matcher.TOLERANCES["literature"]],
    )
    return {
        "workdir": workdir,
        "sampler": sampler,
        "network_evaluations": num_steps,
        "num_structures": len(result.questions),
        "summary": result.summary(),
        "seconds": result.seconds,
    }


def error(row: dict[str, Any]) -> float:
    """Standard error of a match rate."""
    rate = rate_of(row)
    return (rate * (1 - rate) / row["num_structures"]) ** 0.5


def rate_of(row: dict[str, Any]) -> float:
    """The match rate."""
    return row["summary"][f"match_rate_{TOLERANCES}"]


def format_table(rows: list[dict[str, Any]]) -> str:
    """One line a sampler, one column a number of evaluations, as Markdown."""
    counts = sorted({row["network_evaluations"] for row in rows})
    lines = [["sampler", *map(str, counts)], ["---"] + ["---:"] * len(counts)]
    for sampler in dict.fromkeys(row["sampler"] for row in rows):
        cells = {
            row["network_evaluations"]: f"{rate_of(row):.1%} ± {error(row):.1%}"
            for row in rows
            if row["sampler"] == sampler
        }
        lines.append([sampler, *(cells.get(count, "") for count in counts)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Match rate against network evaluations."""
    from matplotlib import figure

    canvas = figure.Figure(figsize=(7, 4), layout="constrained")
    axes = canvas.add_subplot()
    for sampler in dict.fromkeys(row["sampler"] for row in rows):
        mine = [row for row in rows if row["sampler"] == sampler]
        axes.errorbar(
            [row["network_evaluations"] for row in mine],
            [100 * rate_of(row) for row in mine],
            [100 * error(row) for row in mine],
            fmt="o-",
            capsize=3,
            label=sampler,
        )
    axes.set_xscale("log")
    axes.set_xticks(NUM_EVALUATIONS, map(str, NUM_EVALUATIONS))
    axes.minorticks_off()
    axes.set_xlabel("network evaluations")
    axes.set_ylabel(f"match rate at {TOLERANCES} (%)")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    canvas.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
