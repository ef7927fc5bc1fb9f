"""Both tables of the paper: seven methods, one budget, the same held-out structures.

    python experiments/tables_1_and_2/run.py

trains `configs/*.py:smoke` on the built-in alloys, 2,400 steps each, in about an hour
on 2 CPU cores, and writes ``result.json`` and ``tables.md`` beside this script. Any
data set and any budget by flag; the paper's network with ``--variant=``:

    python experiments/tables_1_and_2/run.py --dataset=data/mp_20 --rows=24 \
        --num_steps=20000 --output=runs/tables_mp_20

DDPM and DDIM are two samplers of one network (the paper's algorithm 9 trains both), so
that network is trained once. A second call goes on where the first one stopped.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shlex
import sys
import time

import jax
import numpy as np
from absl import logging

from crystaljax import evaluate, prepare, train
from crystaljax.data import dataset as datasets
from crystaljax.matching import matcher
from crystaljax.system import atomic_files, config_files, environment
from crystaljax.training import checkpoints, runs

HERE = pathlib.Path(__file__).resolve().parent
CONFIGS = HERE.parents[1] / "configs"

# Column: config that is trained, sampler if it is not the config's own, match rate in
# the paper (its own AFLOW split, StructureMatcher 0.2/0.3/5).
TABLE_1 = {
    "DDPM": ("ddpm", "ddpm", 0.8074),
    "DDIM": ("ddpm", "ddim", 0.82),
    "CFM N(0,1)": ("cfm_normal", None, 0.482),
    "CFM U(0,1)": ("cfm_uniform", None, 0.8097),
}
TABLE_2 = {
    "regression": ("modify_regression", None, 0.4148),
    "diffusion": ("modify_diffusion", None, 0.3653),
    "CFM": ("modify_cfm", None, 0.2059),
}
TOLERANCES = {str(tolerance): tolerance for tolerance in matcher.TOLERANCES.values()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", type=pathlib.Path, help="built-in alloys if unset")
    parser.add_argument("--variant", default="smoke", help="of every config")
    parser.add_argument("--num_steps", type=int, help="a model; the config's if unset")
    parser.add_argument("--batch_size", type=int, help="the config's if unset")
    parser.add_argument("--rows", type=int, help="of the sample tensor")
    parser.add_argument(
        "--num_structures", type=int, help="to evaluate on; all if unset"
    )
    parser.add_argument("--split", default="test")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/tables_1_and_2")
    parser.add_argument("--output", type=pathlib.Path, default=HERE)
    options = parser.parse_args()
    logging.set_verbosity(logging.ERROR)

    dataset = open_dataset(options)
    tables = {}
    for name, columns in (("table_1", TABLE_1), ("table_2", TABLE_2)):
        tables[name] = {}
        for column, (config_name, sampler, in_paper) in columns.items():
            print(f"{name}, {column}")
            config = build_config(config_name, options, dataset)
            workdir = options.workdir / config_name
            seconds = train_once(config, workdir)
            result, _ = evaluate.evaluate(
                evaluate.EvaluateOptions(
                    workdir=str(workdir),
                    split=options.split,
                    num_structures=options.num_structures,
                    pairs_per_group=None,
                    sampler=sampler,
                    output=str(workdir / f"evaluation_{sampler or 'default'}"),
                ),
                show_progress=True,
            )
            tables[name][column] = {
                "paper": in_paper,
                "config": f"configs/{config_name}.py:{options.variant}",
                "sampler": sampler or config.sampler.name,
                "network_evaluations": config.sampler.num_steps,
                "steps": config.train.num_steps,
                "batch_size": config.train.batch_size,
                "training_seconds": seconds,
                "num_questions": len(result.questions),
                **result.summary(),
                "evaluation_seconds": result.seconds,
            }
            write(options, dataset, tables)
    print(markdown(options, dataset, tables))


def open_dataset(options: argparse.Namespace) -> datasets.Dataset:
    """The data set of the flag, or the built-in alloys with a tenth held out."""
    if options.dataset is not None:
        return datasets.open_dataset(options.dataset)
    path = options.workdir / "dataset"
    if not path.exists():
        prepare.prepare(
            prepare.PrepareOptions(
                source="builtin", output=path, val_fraction=0.05, test_fraction=0.1
            )
        )
    return datasets.open_dataset(path)


def build_config(name: str, options: argparse.Namespace, dataset: datasets.Dataset):
    """A config of the repository with the flags' values."""
    config = config_files.load_file(CONFIGS / f"{name}.py", options.variant)
    config.data.path = str(dataset.path)
    config.train.seed = options.seed
    # Measured once, at the end.
    config.evaluation.num_structures = 0
    if options.rows:
        config.data.rows = options.rows
        config.model.element_rows = max(config.model.element_rows, options.rows)
        if config.model.source_rows:
            config.model.source_rows = max(config.model.source_rows, options.rows)
    if options.batch_size:
        config.train.batch_size = options.batch_size
    if options.num_steps:
        config.train.num_steps = options.num_steps
    return config


def train_once(config, workdir: pathlib.Path) -> float:
    """Trains, or goes on; seconds of wall time over all calls."""
    record = workdir / "seconds.json"
    before = json.loads(record.read_text())["seconds"] if record.exists() else 0.0
    start = time.perf_counter()
    latest = None
    if runs.is_run(workdir):
        with checkpoints.open_manager(workdir) as manager:
            latest = manager.latest_step()
    if latest is None or latest < config.train.num_steps:
        train.train(config, workdir, resume=True)
        before += time.perf_counter() - start
        atomic_files.write_json(record, {"seconds": before})
    return before


def write(options: argparse.Namespace, dataset: datasets.Dataset, tables: dict) -> None:
    """Writes both files; called after every column, so that nothing made is lost."""
    options.output.mkdir(parents=True, exist_ok=True)
    made_with = environment.describe_environment()
    atomic_files.write_json(
        options.output / "result.json",
        {
            "command": shlex.join(["python", *sys.argv]),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "dataset": describe(options, dataset),
            "split": options.split,
            "num_structures": {
                "train": len(dataset.indices("train")),
                options.split: len(dataset.indices(options.split)),
            },
            "seed": options.seed,
            "device": jax.devices()[0].device_kind,
            "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
            "jax": made_with["versions"]["jax"],
            **tables,
        },
    )
    (options.output / "tables.md").write_text(markdown(options, dataset, tables))


def describe(options: argparse.Namespace, dataset: datasets.Dataset) -> str:
    """Name of the data set."""
    return "built-in EMT alloys" if options.dataset is None else dataset.path.name


def markdown(
    options: argparse.Namespace, dataset: datasets.Dataset, tables: dict
) -> str:
    """Both tables beside the paper's figures."""
    lines = [
        f"Data: {describe(options, dataset)}, "
        f"{len(dataset.indices('train'))} structures to train on, the "
        f"{options.split} split of {len(dataset.indices(options.split))} for "
        "measuring; no formula is in both. One sample per question. Match rates by "
        "StructureMatcher at ltol/stol/angle_tol, with standard errors. The paper's "
        "figures are of its own AFLOW split, 2.1 million structures, and weeks of a "
        "GPU.",
        "",
    ]
    titles = {
        "table_1": "Table 1: generation, asked for by formula, space group, energy",
        "table_2": "Table 2: modification into the most stable polymorph",
    }
    for name, columns in tables.items():
        lines += [f"**{titles[name]}**", "", *table_rows(columns), ""]
    return "\n".join(lines)


def table_rows(columns: dict) -> list[str]:
    """One table, methods as columns."""

    def row(label, cells):
        return f"| {label} | " + " | ".join(cells) + " |"

    values = list(columns.values())
    lines = [row("", columns), "|---|" + "---|" * len(columns)]
    lines.append(row("paper, 0.2/0.3/5", [f"{v['paper']:.1%}" for v in values]))
    for tolerance in TOLERANCES:
        cells = []
        for value in values:
            rate, count = value[f"match_rate_{tolerance}"], value["num_questions"]
            error = np.sqrt(rate * (1 - rate) / count)
            cells.append(f"{rate:.1%} ± {error:.1%}")
        lines.append(row(f"here, {tolerance}", cells))
    for tolerance in TOLERANCES:
        key = f"match_rate_of_sources_{tolerance}"
        if key in values[0]:
            cells = [f"{value[key]:.1%}" for value in values]
            lines.append(row(f"sources as they are, {tolerance}", cells))
    lines += [
        row("valid", [f"{v['valid']:.1%}" for v in values]),
        row(
            "distances ≥ 0.7 of covalent",
            [f"{v['not_overlapping']:.1%}" for v in values],
        ),
        row("questions", [str(v["num_questions"]) for v in values]),
        row("steps × batch", [f"{v['steps']} × {v['batch_size']}" for v in values]),
        row("training, minutes", [f"{v['training_seconds'] / 60:.1f}" for v in values]),
        row("network evaluations", [str(v["network_evaluations"]) for v in values]),
    ]
    return lines


if __name__ == "__main__":
    main()
