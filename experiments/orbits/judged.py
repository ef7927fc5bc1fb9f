"""Does a potential that judges draws find the right crystal more often?

    python experiments/orbits/judged.py --workdir=runs/symmetric --judge=sevenn:7net-0 \
        --num_structures=100 --max_sites=20 --work=judged --output=judged.json

Held-out structures are asked for by their formulas alone (``formula``), or with space
group and energy (``energy``). Of each so many draws are made and relaxed in batches;
what `sample --judge` hands over is compared with the structure, beside the first draw,
the choice of the model's own estimator and the best of all draws, as drawn and as
relaxed. With an energy asked for two choices are compared: nearest to it, and the
lowest. Relaxations are kept in the folder
``--work``, and an interrupted run goes on.
"""

import argparse
import dataclasses
import json
import pathlib
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import jax
import measure
import numpy as np

from crystaljax.crystals import structure, validity
from crystaljax.hull import energy_scale
from crystaljax.matching import matcher
from crystaljax.relaxation import ase_relaxation, batches, kept, pretrained, references
from crystaljax.sampling import draw_choice, estimation, judging, likely_orbits
from crystaljax.system import atomic_files, environment

NOT_NOW = "not relaxed yet"
# Of misfits in energy that are weighed beside probabilities, eV/atom.
UNIT = 0.05


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--dataset")
    parser.add_argument("--split", default="test")
    parser.add_argument("--judge", default="sevenn")
    parser.add_argument("--draws", type=int, default=judging.DEFAULT_DRAWS)
    parser.add_argument("--num_structures", type=int, default=300)
    parser.add_argument("--max_sites", type=int, default=20)
    parser.add_argument("--questions", default="formula,energy")
    parser.add_argument(
        "--mp2020", action="store_true", help="the energies asked for have corrections"
    )
    parser.add_argument(
        "--only_kept",
        action="store_true",
        help="relax nothing: structures all of whose draws an earlier run relaxed",
    )
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    task = measure.load_task(
        args.workdir,
        args.dataset,
        args.num_structures,
        split=args.split,
        max_sites=args.max_sites,
    )
    args.work.mkdir(parents=True, exist_ok=True)
    judge = judging.Judge(args.judge, args.draws, wants_low=True)
    energy_model = pretrained.MP_PBE if args.mp2020 else ""
    result = {
        "num_structures": len(task.asked),
        "mean_sites": float(np.mean([t.num_sites for t in task.targets])),
        "draws": args.draws,
        "judge": args.judge,
        "runs": {},
        "command": shlex.join(["python", *sys.argv]),
        "environment": environment.describe_environment(),
    }
    for name in args.questions.split(","):
        result["runs"][name] = run(
            task, name, judge, args.work, args.only_kept, energy_model
        )
        print(json.dumps({name: result["runs"][name]}, indent=1), flush=True)
        atomic_files.write_json(args.output, result)


def run(
    task: measure.Task,
    name: str,
    judge: judging.Judge,
    work: pathlib.Path,
    only_kept: bool,
    energy_model: str,
) -> dict:
    """Match rates of one kind of question."""
    each = judge.num_draws
    drawn, flat, seconds = draw(task, name, each)
    cpu = time.process_time()
    path = work / f"{name}.jsonl"
    if only_kept:
        relaxed, _ = kept.relax(drawn, path, not_now)
    else:
        relaxed = judging.relax(drawn, judge, path, show_progress=True)
    counted = np.array([one.failure != NOT_NOW for one in relaxed])
    counted = counted.reshape(-1, each).all(axis=1)
    relaxing = time.process_time() - cpu
    total, formation = energies(relaxed, judge, energy_model).T
    total, formation = total.reshape(-1, each), formation.reshape(-1, each)
    kinds = np.array([f"{r.question.space_group} {r.describe()}" for r in flat])
    orbits = (
        np.array([request.probability for request in flat]).reshape(-1, each),
        kinds.reshape(-1, each),
    )
    scores = {
        "lowest": -total,
        "lowest, weighed by probability": draw_choice.score_draws(
            total, *orbits, None, draw_choice.DEFAULT_UNIT
        ),
    }
    asked = None
    if name == "energy":
        asked = np.asarray(task.dataset.formation_energy[task.asked], float)
        scores["nearest"] = -abs(formation - asked[:, None])
        scores["nearest, weighed by probability"] = draw_choice.score_draws(
            formation, *orbits, asked, UNIT
        )
    if task.generator.estimate_energies is not None:
        estimated = estimation.estimate_many(task.generator.estimate_energies, drawn)
        unit = (asked is not None and task.run.picking_unit) or draw_choice.DEFAULT_UNIT
        scores["estimator"] = draw_choice.score_draws(
            estimated.reshape(-1, each), *orbits, asked, unit
        )
    choices = {how: draw_choice.choose(found) for how, found in scores.items()}
    targets = [target for target in task.targets for _ in range(each)]
    after = [one.crystal for one in relaxed]
    sizes = np.array([target.num_sites for target in task.targets])
    result: dict = {
        "num_structures": int(counted.sum()),
        "mean_sites": float(np.mean(sizes[counted])),
        "cpu_seconds_a_sample": {
            "drawing": seconds / len(task.asked),
            "relaxing": relaxing / len(task.asked),
        },
        "steps": sum(one.num_steps for one in relaxed),
        "failed": sum(one.problem != "" for one in relaxed),
        "converged": sum(one.converged for one in relaxed),
    }
    for state, crystals in (("as drawn", drawn), ("relaxed", after)):
        found = matcher.match_many(
            crystals, targets, measure.TOLERANCES, num_workers=1
        ).matched.reshape(-1, each, len(measure.TOLERANCES))
        rows = np.arange(len(found))
        result[state] = {
            "first": rates(found[counted, 0]),
            **{
                how: rates(found[rows, chosen][counted])
                for how, chosen in choices.items()
            },
            "best": rates(found[counted].any(axis=1)),
        }
    if asked is not None:
        # Of relaxed draws that are right at the wider tolerances.
        off = (formation - asked[:, None])[found[..., 0]]
        result["energies_of_right_draws_off"] = {
            "mean": float(np.nanmean(off)),
            "deviation": float(np.nanstd(off)),
            "mean_absolute": float(np.nanmean(np.abs(off))),
        }
    result["first_is_lowest"] = float(np.mean(choices["lowest"][counted] == 0))
    return result


def not_now(
    waiting: Mapping[int, structure.Crystal],
) -> Iterator[tuple[int, ase_relaxation.Relaxation, str]]:
    """Relaxes nothing."""
    for i, crystal in waiting.items():
        why = validity.find_relaxation_problem(crystal) or NOT_NOW
        nothing = ase_relaxation.Relaxation(crystal, np.nan, np.nan, 0, False, why)
        yield i, nothing, ""


def draw(
    task: measure.Task, name: str, each: int
) -> tuple[list[structure.Crystal], list[likely_orbits.Request], float]:
    """Draws of all structures, those of one together; orbits; CPU seconds."""
    questions = task.questions()[name]
    requests = likely_orbits.choose_orbits(
        task.model, questions, [each] * len(questions), shape=task.generator.shapes[-1]
    )
    true = task.true_requests()
    # What the model does not hold counts as another crystal: it has one site here.
    missing = [not row for row in requests]
    requests = [row or [own] * each for row, own in zip(requests, true, strict=True)]
    flat = likely_orbits.number_repeats([one for row in requests for one in row])
    cpu = time.process_time()
    made = task.generator.generate(flat, jax.random.key(0))
    nothing = structure.Crystal(np.array([1]), np.zeros((1, 3)), 9 * np.eye(3))
    made = [
        nothing if missing[i // each] else crystal for i, crystal in enumerate(made)
    ]
    return made, flat, time.process_time() - cpu


def energies(
    relaxed: Sequence[ase_relaxation.Relaxation],
    judge: judging.Judge,
    energy_model: str,
) -> np.ndarray:
    """Total ones, and against the elements of the judge's own potential, eV/atom."""
    numbers = sorted({int(n) for one in relaxed for n in one.crystal.atomic_numbers})
    crystals = {n: references.reference_crystals(judge.calculator, n) for n in numbers}
    owners = [n for n, some in crystals.items() for _ in some]
    flat = [crystal for some in crystals.values() for crystal in some]
    settings = dataclasses.replace(judging.SETTINGS, fmax=5e-3)
    of_elements: dict[int, float] = {}
    for n, one in zip(
        owners, batches.relax_many(flat, judge.calculator, settings), strict=True
    ):
        if not one.failure:
            of_elements[n] = min(one.energy, of_elements.get(n, np.inf))
    scale = energy_scale.EnergyScale(
        judge.calculator, of_elements, judge.adds_corrections(energy_model)
    )
    return np.array([judging.appraise(one, scale)[:2] for one in relaxed])


def rates(matched: np.ndarray) -> dict[str, float]:
    """Match rate at each tolerance."""
    values = matched.mean(axis=0).round(4).tolist()
    names = [str(each) for each in measure.TOLERANCES]
    return dict(zip(names, values, strict=True))


if __name__ == "__main__":
    main()
