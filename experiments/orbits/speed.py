"""Final crystals per second: models of orbits beside draws that are mended and picked.

    python experiments/orbits/speed.py --workdir=mp --peer=runs/best --dataset=data/mp \
        --num_structures=200 --repeats=3 --output=experiments/orbits/speed.json

Both are asked for the same held-out structures by formula, space group and energy, and
timed from these conditions to crystals on the host, in turns, with everything that
makes a sample final: ``--peer`` is a run of `configs/best.py`, which draws eight
crystals for each, projects them onto the space group and picks one. Compiled before.
Also the cost of samples by orbits and sites.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import measure
import numpy as np

from crystaljax.data import dataset as datasets
from crystaljax.matching import matcher
from crystaljax.sampling import build as build_sampling
from crystaljax.sampling import (
    collective_generation,
    conditions,
    estimation,
    generation,
    likely_orbits,
    orbit_generation,
)
from crystaljax.system import atomic_files, environment, sharding
from crystaljax.training import checkpoints, runs

# Samples of one size, to see what a sample costs.
_OF_ONE_SIZE = 512


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--peer", type=pathlib.Path, required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--num_structures", type=int, default=200)
    parser.add_argument("--max_sites", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    task = measure.load_task(
        args.workdir, args.dataset, 3 * args.num_structures, max_sites=args.max_sites
    )
    parts = np.array_split(np.random.default_rng(0).permutation(task.asked), 3)
    task = dataclasses.replace(task, asked=parts[0])
    asked, *others = (
        conditions.conditions_of(datasets.gather(task.dataset, part, args.max_sites))
        for part in parts
    )
    contenders = {
        "orbits": of_run(args.workdir, asked),
        "peer": of_run(args.peer, asked, task.dataset),
    }
    result: dict[str, Any] = {"num_structures": len(task.asked)}
    seconds = collections.defaultdict(list)
    for number in range(args.repeats + 1):
        for name, run in contenders.items():
            start, cpu = time.perf_counter(), time.process_time()
            made = run(number)
            took = time.perf_counter() - start, time.process_time() - cpu
            # The first compiles.
            if number:
                seconds[name].append(took)
            elif name not in result:
                matches = matcher.match_many(
                    made, task.targets, measure.TOLERANCES, num_workers=1
                )
                result[name] = {"match@1": measure.rates(matches.matched)}
    for name, found in seconds.items():
        wall, cpu = np.median(found, axis=0).tolist()
        result[name] |= {
            "crystals_per_second": len(task.asked) / wall,
            "crystals_per_cpu_second": len(task.asked) / cpu,
            "seconds": [round(each, 3) for each, _ in found],
        }
    for kind, column in (("ratio", 0), ("ratio_of_cpu_seconds", 1)):
        pairs = zip(seconds["peer"], seconds["orbits"], strict=True)
        result[kind] = float(np.median([b[column] / a[column] for b, a in pairs]))
    result["positions"] = cost_of_positions(task.generator, others)
    result["by_size"] = cost_by_size(task)
    result |= {
        "command": shlex.join(["python", *sys.argv]),
        "environment": environment.describe_environment(),
    }
    print(json.dumps(result, indent=1))
    atomic_files.write_json(args.output, result)


def of_run(
    workdir: pathlib.Path,
    asked: conditions.Conditions,
    dataset: datasets.Dataset | None = None,
) -> Callable[[int], list[Any]]:
    """The sampling of a run, by the seed."""
    mesh = sharding.build_local_mesh()
    run, config = checkpoints.load_run(workdir, mesh), runs.load_config(workdir)
    generator = build_sampling.generator_of_run(run, config, mesh)
    if dataset is not None and generator.estimate_energies is not None:
        error = estimation.measure_error(generator.estimate_energies, dataset)
        generator = generator.with_params(generator.params, error)

    def sample(seed: int) -> list[Any]:
        return collective_generation.generate(
            generator, asked, generation.key_of_seed(seed)
        )

    return sample


def cost_of_positions(
    generator: Any, parts: Sequence[conditions.Conditions]
) -> dict[str, float]:
    """CPU milliseconds of finding a question's positions, the first time and again.

    The turns ask the same questions again, of which the process knows some tables. The
    first of the parts compiles.
    """
    for part in parts:
        found = []
        for _ in range(3):
            cpu = time.process_time()
            generator.choose(part)
            found.append(1000 * (time.process_time() - cpu) / len(part))
    return {"first": found[0], "again": float(np.mean(found[1:]))}


def cost_by_size(task: measure.Task) -> list[dict[str, Any]]:
    """Milliseconds of CPU time a sample, by orbits and sites of its arrays."""
    by_size = collections.defaultdict(list)
    shapes = task.generator.shapes
    for request in task.true_requests():
        size = orbit_generation.size_of(request)
        shape = next(s for s in shapes if size[0] <= s[0] and size[1] <= s[1])
        by_size[shape].append(request)
    found = []
    for shape, requests in sorted(by_size.items()):
        cycled = [requests[i % len(requests)] for i in range(_OF_ONE_SIZE)]
        flat = likely_orbits.number_repeats(cycled)
        generator = dataclasses.replace(task.generator, batch_size=128)
        generator.generate(flat[:128], jax.random.key(0))
        start = time.process_time()
        generator.generate(flat, jax.random.key(0))
        seconds = time.process_time() - start
        sizes = np.array([orbit_generation.size_of(each) for each in cycled])
        found.append(
            {
                "arrays": list(shape),
                "mean_orbits": float(sizes[:, 0].mean()),
                "mean_sites": float(sizes[:, 1].mean()),
                "cpu_milliseconds_a_sample": 1000 * seconds / len(flat),
            }
        )
    return found


if __name__ == "__main__":
    main()
