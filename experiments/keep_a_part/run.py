"""One species is removed from known crystals, and put back.

    python experiments/keep_a_part/run.py --dataset=DATA --split=test \
        --num_crystals=200 --output=experiments/keep_a_part/result.json

DATA is a data set of `crystaljax prepare` that the model has not seen (that split of).
Of each crystal one species, drawn at random, is taken out; what is left is all that is
known, with the formula of the whole. It is put back by

* ours: `crystaljax sample --template --keep=all --formulas=…` with the model of the
  package, the first and five answers, and of five the one whose estimated energy is the
  lowest;
* random: anywhere in the same cell, at least 0.7 of the sum of two covalent radii apart
  where that is found in 100 tries; one and five tries;
* nearest: the nearest training structure of the same stoichiometry, in any space group,
  with these elements and another formula (`data.templates`); at the known energy.

Match rates with the known crystal at 0.2/0.1/5, 0.2/0.3/5 and 0.3/0.5/10. Crystals
that are done are in a file beside the output, and the same command goes on.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import shlex
import sys
import time
from typing import Any

import jax
import numpy as np

from crystaljax.crystals import elements, kept_sites, structure
from crystaljax.data import dataset as datasets
from crystaljax.data import templates
from crystaljax.matching import matcher
from crystaljax.models import build, wyckoff_files
from crystaljax.sampling import build as build_sampling
from crystaljax.sampling import estimation, kept_questions, orbit_conditions
from crystaljax.system import environment, errors, sharding, startup
from crystaljax.training import checkpoints, model_files, runs

# What is kept agrees by itself, so that the usual tolerances ask little of the rest.
TOLERANCES = (
    matcher.Tolerance(0.2, 0.1, 5.0),
    matcher.TOLERANCES["paper"],
    matcher.TOLERANCES["literature"],
)
NUM_ANSWERS = 5
_BATCH_SIZE = 8


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--num_crystals", type=int, default=200)
    parser.add_argument("--max_sites", type=int, default=20)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    dataset = datasets.open_dataset(args.dataset)
    library = templates.build_library(dataset)
    chosen = choose(dataset, args.split, args.num_crystals, args.max_sites)
    done_path = args.output.with_suffix(".jsonl")
    done = {}
    if done_path.exists():
        lines = done_path.read_text().splitlines()
        done = {row["index"]: row for row in map(json.loads, lines)}
    startup.enable_compilation_cache()
    model = Model()
    for number, index in enumerate(chosen):
        if index in done:
            continue
        done[index] = measure(dataset, library, model, index)
        with done_path.open("a") as file:
            file.write(json.dumps(done[index]) + "\n")
        print(number, done[index], flush=True)
    rows = [done[index] for index in chosen]
    text = json.dumps(report(rows), indent=1)[:-2]
    lines = ",\n  ".join(map(json.dumps, rows))
    # A line for each crystal.
    args.output.write_text(f'{text},\n "rows": [\n  {lines}\n ]\n}}\n')


def choose(dataset, split: str, count: int, max_sites: int) -> list[int]:
    """Crystals of at least two species, in an order drawn once."""
    order = np.random.default_rng(0).permutation(dataset.indices(split))
    fitting = [
        index
        for index in order.tolist()
        if dataset.num_sites[index] <= max_sites
        and len(set(datasets.crystal(dataset, index).atomic_numbers.tolist())) > 1
    ]
    return fitting[:count]


class Model:
    """The model of the package, loaded once."""

    def __init__(self):
        self.workdir = model_files.resolve(None, None, model_files.DEFAULT)
        self.config = runs.load_config(self.workdir)
        self.positions = wyckoff_files.load(self.workdir / runs.POSITIONS, runs.REMEDY)
        mesh = sharding.build_local_mesh()
        self.run = checkpoints.load_run(self.workdir, mesh, None)
        generator: Any = build_sampling.generator_of_run(self.run, self.config, mesh)
        # One shape and one size: it is compiled once.
        self.generator = dataclasses.replace(
            generator, shapes=generator.shapes[-1:], batch_size=_BATCH_SIZE
        )

    def estimate(self, crystals: list[structure.Crystal]) -> np.ndarray:
        """Energies by the model's estimator, eV/atom."""
        if not crystals:
            return np.zeros(0)
        return estimation.estimate_many(self.generator.estimate_energies, crystals)

    def put_back(
        self, part: structure.Crystal, formula: str
    ) -> list[structure.Crystal]:
        """Answers for a part of a crystal."""
        every = np.ones(part.num_sites, bool)
        template = kept_sites.Template(pathlib.Path("part"), part, every)
        cell = kept_questions.cell_of(template, formula)
        scale = self.run.scale
        energies = orbit_conditions.low_energies(self.positions, scale, [cell])
        asked = kept_questions.ask(
            self.positions,
            scale,
            template,
            orbit_conditions.Wanted([cell], None, energies, num_samples=NUM_ANSWERS),
            build.orbit_shapes(self.config)[-1],
        )
        wanted = asked.requests
        padded = [*wanted, *[wanted[-1]] * (_BATCH_SIZE - len(wanted))]
        made = self.generator.generate(padded, jax.random.key(0))
        return made[: len(wanted)]


def measure(dataset, library, model: Model, index: int) -> dict[str, Any]:
    """How one crystal is found again."""
    crystal = datasets.crystal(dataset, index)
    rng = np.random.default_rng((1, index))
    removed = int(rng.choice(np.unique(crystal.atomic_numbers)))
    is_left = crystal.atomic_numbers != removed
    part = structure.Crystal(
        crystal.atomic_numbers[is_left], crystal.frac_coords[is_left], crystal.lattice
    )
    row: dict[str, Any] = {
        "index": index,
        "formula": elements.cell_formula(crystal.atomic_numbers),
        "removed": elements.symbol(removed),
        "space_group": int(dataset.space_group[index]),
    }
    start = time.process_time()
    try:
        ours = model.put_back(part, elements.cell_formula(crystal.atomic_numbers))
    except errors.UserError as error:
        ours, row["problem"] = [], str(error)
    row["cpu_seconds"] = round(time.process_time() - start, 2)
    number = int((~is_left).sum())
    anywhere = [
        scatter(part, removed, number, np.random.default_rng((2, index, attempt)))
        for attempt in range(NUM_ANSWERS)
    ]
    near = nearest(dataset, library, crystal, float(dataset.formation_energy[index]))
    energies = model.estimate(ours)
    row["estimated"] = [round(float(each), 4) for each in energies]
    answers = {"ours": ours, "random": anywhere, "nearest": [near] if near else []}
    for name, crystals in answers.items():
        row[name] = [
            [each is not None for each in matcher.match(made, crystal, TOLERANCES).rms]
            for made in crystals
        ]
    return row


def scatter(
    part: structure.Crystal, number: int, count: int, rng: np.random.Generator
) -> structure.Crystal:
    """Sites anywhere in a cell, apart from each other where that is found."""
    radii = elements.load_covalent_radii()
    numbers, coords = part.atomic_numbers.copy(), part.frac_coords.copy()
    for _ in range(count):
        least = 0.7 * (radii[numbers - 1] + radii[number - 1])
        for _ in range(100):
            place = rng.random(3)
            apart = coords - place
            apart = (apart - np.round(apart)) @ part.lattice
            if (np.linalg.norm(apart, axis=1) > least).all():
                break
        numbers = np.append(numbers, number)
        coords = np.concatenate([coords, place[None]])
    return structure.Crystal(numbers, coords, part.lattice)


def nearest(dataset, library, crystal, energy) -> structure.Crystal | None:
    """The nearest training structure with the elements of a crystal."""
    formula = elements.reduced_formula(crystal.atomic_numbers)
    found = templates.find(
        library, crystal.atomic_numbers, 0, energy, 1, without_formula=formula
    )
    if found[0] < 0:
        return None
    known = datasets.crystal(dataset, int(found[0]))
    old, _ = templates.roles(known.atomic_numbers)
    new, _ = templates.roles(crystal.atomic_numbers)
    change = dict(zip(old, new, strict=True))
    numbers = np.array([change[each] for each in known.atomic_numbers.tolist()])
    return structure.Crystal(numbers, known.frac_coords, known.lattice)


def report(rows) -> dict[str, Any]:
    """Match rates with their standard errors, and where they come from."""
    answers = {
        name: [row[name] for row in rows] for name in ("ours", "random", "nearest")
    }
    answers["lowest"] = []
    for row in rows:
        best = int(np.argmin(row["estimated"])) if row["estimated"] else 0
        answers["lowest"].append(row["ours"][best : best + 1])
    rates: dict[str, Any] = collections.defaultdict(dict)
    for name, count in (
        ("ours", 1),
        ("ours", NUM_ANSWERS),
        ("lowest", 1),
        ("random", 1),
        ("random", NUM_ANSWERS),
        ("nearest", 1),
    ):
        for column, tolerance in enumerate(TOLERANCES):
            hits = [any(each[column] for each in of[:count]) for of in answers[name]]
            rate = float(np.mean(hits))
            error = (rate * (1 - rate) / len(hits)) ** 0.5
            rates[f"{name}, {count}"][str(tolerance)] = [
                round(100 * rate, 1),
                round(100 * error, 1),
            ]
    return {
        "command": shlex.join(["python", *sys.argv]),
        "environment": environment.describe_environment(),
        "num_crystals": len(rows),
        "no_answer": sum("problem" in row for row in rows),
        "match_rates_percent_and_standard_error": rates,
        "median_cpu_seconds": float(np.median([row["cpu_seconds"] for row in rows])),
    }


if __name__ == "__main__":
    main()
