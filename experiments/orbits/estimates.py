"""How near are the estimated energies of a model of orbits to those of the data set?

    python experiments/orbits/estimates.py --workdir=mp --dataset=data/mp \
        --output=experiments/orbits/mp_estimates.json

Held-out structures as they are, beside what the model expects of their formulas alone;
and how much estimates count where one of several draws is picked (`calibration`), by
the validation split.
"""

import argparse
import json
import pathlib
import shlex
import sys
import time

import numpy as np

from crystaljax.data import dataset as datasets
from crystaljax.models import prototype_library
from crystaljax.sampling import build as build_sampling
from crystaljax.sampling import calibration, estimation
from crystaljax.system import atomic_files, environment, sharding
from crystaljax.training import checkpoints, runs


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    mesh = sharding.build_local_mesh()
    run = checkpoints.load_run(args.workdir, mesh)
    config = runs.load_config(args.workdir)
    generator = build_sampling.generator_of_run(run, config, mesh)
    dataset = datasets.open_dataset(args.dataset)
    indices = dataset.indices(args.split)
    crystals = [datasets.crystal(dataset, int(index)) for index in indices]
    true = np.asarray(dataset.formation_energy[indices], float)
    assert generator.estimate_energies is not None
    start = time.process_time()
    estimated = estimation.estimate_many(generator.estimate_energies, crystals)
    seconds = time.process_time() - start
    questions = [
        prototype_library.question_of(each.atomic_numbers, np.nan) for each in crystals
    ]
    likely = generator.positions.likely_energies(questions).astype(float)
    likely = likely * float(run.scale.energy_scale) + float(run.scale.energy_mean)
    elements = np.array([len(set(each.atomic_numbers.tolist())) for each in crystals])
    result = {
        "num_structures": len(crystals),
        "estimated": describe(estimated - true),
        "expected_of_the_formula": describe(likely - true),
        "estimated_by_elements": {
            str(n): describe((estimated - true)[elements == n])
            for n in sorted(set(elements.tolist()))
        },
        "picking_unit": calibration.find_unit(config, generator, dataset),
        "cpu_milliseconds_a_structure": 1000 * seconds / len(crystals),
        "command": shlex.join(["python", *sys.argv]),
        "environment": environment.describe_environment(),
    }
    atomic_files.write_json(args.output, result)
    shown = {name: value for name, value in result.items() if name != "environment"}
    print(json.dumps(shown, indent=1))


def describe(apart: np.ndarray) -> dict[str, float]:
    """Errors, eV/atom: mean and its standard error, median, and where 68 % end."""
    errors = np.abs(apart)
    return {
        "count": len(errors),
        "mean": round(float(errors.mean()), 4),
        "standard_error": round(float(errors.std() / len(errors) ** 0.5), 4),
        "median": round(float(np.median(errors)), 4),
        "68_percent_within": round(float(np.quantile(errors, 0.683)), 4),
        "largest": round(float(errors.max()), 3),
    }


if __name__ == "__main__":
    main()
