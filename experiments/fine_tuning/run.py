"""Fine-tuning on few crystals against training on them from nothing, as many steps.

    python experiments/fine_tuning/run.py --dataset=data/mp --element=O \
        --num_steps=1000 --folder=fine_tuning \
        --output=experiments/fine_tuning/oxides.json

The crystals are structures with one element that a model was not trained on: those of
the splits val and test of its data set. Part of their formulas is held out from both
trainings.
"""

import argparse
import json
import pathlib
import shlex
import subprocess
import sys
import time
from typing import Any

import numpy as np

from crystaljax.crystals import structure_files
from crystaljax.data import dataset as datasets
from crystaljax.system import atomic_files, environment

SIZES = (
    "--config.data.rows=40",
    "--config.data.orbit_buckets=((6,24),)",
    "--config.train.batch_size=64",
)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", type=pathlib.Path, required=True)
    parser.add_argument("--element", default="O", help="that all crystals have")
    parser.add_argument("--num_crystals", type=int, default=430)
    parser.add_argument("--num_steps", type=int, default=1000)
    parser.add_argument("--init", default="mp")
    parser.add_argument("--num_samples", type=int, default=5)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    data = args.folder / "data"
    if not data.exists():
        write_crystals(args, args.folder / "crystals.csv")
        command(
            "prepare",
            "--source=cif_csv",
            f"--input={args.folder / 'crystals.csv'}",
            "--energy_column=formation_energy_per_atom",
            "--val_fraction=0.05",
            "--test_fraction=0.25",
            "--setting=standard",
            f"--output={data}",
        )
    runs = {
        "fine-tuned": (f"--init={args.init}", "--config.optimizer.learning_rate=3e-4"),
        "from nothing": (),
    }
    result: dict[str, Any] = {"splits": splits_of(data), "num_steps": args.num_steps}
    measured = {"model alone": args.init}
    for name, flags in runs.items():
        workdir = args.folder / name.replace(" ", "_")
        if not (workdir / "config.json").exists():
            start = time.perf_counter()
            train(data, workdir, args.num_steps, *flags)
            result[name] = {"seconds": time.perf_counter() - start}
        measured[name] = str(workdir)
    for name, model in measured.items():
        path = args.folder / f"{name.replace(' ', '_')}.json"
        if not path.exists():
            subprocess.run(
                [
                    sys.executable,
                    str(pathlib.Path(__file__).parents[1] / "orbits" / "measure.py"),
                    f"--workdir={model}",
                    f"--dataset={data}",
                    f"--num_samples={args.num_samples}",
                    f"--output={path}",
                ],
                check=True,
            )
        found = json.loads(path.read_text())
        result.setdefault(name, {})
        result[name] |= {
            "asked": found["num_structures"],
            "positions": found["positions"],
        } | {
            kind: {key: value for key, value in each.items() if "match@" in key}
            for kind, each in found["runs"].items()
        }
    result |= {
        "command": shlex.join(["python", *sys.argv]),
        "environment": environment.describe_environment(),
    }
    atomic_files.write_json(args.output, result)
    print(json.dumps(result, indent=1))


def write_crystals(args: argparse.Namespace, path: pathlib.Path) -> None:
    """Structures with the element that the model was not trained on, as CIFs."""
    dataset = datasets.open_dataset(args.dataset)
    indices = np.concatenate([dataset.indices("val"), dataset.indices("test")])
    crystals, rows = [], []
    for index in indices.tolist():
        crystal = datasets.crystal(dataset, index)
        names = datasets.vocabulary(dataset)["elements"]
        assert args.element in names, names
        if args.element in formula_elements(crystal):
            crystals.append(crystal)
            rows.append(index)
    chosen = np.random.default_rng(0).permutation(len(rows))[: args.num_crystals]
    crystals, rows = [crystals[i] for i in chosen], [rows[i] for i in chosen]
    identifiers = [dataset.id[index].as_py() for index in rows]
    structure_files.write_table(
        path,
        {
            "material_id": identifiers,
            "formation_energy_per_atom": [
                float(dataset.formation_energy[index]) for index in rows
            ],
            "cif": structure_files.cif_texts(crystals, identifiers),
        },
    )


def formula_elements(crystal: Any) -> set[str]:
    """Symbols of the elements of a crystal."""
    from crystaljax.crystals import elements

    return {elements.symbol(number) for number in set(crystal.atomic_numbers.tolist())}


def splits_of(data: pathlib.Path) -> dict[str, int]:
    """Structures of each split."""
    dataset = datasets.open_dataset(data)
    return {name: len(dataset.indices(name)) for name in ("train", "val", "test")}


def train(data: pathlib.Path, workdir: pathlib.Path, steps: int, *flags: str) -> None:
    """One training."""
    command(
        "train",
        "--config=symmetric:smoke",
        f"--workdir={workdir}",
        f"--config.data.path={data}",
        f"--config.train.num_steps={steps}",
        "--config.train.log_every=10",
        f"--config.train.checkpoint_every={steps}",
        "--config.train.validate_every=0",
        "--config.train.ema_decay=0.99",
        *SIZES,
        *flags,
    )


def command(*arguments: str) -> None:
    """A command of the package."""
    print("crystaljax", shlex.join(arguments), flush=True)
    subprocess.run([sys.executable, "-m", "crystaljax", *arguments], check=True)


if __name__ == "__main__":
    main()
