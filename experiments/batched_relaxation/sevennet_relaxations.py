"""Relaxations with SevenNet in batches: the same minima as ASE's, and how much faster.

    python experiments/batched_relaxation/sevennet_relaxations.py --calculator=sevenn \
        --starts=noise --crystals=made/samples.extxyz --every=3 --work=made/noise_l3i5 \
        --output=experiments/batched_relaxation/sevennet_noise_l3i5.json

Crystals of 2 to 20 sites (``--crystals``: any file that ASE reads; if there is none,
samples of the model of the package are written there) are relaxed with their cells to
0.05 eV/Å, as they are or from noisy starts: one at a time by ASE with the package
sevenn, and in batches, by turns in one process: a part of the former, all of the
latter, and so on. What ASE has relaxed is kept in the folder ``--work``, and an
interrupted run goes on.
"""

import argparse
import json
import pathlib
import platform
import statistics
import time

import ase.io
import generated
import jax
import numpy as np
import threadpoolctl

from crystaljax.crystals import bridge, elements, structure
from crystaljax.matching import matcher
from crystaljax.relaxation import ase_relaxation, batches


def main() -> None:
    """Relaxes both ways and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calculator", default="sevenn")
    parser.add_argument("--starts", choices=("generated", "noise"), default="noise")
    parser.add_argument("--crystals", type=pathlib.Path, required=True)
    parser.add_argument("--num_crystals", type=int, default=100)
    parser.add_argument("--every", type=int, default=1, help="of these each n-th")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    crystals = generated.load(args.crystals, args.num_crystals, min_sites=2)
    if args.starts == "noise":
        crystals = [generated.distort(each, i) for i, each in enumerate(crystals)]
    crystals = crystals[:: args.every]
    args.work.mkdir(parents=True, exist_ok=True)
    # For others, such as torch_sim_relaxations.py.
    starts = [bridge.to_ase(each) for each in crystals]
    ase.io.write(args.work / "starts.extxyz", starts)
    with threadpoolctl.threadpool_limits(1):
        alone, batched, times = relax_by_turns(
            crystals, args.calculator, args.work, args.turns
        )
    result = {
        "calculator": args.calculator,
        "starts": args.starts,
        "num_crystals": len(crystals),
        "num_sites": sum(each.num_sites for each in crystals),
        "settings": vars(ase_relaxation.PRESETS["default"]),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        **times,
        **compare(crystals, alone, batched),
    }
    args.output.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "others"}, indent=2))
    for other in result["others"]:
        print(other)


def relax_by_turns(
    crystals: list[structure.Crystal], calculator: str, work: pathlib.Path, turns: int
) -> tuple[list[ase_relaxation.Relaxation], list[ase_relaxation.Relaxation], dict]:
    """Relaxations one at a time and in batches, and their times."""
    settings = ase_relaxation.PRESETS["default"]

    def in_batches():
        cpu, wall = time.process_time(), time.perf_counter()
        relaxed = batches.relax_many(crystals, calculator, settings)
        return relaxed, time.process_time() - cpu, time.perf_counter() - wall

    batched, first_cpu, first_wall = in_batches()  # and compiles
    print(f"batches: {first_cpu:.1f} s of CPU with compilation", flush=True)
    ase_relaxation.relax(crystals[0], calculator, settings)  # loads what it needs
    alone, cpu, cpu_of_batches, wall_of_batches = [], [], [], []
    for part in np.array_split(np.arange(len(crystals)), turns):
        for i in part.tolist():
            relaxed, seconds = relax_alone(crystals[i], calculator, work / f"{i}.npz")
            alone.append(relaxed)
            cpu.append(seconds)
        _, seconds, wall = in_batches()
        cpu_of_batches.append(seconds)
        wall_of_batches.append(wall)
        print(
            f"one by one: {sum(cpu):.1f} s of CPU for {len(cpu)} crystals", flush=True
        )
        print(f"batches: {seconds:.1f} s of CPU for all", flush=True)
    warm = statistics.median(cpu_of_batches)
    steps = [sum(each.num_steps for each in done) for done in (alone, batched)]
    return (
        alone,
        batched,
        {
            "cpu_seconds": {"one by one": sum(cpu), "batches": cpu_of_batches},
            "wall_seconds_of_batches": wall_of_batches,
            "first_batches": {"cpu_seconds": first_cpu, "wall_seconds": first_wall},
            "steps": {"one by one": steps[0], "batches": steps[1]},
            "times_as_fast_in_cpu_seconds": round(sum(cpu) / warm, 2),
            "times_as_fast_with_compilation": round(sum(cpu) / first_cpu, 2),
            "times_as_fast_per_step": round(sum(cpu) / steps[0] / (warm / steps[1]), 2),
        },
    )


def relax_alone(
    crystal: structure.Crystal, calculator: str, path: pathlib.Path
) -> tuple[ase_relaxation.Relaxation, float]:
    """Relaxation by ASE, and its CPU seconds; from the file if it is there."""
    if not path.exists():
        cpu = time.process_time()
        relaxed = ase_relaxation.relax(crystal, calculator)
        np.savez(
            path,
            frac_coords=relaxed.crystal.frac_coords,
            lattice=relaxed.crystal.lattice,
            energy=relaxed.energy,
            max_force=relaxed.max_force,
            num_steps=relaxed.num_steps,
            converged=relaxed.converged,
            failure=relaxed.failure,
            cpu_seconds=time.process_time() - cpu,
        )
    found = np.load(path)
    relaxed = ase_relaxation.Relaxation(
        structure.Crystal(
            crystal.atomic_numbers, found["frac_coords"], found["lattice"]
        ),
        float(found["energy"]),
        float(found["max_force"]),
        int(found["num_steps"]),
        bool(found["converged"]),
        str(found["failure"]),
    )
    return relaxed, float(found["cpu_seconds"])


def compare(
    crystals: list[structure.Crystal],
    alone: list[ase_relaxation.Relaxation],
    batched: list[ase_relaxation.Relaxation],
) -> dict:
    """How the two ended: energies, and whether the matcher calls them equal."""
    matches = matcher.match_many(
        [each.crystal for each in batched],
        [each.crystal for each in alone],
        (matcher.TOLERANCES["paper"],),
        num_workers=1,
    )
    same = 0
    others, differences = [], []
    rows = zip(crystals, alone, batched, matches.matched[:, 0], strict=True)
    for i, (crystal, one, other, matched) in enumerate(rows):
        difference = 1000 * (other.energy - one.energy)
        both_failed = bool(one.failure) and bool(other.failure)
        if both_failed or (abs(difference) < 1 and matched):
            same += 1
            differences.append(abs(difference))
            continue
        others.append(
            {
                "crystal": i,
                "formula": elements.cell_formula(crystal.atomic_numbers),
                "matched": bool(matched),
                "mev_per_atom_above_ase": round(difference, 3),
                "steps": [one.num_steps, other.num_steps],
                "converged": [one.converged, other.converged],
                "failures": [one.failure, other.failure],
            }
        )
    return {
        "converged": {
            "one by one": sum(each.converged for each in alone),
            "batches": sum(each.converged for each in batched),
        },
        "same_minimum": same,
        "median_mev_per_atom_apart": round(float(np.nanmedian(differences)), 4),
        "others": others,
    }


if __name__ == "__main__":
    main()
