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

from crystaljax.crystals import assessment, wyckoff_assignments
from crystaljax.data import dataset as datasets
from crystaljax.data import orbit_table
from crystaljax.matching import matcher
from crystaljax.models import wyckoff_model
from crystaljax.models.networks import orbit_transformer
from crystaljax.sampling import orbit_generation
from crystaljax.system import atomic_files, environment
from crystaljax.training import wyckoff_training

TOLERANCES = tuple(matcher.TOLERANCES[name] for name in ("literature", "paper"))
SYMPRECS = (0.1, 0.001)


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
    targets = [datasets.crystal(dataset, int(index)) for index in asked]
    energies = np.asarray(units.scale_energy(dataset.formation_energy[asked]), float)
    labels = np.asarray(dataset.space_group[asked]).astype(int)
    questions = [
        orbit_generation.find_question(target.atomic_numbers, group, energy)
        for target, group, energy in zip(
            targets, labels.tolist(), energies.tolist(), strict=True
        )
    ]
    start = time.perf_counter()
    likely = model.likely_assignments([each for each, _ in questions], 16)
    beam_seconds = time.perf_counter() - start
    generator = orbit_generation.OrbitGenerator(
        orbit_transformer.OrbitTransformer(), params, units
    )
    # Cells, groups and positions as they are.
    true = [
        orbit_generation.Request(
            wyckoff_model.question_of(
                target.atomic_numbers,
                energy,
                int(table.space_group[index]),
                int(table.num_cells[index]),
            ),
            wyckoff_model.assignment_of(table.crystal(int(index))),
            int(table.num_cells[index]),
        )
        for index, target, energy in zip(asked, targets, energies.tolist(), strict=True)
    ]
    known = {kind_of(question, answer) for question, answer in examples}
    seen = np.array([kind_of(t.question, t.assignment) in known for t in true])
    right = np.array(
        [
            is_right(question, found, answer)
            for (question, _), found, answer in zip(
                questions, likely, true, strict=True
            )
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
    requests = orbit_generation.choose_positions(
        model, questions, num_samples=args.num_samples
    )
    start = time.perf_counter()
    made = generator.generate(true, jax.random.key(0))
    compiled = time.perf_counter()
    first = generator.generate([each[0] for each in requests], jax.random.key(0))
    seconds = time.perf_counter() - compiled
    result["seconds_of_first_call"] = compiled - start
    result["milliseconds_a_sample"] = 1000 * seconds / len(asked)
    runs = {"true_positions": made, "first": first}
    matches = {}
    for name, crystals in runs.items():
        matches[name] = matcher.match_many(crystals, targets, TOLERANCES)
        checks = assessment.check_many(crystals, symprecs=SYMPRECS)
        result[name] = {
            "match_rate": rates(matches[name].matched),
            "match_rate_where_seen": rates(matches[name].matched[seen]),
            "match_rate_where_unseen": rates(matches[name].matched[~seen]),
            "match_rate_where_positions_are_right": rates(
                matches[name].matched[right[:, 0]]
            ),
            "valid": float(checks.valid.mean()),
            "space_group": {
                str(symprec): float(np.mean(checks.space_groups[:, i] == labels))
                for i, symprec in enumerate(SYMPRECS)
            },
        }
    # Further samples follow assignments as often as they are probable.
    any_of = matches["first"].matched.copy()
    for number in range(1, args.num_samples):
        crystals = generator.generate(
            [each[number] for each in requests], jax.random.key(number)
        )
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
        examples["train"],
        examples["val"],
        wyckoff_training.Settings(num_epochs=num_epochs),
        log_fn=print,
    )
    return model, examples["train"]


def kind_of(question, assignment) -> tuple[Any, ...]:
    """What structures of the same positions have in common."""
    canonical = wyckoff_assignments.canonical(question.space_group, assignment)
    return question.space_group, question.counts, canonical


def is_right(question, found, answer) -> list[bool]:
    """Which of sixteen assignments are the answer in some description."""
    wanted = kind_of(answer.question, answer.assignment)
    same = [kind_of(question, each) == wanted for _, each in found]
    return [*same, *[False] * (16 - len(same))]


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
