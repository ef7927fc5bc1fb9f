"""Cells that are far from their minimum, by ASE's L-BFGS and by the one of batches.

    python experiments/batched_relaxation/far_starts.py --calculator=sevenn:7net-0 \
        --num=60 --output=experiments/batched_relaxation/far_starts.json

The starts are those of `prepare --source=prototypes`: known prototypes with other
elements, as large as the radii say, cells of up to four sites. ASE's optimizer takes
the steps that batches took before they forgot those of negative curvature.
"""

import argparse
import json
import pathlib
import shlex
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
from ase import optimize

from crystaljax.crystals import structure
from crystaljax.data.sources import decorated
from crystaljax.relaxation import ase_relaxation, batches, calculators
from crystaljax.system import atomic_files, environment

SETTINGS = decorated.SETTINGS
MAX_SITES = 4
# Lithium to tungsten.
ELEMENTS = (3, 11, 12, 20, 22, 40, 23, 41, 73, 74, 26, 27, 28, 29, 30, 13, 14, 5, 6, 7)
ELEMENTS += (8, 9, 16, 17)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calculator", default="sevenn:7net-0")
    parser.add_argument("--num", type=int, default=60)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    starts = draw(args.num)
    calculators.build_calculator(args.calculator)
    # What ASE itself does.
    own = dict(ase_relaxation.OPTIMIZERS)
    ase_relaxation.OPTIMIZERS = own | {"LBFGS": optimize.LBFGS}  # type: ignore[misc]
    by_ase = [ase_relaxation.relax(each, args.calculator, SETTINGS) for each in starts]
    ase_relaxation.OPTIMIZERS = own  # type: ignore[misc]
    in_batches = batches.relax_many(starts, args.calculator, SETTINGS)
    both = [
        (a, b)
        for a, b in zip(by_ase, in_batches, strict=True)
        if a.converged and b.converged
    ]
    result = {
        "starts": len(starts),
        "mean_sites": float(np.mean([each.num_sites for each in starts])),
        "ase.optimize.LBFGS": describe(starts, by_ase),
        "batches": describe(starts, in_batches),
        "both_converged": len(both),
        "batches_higher_by_5_meV": count(b.energy > a.energy + 0.005 for a, b in both),
        "batches_lower_by_5_meV": count(b.energy < a.energy - 0.005 for a, b in both),
        "command": shlex.join(["python", *sys.argv]),
        "environment": environment.describe_environment(),
    }
    print(json.dumps({k: v for k, v in result.items() if k != "environment"}, indent=1))
    atomic_files.write_json(args.output, result)


def draw(num: int) -> list[structure.Crystal]:
    """Decorated prototypes, one of each formula."""
    found: list[structure.Crystal] = []
    formulas = decorated.draw_formulas(ELEMENTS, (2, MAX_SITES), 1)
    for number, formula in enumerate(formulas):
        chosen = formula.prototypes[number % len(formula.prototypes)]
        start = decorated.decorate(chosen, formula.species)
        if start is not None:
            found.append(start)
        if len(found) == num:
            break
    return found


def count(flags: Iterable[Any]) -> int:
    """How many are true."""
    return sum(map(bool, flags))


def describe(starts: list[structure.Crystal], relaxed: list[Any]) -> dict[str, Any]:
    """How relaxations ended."""
    swollen = count(
        abs(np.linalg.det(end.crystal.lattice)) > 2 * abs(np.linalg.det(start.lattice))
        for start, end in zip(starts, relaxed, strict=True)
    )
    return {
        "converged": count(each.converged for each in relaxed),
        "failed": count(each.failure for each in relaxed),
        "twice_as_large": swollen,
        "mean_steps": float(np.mean([each.num_steps for each in relaxed])),
    }


if __name__ == "__main__":
    main()
