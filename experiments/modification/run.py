"""Modification measured on held-out formulas: models beside baselines, the same pairs.

    python experiments/modification/run.py --dataset=data/mp --splits=val,test \
        --models regression=runs/modify_regression diffusion=runs/modify_diffusion \
        cfm=runs/modify_cfm modify_best=runs/modify_best \
        --output=experiments/modification/mp.json

A question is a structure and the most stable one of its cell formula: the source, with
the target's space group and its energy less that of the source. One answer each, and
the matches of the first --num_samples. Standard errors are over formulas, whose
questions share a target. Baselines: the source as it is, and the nearest training
structure of the same formula type and group, relabelled (near in elements and in the
target's energy, which no model is given). Goes on from what the output has. Rows are
the questions with their space groups, and the answers at both tolerances, 1 for a
match.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from crystaljax.crystals import structure, symmetry_search
from crystaljax.data import dataset as datasets
from crystaljax.data import orbit_table, pairs
from crystaljax.matching import matcher
from crystaljax.models import build
from crystaljax.sampling import build as build_sampling
from crystaljax.sampling import collective_generation, evaluation, generation
from crystaljax.system import atomic_files, environment, sharding
from crystaljax.training import checkpoints, model_files, runs

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from orbits import measure

TOLERANCES = measure.TOLERANCES
MAX_ORBITS, MAX_SITES = 20, 36


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", type=pathlib.Path, required=True)
    parser.add_argument("--splits", default="val,test")
    parser.add_argument("--models", nargs="*", default=[], metavar="NAME=FOLDER")
    parser.add_argument(
        "--generator", default="mp", help="model whose units the nearest are found in"
    )
    parser.add_argument("--num_samples", type=int, default=5)
    parser.add_argument("--num_pairs", type=int, help="at most, by chance")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    dataset = datasets.open_dataset(args.dataset)
    asked = choose_pairs(dataset, args.splits.split(","), args.num_pairs)
    task = Task(dataset, asked)
    result: dict[str, Any] = {}
    if args.output.exists():
        result = json.loads(args.output.read_text())
    result["questions"] = task.describe()
    answers = result.setdefault("answers", {})

    def note(name: str, found: dict[str, Any]) -> None:
        answers[name] = found
        result["ahead"] = task.compare(answers)
        result["environment"] = environment.describe_environment()
        atomic_files.write_json(args.output, result)
        print(json.dumps({name: {k: v for k, v in found.items() if k != "rows"}}))

    if "source as it is" not in answers:
        note("source as it is", task.score([task.sources]))
    if "nearest" not in answers:
        note("nearest", task.score([task.nearest(args.generator)]))
    for each in args.models:
        name, folder = each.split("=")
        if name in answers:
            continue
        start = time.process_time()
        made = task.make(find_model(folder), args.num_samples)
        seconds = time.process_time() - start
        found = task.score(made)
        found["cpu_seconds_of_sampling"] = round(seconds, 1)
        found["command"] = shlex.join(["python", *sys.argv])
        note(name, found)


def find_model(name: str) -> pathlib.Path:
    """A run directory, or a model by its name."""
    path = pathlib.Path(name)
    return path if path.exists() else model_files.resolve(None, name)


def choose_pairs(
    dataset: datasets.Dataset, splits: Sequence[str], num_pairs: int | None
) -> np.ndarray:
    """Lowest-energy pairs of the splits that all models can hold."""
    table = orbit_table.open_table(dataset)
    labels = np.asarray(dataset.space_group)
    fits = (table.num_orbits <= MAX_ORBITS) & (table.space_group == labels)
    fits &= np.asarray(dataset.num_sites) <= MAX_SITES
    indices = np.concatenate([dataset.indices(split) for split in splits])
    found = pairs.lowest_energy_pairs(
        group=dataset.group,
        energy=dataset.formation_energy,
        indices=indices[fits[indices]],
        seed=0,
        pairs_per_group=None,
    )
    if num_pairs and num_pairs < len(found):
        rng = np.random.default_rng(0)
        found = found[np.sort(rng.permutation(len(found))[:num_pairs])]
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """The questions.

    Attributes:
        dataset: of the structures.
        asked: sources and targets, (pairs, 2).
    """

    dataset: datasets.Dataset
    asked: np.ndarray

    @property
    def sources(self) -> list[structure.Crystal]:
        """The structures to modify."""
        return [datasets.crystal(self.dataset, int(i)) for i in self.asked[:, 0]]

    @property
    def targets(self) -> list[structure.Crystal]:
        """The right answers."""
        return [datasets.crystal(self.dataset, int(i)) for i in self.asked[:, 1]]

    def describe(self) -> dict[str, Any]:
        """Numbers of pairs, and what they are like."""
        energies = np.asarray(self.dataset.formation_energy)[self.asked]
        groups = np.asarray(self.dataset.space_group)[self.asked]
        sites = np.asarray(self.dataset.num_sites)[self.asked[:, 1]]
        same = float(np.mean(groups[:, 0] == groups[:, 1]))
        ids = self.dataset.id.to_pylist()
        return {
            "dataset": self.dataset.path.name,
            "pairs": len(self.asked),
            "formulas": len(np.unique(self.asked[:, 1])),
            "of_one_space_group": round(same, 3),
            "energy_difference_quartiles": np.quantile(
                energies[:, 1] - energies[:, 0], [0.25, 0.5, 0.75]
            )
            .round(4)
            .tolist(),
            "sites_quartiles": np.quantile(sites, [0.25, 0.5, 0.75]).tolist(),
            "rows": [
                " ".join(map(str, (ids[source], "->", ids[target], *pair)))
                for (source, target), pair in zip(
                    self.asked.tolist(), groups.tolist(), strict=True
                )
            ],
        }

    def make(self, workdir: pathlib.Path, count: int) -> list[list[structure.Crystal]]:
        """Answers of a model, ``count`` of each where it has so many."""
        mesh = sharding.build_local_mesh()
        run = checkpoints.load_run(workdir, mesh)
        config = runs.load_config(workdir)
        generator = build_sampling.generator_of_run(run, config, mesh)
        if not build.is_modification(config):
            return self.generate(generator, run)
        if build_sampling.is_deterministic(config):
            count = 1
        questions = evaluation.pair_questions(self.dataset, self.asked, MAX_SITES)
        questions = evaluation.ask_again(questions, count)
        key = generation.key_of_seed(0)
        made = collective_generation.generate(generator, questions.conditions, key)
        size = len(self.asked)
        return [made[start : start + size] for start in range(0, len(made), size)]

    def generate(self, generator: Any, run: Any) -> list[list[structure.Crystal]]:
        """One answer of a generator, which is told the target's energy."""
        batch = datasets.gather(self.dataset, self.asked[:, 1], MAX_SITES)
        conditions = evaluation.conditions_lib.conditions_of(batch)
        key = generation.key_of_seed(0)
        return [collective_generation.generate(generator, conditions, key)]

    def nearest(self, generator: str) -> list[structure.Crystal | None]:
        """Of the training structures; see experiments/orbits/measure.py."""
        task = measure.load_task(find_model(generator), str(self.dataset.path), 1)
        # Structures that several questions ask for are looked up once.
        targets, rows = np.unique(self.asked[:, 1], return_inverse=True)
        asked = dataclasses.replace(task, asked=targets)
        found = measure.nearest_structures(asked)
        return [found[row] for row in rows.tolist()]

    def score(self, made: Sequence[Sequence[Any]]) -> dict[str, Any]:
        """Match rates of the first of all answers, and of any of them."""
        targets, matched, rms = self.targets, [], []
        for answers in made:
            there = np.array([each is not None for each in answers])
            found = matcher.match_many(
                [each for each in answers if each is not None],
                [target for target, each in zip(targets, there, strict=True) if each],
                TOLERANCES,
                num_workers=1,
            )
            whole = np.zeros((len(targets), len(TOLERANCES)), bool)
            whole[there] = found.matched
            matched.append(whole)
            rms.append(found)
        space_groups = np.asarray(self.dataset.space_group)
        groups = space_groups[self.asked[:, 1]]
        of_group = [
            each is not None and symmetry_search.find_space_group(each, 0.1) == group
            for each, group in zip(made[0], groups.tolist(), strict=True)
        ]
        result: dict[str, Any] = {
            "match@1": self.rates(matched[0]),
            "of_the_space_group": round(float(np.mean(of_group)), 4),
            "by": self.breakdown(matched[0]),
        }
        if len(made) > 1:
            result[f"match@{len(made)}"] = self.rates(np.any(matched, axis=0))
        result["rows"] = ["".join(map(str, row)) for row in matched[0].astype(int)]
        return result

    def compare(self, answers: dict[str, Any]) -> dict[str, Any]:
        """How far each model is ahead of all other answers, on the same questions."""
        matched = {
            name: np.array([[int(flag) for flag in row] for row in found["rows"]])
            for name, found in answers.items()
        }
        return {
            name: {
                other: self.rates(matched[name] - matched[other])
                for other in matched
                if other != name
            }
            for name in matched
            if "command" in answers[name]
        }

    def rates(self, matched: np.ndarray) -> dict[str, Any]:
        """Share at each tolerance with its standard error over formulas."""
        result = {}
        for column, tolerance in enumerate(TOLERANCES):
            values = matched[:, column].astype(float)
            mean = values.mean() if len(values) else 0.0
            sums: dict[int, float] = collections.defaultdict(float)
            for target, value in zip(self.asked[:, 1].tolist(), values, strict=True):
                sums[target] += value - mean
            error = np.sqrt(sum(each**2 for each in sums.values()))
            error /= max(len(values), 1)
            result[str(tolerance)] = [round(float(mean), 4), round(float(error), 4)]
        return result

    def breakdown(self, matched: np.ndarray) -> dict[str, Any]:
        """By size, by whether source and target share a group, by the difference."""
        groups = np.asarray(self.dataset.space_group)[self.asked]
        sites = np.asarray(self.dataset.num_sites)[self.asked[:, 1]]
        energies = np.asarray(self.dataset.formation_energy)[self.asked]
        kinds = {
            "sites": np.where(sites <= 8, "1-8", np.where(sites <= 20, "9-20", "21-")),
            "space group": np.where(groups[:, 0] == groups[:, 1], "same", "another"),
            "energy difference": np.where(
                energies[:, 1] - energies[:, 0] < -0.02, "below -0.02", "above -0.02"
            ),
        }
        return {
            kind: {
                str(name): {
                    "count": int((labels == name).sum()),
                    **{
                        str(t): round(float(matched[labels == name, i].mean()), 4)
                        for i, t in enumerate(TOLERANCES)
                    },
                }
                for name in sorted(set(labels.tolist()))
            }
            for kind, labels in kinds.items()
        }


if __name__ == "__main__":
    main()
