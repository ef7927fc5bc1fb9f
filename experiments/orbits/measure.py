"""Match rates of crystals made as orbits: with true positions, and with the model's.

    python experiments/orbits/measure.py --dataset=data/mp_20 --flow=runs/orbits \
        --output=experiments/orbits/mp_20_biternary.json

trains the small model of positions (minutes), asks for 500 held-out structures by cell
formula, space group and energy, as experiments/match_rate does, and matches one sample
of each. Also: where positions occur in training and where not, and the space groups
that are found.
"""

import argparse
import collections
import json
import pathlib
import shlex
import sys
import time
from typing import Any

import flow
import jax
import numpy as np

from crystaljax.crystals import (
    assessment,
    orbits,
    standard_choice,
    standard_groups,
    structure,
    wyckoff_assignments,
)
from crystaljax.data import dataset as datasets
from crystaljax.data import orbit_table
from crystaljax.matching import matcher
from crystaljax.models import orbit_flow, wyckoff_model
from crystaljax.models.networks import orbit_transformer
from crystaljax.system import atomic_files, environment
from crystaljax.training import wyckoff_training

TOLERANCES = tuple(matcher.TOLERANCES[name] for name in ("literature", "paper"))
SYMPRECS = (0.1, 0.001)
NUM_STEPS = 10
NUM_ORBITS = 20
BATCH_SIZE = 100


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--flow", type=pathlib.Path, required=True)
    parser.add_argument("--num_structures", type=int, default=500)
    parser.add_argument("--num_epochs", type=int, default=12)
    parser.add_argument("--num_samples", type=int, default=10)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    dataset = datasets.open_dataset(args.dataset)
    table = orbit_table.open_table(dataset)
    params, units = flow.load(args.flow)
    tests = dataset.indices("test")
    asked = np.sort(np.random.default_rng(0).permutation(tests)[: args.num_structures])
    start = time.perf_counter()
    model, examples = train_positions(dataset, table, units, args.num_epochs)
    positions_seconds = time.perf_counter() - start
    questions = [ask(dataset, units, int(index)) for index in asked]
    start = time.perf_counter()
    likely = model.likely_assignments([each for each, _ in questions], 16)
    beam_seconds = time.perf_counter() - start
    sampler = Sampler(params, units)
    targets = [datasets.crystal(dataset, int(index)) for index in asked]
    # Cells, groups and positions as they are.
    true = [
        (
            wyckoff_model.question_of(
                target.atomic_numbers,
                question.energy,
                int(table.space_group[index]),
                int(table.num_cells[index]),
            ),
            int(table.num_cells[index]),
        )
        for index, target, (question, _) in zip(asked, targets, questions, strict=True)
    ]
    answers = [wyckoff_model.assignment_of(table.crystal(int(i))) for i in asked]
    known = {(q.space_group, q.counts, a) for q, a in examples}
    seen = np.array(
        [
            (q.space_group, q.counts, a) in known
            for (q, _), a in zip(true, answers, strict=True)
        ]
    )
    right = np.array(
        [
            is_same(q.space_group, found, answer)
            for (q, _), found, answer in zip(questions, likely, answers, strict=True)
        ]
    )
    result: dict[str, Any] = {
        "num_structures": len(asked),
        "positions": {
            "right": float(right[:, 0].mean()),
            "right_of_4": float(right[:, :4].any(axis=1).mean()),
            "right_of_16": float(right.any(axis=1).mean()),
            "right_where_seen": float(right[seen, 0].mean()),
            "right_where_unseen": float(right[~seen, 0].mean()),
            "seen": float(seen.mean()),
            "seconds_to_train": positions_seconds,
            "seconds_of_beam": beam_seconds,
        },
    }
    start = time.perf_counter()
    made = sampler.sample(true, answers, 0)
    result["milliseconds_a_sample"] = 1000 * (time.perf_counter() - start) / len(asked)
    first = [found[0][1] for found in likely]
    runs = {"true_positions": made, "first": sampler.sample(questions, first, 0)}
    matches = {}
    for name, crystals in runs.items():
        matches[name] = matcher.match_many(crystals, targets, TOLERANCES)
        checks = assessment.check_many(crystals, symprecs=SYMPRECS)
        groups = np.array(dataset.space_group[asked])
        result[name] = {
            "match_rate": rates(matches[name].matched),
            "match_rate_where_seen": rates(matches[name].matched[seen]),
            "match_rate_where_unseen": rates(matches[name].matched[~seen]),
            "match_rate_where_positions_are_right": rates(
                matches[name].matched[right[:, 0]]
            ),
            "valid": float(checks.valid.mean()),
            "space_group": {
                str(symprec): float(np.mean(checks.space_groups[:, i] == groups))
                for i, symprec in enumerate(SYMPRECS)
            },
        }
    # Further samples follow assignments as often as they are probable.
    rng = np.random.default_rng(1)
    any_of = matches["first"].matched.copy()
    for number in range(1, args.num_samples):
        drawn = [draw(found, rng) for found in likely]
        crystals = sampler.sample(questions, drawn, number)
        any_of |= matcher.match_many(crystals, targets, TOLERANCES).matched
    result[f"match@{args.num_samples}"] = rates(any_of)
    failed = collections.Counter(
        system_of(int(dataset.space_group[i]))
        for i, good in zip(asked, matches["first"].matched[:, 0], strict=True)
        if not good
    )
    result["failures_by_system"] = dict(failed)
    result |= {
        "training": json.loads((args.flow / "flow.json").read_text()),
        "command": shlex.join(["python", *sys.argv]),
        "environment": environment.describe_environment(),
    }
    atomic_files.write_json(args.output, result)
    shown = {k: v for k, v in result.items() if k not in ("environment", "training")}
    print(json.dumps(shown, indent=1))


def train_positions(dataset, table, units, num_epochs):
    """The model of positions and what it was trained on."""
    examples = {
        split: wyckoff_training.examples_of(
            dataset,
            table,
            dataset.indices(split),
            float(units.energy_mean),
            float(units.energy_scale),
        )
        for split in ("train", "val")
    }
    model = wyckoff_training.train(
        examples["train"], examples["val"], num_epochs=num_epochs, log_fn=print
    )
    return model, examples["train"]


def ask(dataset, units, index) -> tuple[wyckoff_model.Question, int]:
    """The question of a structure, with the primitive cells that its cell is to have.

    One if the group can hold the sites so, else as few as there must be.
    """
    crystal = datasets.crystal(dataset, index)
    numbers, group = crystal.atomic_numbers, int(dataset.space_group[index])
    energy = float(units.scale_energy(dataset.formation_energy[index]))
    whole = wyckoff_model.question_of(numbers, energy, group)
    for num_cells in range(1, int(np.gcd.reduce(whole.counts)) + 1):
        if any(count % num_cells for count in whole.counts):
            continue
        question = wyckoff_model.question_of(numbers, energy, group, num_cells)
        if wyckoff_assignments.count_assignments(group, question.counts):
            return question, num_cells
    raise SystemExit(f"error: {dataset.id[index]} does not fit its label {group}")


class Sampler:
    """The flow, compiled once."""

    def __init__(self, params: Any, units: orbit_flow.OrbitUnits):
        """Takes what `flow.load` returns."""
        model, tables = orbit_transformer.OrbitTransformer(), orbits.load_tables()
        self._sample_fn = jax.jit(
            lambda params, tables, units, conditions, keys: orbit_flow.sample(
                model,
                flow.PROCESS,
                params,
                tables,
                units,
                conditions,
                keys,
                num_steps=NUM_STEPS,
            )
        )
        self._fixed = (params, tables, units)

    def sample(self, questions, assignments, seed) -> list[structure.Crystal]:
        """A crystal for each question with these positions."""
        crystals: list[structure.Crystal] = []
        key = jax.random.key(seed)
        for start in range(0, len(questions), BATCH_SIZE):
            rows = np.minimum(np.arange(start, start + BATCH_SIZE), len(questions) - 1)
            conditions = build_conditions(
                [questions[i][0] for i in rows], [assignments[i] for i in rows]
            )
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
            _, _, numbers, coords, lattice = jax.device_get(
                self._sample_fn(*self._fixed, conditions, keys)
            )
            for row in range(min(BATCH_SIZE, len(questions) - start)):
                exists = numbers[row] > 0
                crystal = structure.Crystal(
                    numbers[row][exists].astype(int),
                    coords[row][exists].astype(float),
                    lattice[row].astype(float),
                )
                crystals.append(repeat(crystal, questions[start + row][1]))
        return crystals


def build_conditions(questions, assignments) -> orbit_transformer.OrbitConditions:
    """What the network is given."""
    shape = (len(questions), NUM_ORBITS)
    numbers, positions = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    anchors = np.zeros(len(questions), np.int32)
    for row, (question, assignment) in enumerate(
        zip(questions, assignments, strict=True)
    ):
        of_row, places = wyckoff_model.orbits_of(question, assignment)
        numbers[row, : len(of_row)], positions[row, : len(places)] = of_row, places + 1
        roles = np.repeat(
            np.arange(len(assignment)), [len(each) for each in assignment]
        )
        group = standard_groups.load_group(question.space_group)
        anchors[row] = standard_choice.find_anchor(group, roles, places)
    return orbit_transformer.OrbitConditions(
        np.array([each.space_group for each in questions], np.uint8),
        numbers,
        positions,
        anchors,
        np.array([each.energy for each in questions], np.float32),
    )


def repeat(crystal: structure.Crystal, num_cells: int) -> structure.Crystal:
    """A supercell along a."""
    shifts = np.arange(num_cells)[:, None, None] * np.array([1.0, 0, 0])
    coords = (crystal.frac_coords + shifts) / np.array([num_cells, 1, 1])
    return structure.Crystal(
        np.tile(crystal.atomic_numbers, num_cells),
        coords.reshape(-1, 3),
        crystal.lattice * np.array([[num_cells], [1], [1]]),
    )


def is_same(group, found, answer) -> list[bool]:
    """Which of sixteen are the answer in some description."""
    wanted = wyckoff_assignments.canonical(group, answer)
    same = [wyckoff_assignments.canonical(group, each) == wanted for _, each in found]
    return [*same, *[False] * (16 - len(same))]


def draw(found, rng) -> wyckoff_assignments.Assignment:
    """One of several, by their probabilities."""
    weights = np.exp([p for p, _ in found])
    return found[rng.choice(len(found), p=weights / weights.sum())][1]


def rates(matched: np.ndarray) -> dict[str, float]:
    """Share at each tolerance."""
    means = matched.mean(axis=0) if len(matched) else np.zeros(len(TOLERANCES))
    return {str(t): round(float(m), 4) for t, m in zip(TOLERANCES, means, strict=True)}


def system_of(group: int) -> str:
    """Crystal system."""
    names = "triclinic monoclinic orthorhombic tetragonal trigonal hexagonal cubic"
    ends = np.array([2, 15, 74, 142, 167, 194, 230])
    return names.split()[int(np.searchsorted(ends, group))]


if __name__ == "__main__":
    main()
