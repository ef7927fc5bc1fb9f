"""What a polymorph can be answered with, without any network, on many pairs.

    python experiments/modification/lookup.py --dataset=data/mp \
        --output=experiments/modification/lookup.json

Pairs of the training split, whose networks have seen them; so the answers here are
looked up among the structures of all *other* formulas: the source as it is; the nearest
structure of the formula type and group, relabelled; the source made to be of the group
(`polymorph_answers.source_in_group`); and the rule of `modify_best` made of these: the
source where it is nearly of the group, else the nearest, else the source where it can
be made to be of the group. Standard errors are over formulas.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import shlex
import sys
from typing import Any

import numpy as np

from crystaljax.crystals import elements, orbits, structure
from crystaljax.data import dataset as datasets
from crystaljax.data import orbit_table
from crystaljax.matching import matcher
from crystaljax.models import prototype_library
from crystaljax.sampling import polymorph_answers
from crystaljax.system import atomic_files, environment

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from modification import run as measured

# What a deviation of energies is, as the model `mp` has it, eV/atom.
ENERGY_SCALE = 1.2


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", type=pathlib.Path, required=True)
    parser.add_argument("--split", default="train")
    parser.add_argument("--num_pairs", type=int)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    dataset = datasets.open_dataset(args.dataset)
    pairs = measured.choose_pairs(dataset, [args.split], args.num_pairs)
    task = measured.Task(dataset, pairs)
    known = Known(dataset)
    answers: dict[str, list[Any]] = collections.defaultdict(list)
    for (source_index, target_index), source in zip(
        pairs.tolist(), task.sources, strict=True
    ):
        groups = np.asarray(dataset.space_group)[[source_index, target_index]].tolist()
        nearest = known.nearest(target_index)
        move, made = polymorph_answers.source_in_group(source, *groups)
        rule = nearest or made
        if move <= polymorph_answers.NEARLY:
            rule = made
        answers["source as it is"].append(source)
        answers["nearest"].append(nearest)
        answers["source in the group"].append(made)
        answers["rule"].append(rule)
    result: dict[str, Any] = {"questions": task.describe()}
    for name, made in answers.items():
        matched, exists = match(made, task.targets), [each is not None for each in made]
        result[name] = {
            "exists": round(float(np.mean(exists)), 4),
            "match@1": task.rates(matched),
            "match_rate_where_it_exists": measured.measure.rates(matched[exists]),
            "by": task.breakdown(matched),
        }
    result |= {
        "command": shlex.join(["python", *sys.argv]),
        "environment": environment.describe_environment(),
    }
    atomic_files.write_json(args.output, result)
    print(json.dumps({k: result[k]["match@1"] for k in answers}, indent=1))


def match(made: list[Any], targets: list[structure.Crystal]) -> np.ndarray:
    """Whether answers match at each tolerance; no answer does not."""
    found = np.zeros((len(made), len(measured.TOLERANCES)), bool)
    for row, (each, target) in enumerate(zip(made, targets, strict=True)):
        if each is not None:
            rms = matcher.match(each, target, measured.TOLERANCES).rms
            found[row] = [value is not None for value in rms]
    return found


class Known:
    """Training structures by formula type and group."""

    def __init__(self, dataset: datasets.Dataset):
        self._dataset, self._table = dataset, orbit_table.open_table(dataset)
        self._questions: dict[int, prototype_library.Question] = {}
        self._members: dict[Any, list[int]] = collections.defaultdict(list)
        usable = dataset.indices("train")
        for index in usable[self._table.space_group[usable] > 0].tolist():
            question = self.question(index)
            self._members[question.counts, question.space_group].append(index)

    def question(self, index: int) -> prototype_library.Question:
        """What a structure is an answer to."""
        if index not in self._questions:
            sites = slice(
                self._dataset.offsets[index], self._dataset.offsets[index + 1]
            )
            self._questions[index] = prototype_library.question_of(
                np.asarray(self._dataset.atomic_numbers[sites]),
                float(self._dataset.formation_energy[index]) / ENERGY_SCALE,
                int(self._table.space_group[index]),
                int(self._table.num_cells[index]),
            )
        return self._questions[index]

    def nearest(self, target: int) -> structure.Crystal | None:
        """Of other formulas; near in elements and in the target's energy."""
        asked = self.question(target)
        rows = [
            row
            for row in self._members.get((asked.counts, asked.space_group), ())
            if self.question(row).formula != asked.formula
        ]
        if not rows:
            return None
        ranks = elements.mendeleev_number().astype(float)
        numbers = np.array([ranks[list(self.question(row).species)] for row in rows])
        apart = (numbers - ranks[list(asked.species)]) / 10
        energies = np.array([self.question(row).energy for row in rows])
        squares = np.mean(apart**2, axis=1) + (energies - asked.energy) ** 2
        row = rows[int(np.argmin(squares))]
        found = self._table.crystal(row)
        new = dict(zip(self.question(row).species, asked.species, strict=True))
        numbers = np.array([new[number] for number in found.atomic_numbers.tolist()])
        return orbits.expand(dataclasses.replace(found, atomic_numbers=numbers))


if __name__ == "__main__":
    main()
