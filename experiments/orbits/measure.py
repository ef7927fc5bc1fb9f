"""Match rates of a model of orbits on held-out structures, by what it is told.

    python experiments/orbits/measure.py --workdir=runs/symmetric --split=test \
        --num_structures=500 --num_samples=20 --output=measured.json

Each structure is asked for by its cell formula, and

* true: its space group, energy and Wyckoff positions,
* energy: its space group and energy,
* group: its space group, with the energy that the formula is likely to have,
* formula: nothing else.

One to twenty samples of each answer, whose orbits are the likeliest, in order. Beside
them the nearest training structure of the same stoichiometry, relabelled.
"""

import argparse
import collections
import dataclasses
import json
import math
import pathlib
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from crystaljax.crystals import assessment, structure, wyckoff_assignments
from crystaljax.data import dataset as datasets
from crystaljax.data import orbit_table
from crystaljax.matching import matcher
from crystaljax.models import prototype_library, wyckoff_model
from crystaljax.sampling import build as build_sampling
from crystaljax.sampling import (
    draw_choice,
    estimation,
    likely_orbits,
    orbit_generation,
    usable_structures,
)
from crystaljax.system import atomic_files, environment, sharding
from crystaljax.training import checkpoints, orbit_batches, runs

TOLERANCES = tuple(matcher.TOLERANCES[name] for name in ("literature", "paper"))
SYMPRECS = (0.1, 0.001)
# From which one is picked by its estimated energy.
NUM_DRAWS = 5


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--dataset", help="that of the run by default")
    parser.add_argument("--split", default="test")
    parser.add_argument("--num_structures", type=int, default=500)
    parser.add_argument("--num_samples", type=int, default=20)
    parser.add_argument(
        "--network_alone", action="store_true", help="known prototypes are not followed"
    )
    parser.add_argument("--max_sites", type=int, help="of the cells that are asked for")
    parser.add_argument("--questions", help="some of them, such as true,energy")
    parser.add_argument(
        "--network_evaluations", type=int, help="of a sample; the run's if unset"
    )
    parser.add_argument("--checkpoint", type=int)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    task = load_task(
        args.workdir,
        args.dataset,
        args.num_structures,
        split=args.split,
        max_sites=args.max_sites,
        checkpoint=args.checkpoint,
        network_evaluations=args.network_evaluations,
    )
    generator = dataclasses.replace(task.generator, follow_known=not args.network_alone)
    task = dataclasses.replace(task, generator=generator)
    result: dict[str, Any] = {
        "num_structures": len(task.asked),
        "checkpoint": task.run.step,
        "positions": measure_positions(task),
        "runs": {},
    }
    of_all = task.questions()
    for name in args.questions.split(",") if args.questions else of_all:
        questions = of_all[name]
        result["runs"][name] = measure(task, name, questions, args.num_samples)
        print(json.dumps({name: result["runs"][name]}, indent=1), flush=True)
    result["nearest"] = measure_nearest(task)
    print(json.dumps({"nearest": result["nearest"]}), flush=True)
    result |= {
        "command": shlex.join(["python", *sys.argv]),
        "environment": environment.describe_environment(),
    }
    atomic_files.write_json(args.output, result)


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """Structures that are asked for, and who is asked."""

    dataset: datasets.Dataset
    table: orbit_table.OrbitTable
    asked: np.ndarray
    run: checkpoints.Run
    generator: Any

    @property
    def model(self) -> wyckoff_model.WyckoffModel:
        """Of energies, groups and positions."""
        return self.generator.positions

    @property
    def targets(self) -> list[structure.Crystal]:
        """The structures."""
        return [datasets.crystal(self.dataset, int(index)) for index in self.asked]

    @property
    def groups(self) -> list[int]:
        """Their space groups."""
        return np.asarray(self.dataset.space_group[self.asked]).astype(int).tolist()

    @property
    def energies(self) -> np.ndarray:
        """In deviations of the training structures."""
        energy = np.asarray(self.dataset.formation_energy[self.asked])
        return np.asarray(self.run.scale.scale_energy(energy), float)

    def true_requests(self) -> list[likely_orbits.Request]:
        """All that is known of them."""
        return [
            likely_orbits.Request(
                prototype_library.question_of(
                    target.atomic_numbers,
                    energy,
                    int(self.table.space_group[index]),
                    int(self.table.num_cells[index]),
                ),
                wyckoff_model.assignment_of(self.table.crystal(int(index))),
                int(self.table.num_cells[index]),
            )
            for index, target, energy in zip(
                self.asked, self.targets, self.energies.tolist(), strict=True
            )
        ]

    def questions(self) -> dict[str, Any]:
        """For each kind of question, one for each structure."""
        library = self.model.library
        max_sites = self.generator.shapes[-1][1]
        formulas = [
            prototype_library.question_of(target.atomic_numbers, np.nan)
            for target in self.targets
        ]
        low = self.model.likely_energies(formulas).tolist()

        def named(energies):
            return [
                likely_orbits.find_question(
                    target.atomic_numbers, group, energy, library, max_sites
                )
                for target, group, energy in zip(
                    self.targets, self.groups, energies, strict=True
                )
            ]

        return {
            "true": None,
            "energy": named(self.energies.tolist()),
            "group": named(low),
            "formula": [
                (dataclasses.replace(each, energy=energy), 1)
                for each, energy in zip(formulas, low, strict=True)
            ],
        }


def load_task(
    workdir: pathlib.Path,
    dataset_path: str | None,
    num_structures: int,
    *,
    split: str = "test",
    max_sites: int | None = None,
    checkpoint: int | None = None,
    network_evaluations: int | None = None,
    once: bool = False,
) -> Task:
    """A model, and structures of a split that are asked for, by chance.

    Args:
        workdir: of the model.
        dataset_path: that of the run if None.
        num_structures: at most.
        split: of the data set.
        max_sites: of their cells.
        checkpoint: of the run; the newest if None.
        network_evaluations: of a sample; what the run has if None.
        once: each cell formula once.
    """
    mesh = sharding.build_local_mesh()
    run = checkpoints.load_run(workdir, mesh, checkpoint)
    config = runs.load_config(workdir)
    if network_evaluations:
        config.sampler.num_steps = network_evaluations
    generator = build_sampling.generator_of_run(run, config, mesh)
    dataset = datasets.open_dataset(dataset_path or run.vocabulary["dataset"])
    indices, _ = usable_structures.find_usable(config, dataset, split)
    if max_sites:
        indices = indices[np.asarray(dataset.num_sites)[indices] <= max_sites]
    if once:
        formulas = [dataset.formula[int(index)].as_py() for index in indices]
        _, first = np.unique(formulas, return_index=True)
        indices = indices[np.sort(first)]
    rng = np.random.default_rng(0)
    asked = np.sort(rng.permutation(indices)[:num_structures])
    return Task(dataset, orbit_table.open_table(dataset), asked, run, generator)


def measure(task: Task, name: str, questions: Any, num_samples: int) -> dict[str, Any]:
    """Match rates of one kind of question."""
    if questions is None:
        requests = [[each] for each in task.true_requests()]
    else:
        requests = likely_orbits.choose_orbits(
            task.model,
            questions,
            [num_samples] * len(questions),
            shape=task.generator.shapes[-1],
        )
        limits = task.generator.shapes[-1]
        requests = [
            each if all(fits(request, limits) for request in each) else []
            for each in requests
        ]
    # No likely answer that the model holds: what stands there instead never counts.
    missing = np.array([not each for each in requests])
    requests = [
        each or [true] * (1 if questions is None else num_samples)
        for each, true in zip(requests, task.true_requests(), strict=True)
    ]
    targets, groups = task.targets, np.array(task.groups)
    flat = likely_orbits.number_repeats([each for row in requests for each in row])
    start, cpu = time.perf_counter(), time.process_time()
    made = task.generator.generate(flat, jax.random.key(0))
    seconds = time.perf_counter() - start, time.process_time() - cpu
    found = np.zeros((len(targets), len(TOLERANCES)), bool)
    of_draws = []
    result: dict[str, Any] = {}
    for number in range(len(requests[0])):
        crystals = made[number :: len(requests[0])]
        matches = matcher.match_many(crystals, targets, TOLERANCES, num_workers=1)
        matches.matched[missing] = False
        found |= matches.matched
        of_draws.append(matches.matched)
        if number == 0:
            first = [each[0] for each in requests]
            checks = assessment.check_many(crystals, symprecs=SYMPRECS, num_workers=1)
            own = np.array([each.question.space_group for each in first])
            right = np.array(
                [
                    kind_of(each) == kind_of(true)
                    for each, true in zip(first, task.true_requests(), strict=True)
                ]
            )
            right &= ~missing
            result = {
                "unanswered": int(missing.sum()),
                "positions_right": float(right.mean()),
                "group_right": float(np.mean(own == groups)),
                "match_rate_where_positions_are_right": rates(matches.matched[right]),
                "rms": rms(matches),
                "valid": float(checks.valid.mean()),
                "space_group_as_asked": {
                    str(symprec): float(np.mean(checks.space_groups[:, i] == own))
                    for i, symprec in enumerate(SYMPRECS)
                },
                "by": breakdown(task, matches.matched),
                "failures": failures(task, matches.matched[:, 0], first),
            }
        if number + 1 in (1, 2, 5, 10, 20):
            result[f"match@{number + 1}"] = rates(found)
    has_estimator = task.generator.estimate_energies is not None
    if questions is not None and num_samples >= NUM_DRAWS and has_estimator:
        result[f"picked_of_{NUM_DRAWS}"] = rates(
            picked(task, name, requests, made, np.array(of_draws))
        )
    result["milliseconds_a_sample"] = 1000 * seconds[0] / len(flat)
    result["cpu_milliseconds_a_sample"] = 1000 * seconds[1] / len(flat)
    return result


def picked(
    task: Task, name: str, requests: Any, made: Sequence[Any], of_draws: np.ndarray
) -> np.ndarray:
    """Whether the draw matches that ``--draws`` would hand over."""
    estimate_fn = task.generator.estimate_energies
    energies = estimation.estimate_many(estimate_fn, made)
    energies = energies.reshape(len(requests), -1)[:, :NUM_DRAWS]
    first = [row[:NUM_DRAWS] for row in requests]
    kinds = [
        [f"{each.question.space_group} {each.describe()}" for each in row]
        for row in first
    ]
    probabilities = [[each.probability for each in row] for row in first]
    asked = None
    if name == "energy":
        asked = np.asarray(task.dataset.formation_energy[task.asked], float)
    unit = task.run.picking_unit if name == "energy" else None
    scores = draw_choice.score_draws(
        energies,
        np.array(probabilities),
        np.array(kinds),
        asked,
        unit or draw_choice.DEFAULT_UNIT,
    )
    chosen = draw_choice.choose(scores)
    return of_draws[chosen, np.arange(len(chosen))]


def fits(request: likely_orbits.Request, limits: tuple[int, int]) -> bool:
    """Whether the model has room for its orbits and sites."""
    num_orbits, num_sites = orbit_generation.size_of(request)
    return num_orbits <= limits[0] and num_sites <= limits[1]


def measure_positions(task: Task) -> dict[str, float]:
    """How often the model knows the positions, of a group and an energy."""
    true = task.true_requests()
    # Compiled before it is timed.
    task.model.likely_assignments([true[0].question], 16)
    start = time.process_time()
    likely = task.model.likely_assignments([each.question for each in true], 16)
    seconds = time.process_time() - start
    # As a single sample is chosen.
    single = task.model.likely_assignments(
        [each.question for each in true], 16, least=likely_orbits.LEAST
    )
    right = np.zeros((len(true), 16), bool)
    for row, (request, found) in enumerate(zip(true, likely, strict=True)):
        for column, (_, assignment) in enumerate(found):
            same = dataclasses.replace(request, assignment=assignment)
            right[row, column] = kind_of(same) == kind_of(request)
    seen = are_seen(task)
    return {
        "cpu_milliseconds_a_question": 1000 * seconds / len(true),
        "single_is_the_first": float(
            np.mean([a[0][1] == b[0][1] for a, b in zip(single, likely, strict=True)])
        ),
        "single_is_less_probable": float(
            np.mean(
                [
                    math.exp(b[0][0]) - math.exp(a[0][0])
                    for a, b in zip(single, likely, strict=True)
                ]
            )
        ),
        "right": float(right[:, 0].mean()),
        "right_of_4": float(right[:, :4].any(axis=1).mean()),
        "right_of_16": float(right.any(axis=1).mean()),
        "seen": float(seen.mean()),
        "right_where_seen": float(right[seen, 0].mean()),
        "right_where_unseen": float(right[~seen, 0].mean()),
        **measure_units(task, true),
    }


def measure_units(
    task: Task, true: Sequence[likely_orbits.Request]
) -> dict[str, float]:
    """How often the number of formula units of the primitive cell is the likely one."""
    right, ones = [], []
    for request in true:
        question = request.question
        units = math.gcd(*question.counts)
        unit = np.repeat(question.species, [each // units for each in question.counts])
        found = likely_orbits.likely_units(
            unit, (), task.model.library, task.generator.shapes[-1][1]
        )
        right.append(found == units)
        ones.append(units == 1)
    return {"units_right": float(np.mean(right)), "units_one": float(np.mean(ones))}


def are_seen(task: Task) -> np.ndarray:
    """Whether the prototype of each structure occurs in training."""
    library = task.model.library
    known = {
        (
            int(library.space_groups[i]),
            library.counts[i],
            wyckoff_assignments.canonical(
                int(library.space_groups[i]), library.assignments[i]
            ),
        )
        for i in range(len(library))
    }
    return np.array([kind_of(each) in known for each in task.true_requests()])


def kind_of(request: likely_orbits.Request) -> tuple[Any, ...]:
    """What structures of the same positions have in common."""
    question = request.question
    canonical = wyckoff_assignments.canonical(question.space_group, request.assignment)
    return question.space_group, question.counts, canonical


def breakdown(task: Task, matched: np.ndarray) -> dict[str, dict[str, Any]]:
    """Match rates by size, number of elements, crystal system, and what is known."""
    sites = np.asarray(task.dataset.num_sites)[task.asked].astype(int)
    kinds = {
        "sites": ["1-8" if n <= 8 else "9-20" if n <= 20 else "21-" for n in sites],
        "elements": [str(len(set(t.atomic_numbers.tolist()))) for t in task.targets],
        "system": [system_of(group) for group in task.groups],
        "prototype": np.where(are_seen(task), "seen", "unseen").tolist(),
    }
    result = {}
    for kind, names in kinds.items():
        labels = np.array(names)
        result[kind] = {
            name: {
                "count": int((labels == name).sum()),
                **rates(matched[labels == name]),
            }
            for name in sorted(set(names))
        }
    return result


def failures(task: Task, matched: np.ndarray, first: Any) -> list[dict[str, Any]]:
    """Some that do not match, with their orbits, true and chosen."""
    true = task.true_requests()
    return [
        {
            "id": task.dataset.id[int(task.asked[row])].as_py(),
            "space_group": task.groups[row],
            "true": true[row].describe(),
            "chosen": f"{first[row].question.space_group} {first[row].describe()}",
        }
        for row in np.flatnonzero(~matched)[:20].tolist()
    ]


def nearest_structures(
    task: Task, *, of_group: bool = True
) -> list[structure.Crystal | None]:
    """The nearest training structure of the same formula type, relabelled.

    Args:
        task: what is asked for.
        of_group: of the same group, near in elements and energy; if not, of any group,
            near in elements alone.
    """
    train = orbit_batches.find_usable(
        task.run.config, task.dataset, task.table, "train"
    )
    examples = []
    for index in train.tolist():
        crystal = task.table.crystal(index)
        sites = slice(task.dataset.offsets[index], task.dataset.offsets[index + 1])
        energy = np.asarray(task.dataset.formation_energy[index : index + 1])
        examples.append(
            prototype_library.question_of(
                np.asarray(task.dataset.atomic_numbers[sites]),
                float(np.asarray(task.run.scale.scale_energy(energy))[0]),
                crystal.space_group,
                int(task.table.num_cells[index]),
            )
        )
    from crystaljax.crystals import elements, orbits

    mendeleev = elements.mendeleev_number().astype(float)
    by_key = collections.defaultdict(list)
    for row, question in enumerate(examples):
        by_key[question.counts, question.space_group].append(row)
        by_key[question.counts, 0].append(row)
    crystals: list[structure.Crystal | None] = []
    for request in task.true_requests():
        question = request.question
        group = question.space_group if of_group else 0
        rows = by_key.get((question.counts, group), [])
        if not rows:
            crystals.append(None)
            continue
        numbers = np.array([mendeleev[list(examples[row].species)] for row in rows])
        apart = (numbers - mendeleev[list(question.species)]) / 10
        energies = np.array([examples[row].energy for row in rows])
        squares = np.mean(apart**2, axis=1)
        if of_group:
            squares += (energies - question.energy) ** 2
        row = rows[int(np.argmin(squares))]
        known = task.table.crystal(int(train[row]))
        renamed = dict(zip(examples[row].species, question.species, strict=True))
        new = np.array([renamed[n] for n in known.atomic_numbers.tolist()])
        volumes = np.asarray(task.run.scale.atomic_volumes)
        made = orbits.expand(dataclasses.replace(known, atomic_numbers=new))
        before = orbits.expand(known)
        # As large as its new atoms are.
        factor = np.cbrt(
            volumes[made.atomic_numbers].sum() / volumes[before.atomic_numbers].sum()
        )
        crystals.append(dataclasses.replace(made, lattice=made.lattice * factor))
    return crystals


def measure_nearest(task: Task) -> dict[str, Any]:
    """Match rates of the nearest training structures of the same group."""
    crystals = nearest_structures(task)
    there = np.array([each is not None for each in crystals])
    matched = np.zeros((len(crystals), len(TOLERANCES)), bool)
    matched[there] = matcher.match_many(
        [each for each in crystals if each is not None],
        [target for target, each in zip(task.targets, there, strict=True) if each],
        TOLERANCES,
        num_workers=1,
    ).matched
    return {
        "exists": float(there.mean()),
        "match@1": rates(matched),
        "by": breakdown(task, matched),
    }


def rates(matched: np.ndarray) -> dict[str, Any]:
    """Share at each tolerance, and its standard error."""
    count = max(len(matched), 1)
    means = matched.mean(axis=0) if len(matched) else np.zeros(len(TOLERANCES))
    return {
        str(t): [round(float(m), 4), round(float(np.sqrt(m * (1 - m) / count)), 4)]
        for t, m in zip(TOLERANCES, means, strict=True)
    }


def rms(matches: matcher.Matches) -> dict[str, float]:
    """Mean of those that match."""
    return {
        str(t): round(float(matches.rms[matches.matched[:, i], i].mean()), 4)
        for i, t in enumerate(TOLERANCES)
        if matches.matched[:, i].any()
    }


def system_of(group: int) -> str:
    """Crystal system."""
    names = "triclinic monoclinic orthorhombic tetragonal trigonal hexagonal cubic"
    ends = np.array([2, 15, 74, 142, 167, 194, 230])
    return names.split()[int(np.searchsorted(ends, group))]


if __name__ == "__main__":
    main()
