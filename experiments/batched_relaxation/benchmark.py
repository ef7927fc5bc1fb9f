"""How much faster are crystals relaxed in batches in JAX than one by one through ASE?

    python experiments/batched_relaxation/benchmark.py --num_crystals=200

relaxes the same crystals, cell and sites, with ASE's optimizer one at a time and with
`crystaljax.relaxation.batches`, by turns in one run, with EMT and with a TensorNet, and
writes ``result.json`` beside this script; ``--output`` says where else.
"""

import argparse
import json
import pathlib
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
import threadpoolctl

from crystaljax.crystals import structure
from crystaljax.data.sources import emt as alloys
from crystaljax.relaxation import ase_relaxation, batches

RESULT_PATH = pathlib.Path(__file__).with_name("result.json")
METALS = (28, 29, 46, 47, 78, 79)
# Å³ per atom of the fcc metals: the exchanged metals are given their room.
VOLUMES = dict(zip(METALS, (10.9, 11.8, 14.7, 17.1, 15.1, 17.0), strict=True))
FMAX = 0.05  # eV/Å
MAX_STEPS = 200
# A network of random weights has no minima to speak of: these many steps, whatever.
TENSORNET_STEPS = 20


def main() -> None:
    """Relaxes both ways and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_crystals", type=int, default=200)
    parser.add_argument("--num_tensornet_crystals", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, default=RESULT_PATH)
    args = parser.parse_args()
    crystals = make_crystals(args.num_crystals, args.seed)
    sites = [crystal.num_sites for crystal in crystals]
    result = {
        "num_crystals": len(crystals),
        "num_sites": {str(n): sites.count(n) for n in sorted(set(sites))},
        "fmax": FMAX,
        "max_steps": MAX_STEPS,
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "emt": compare_emt(crystals),
    }
    if args.num_tensornet_crystals:
        result["tensornet"] = compare_tensornet(crystals[: args.num_tensornet_crystals])
    args.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def make_crystals(num_crystals: int, seed: int) -> list[structure.Crystal]:
    """Built-in alloys of 2-8 sites with other metals, strained and distorted.

    As far from a minimum as crystals that a network generated: metals exchanged at
    random, strains of 4 %, displacements of 0.1 Å (standard deviation of a component).
    """
    rng = np.random.default_rng(seed)
    small = [r.crystal for r in alloys.load_builtin() if 2 <= r.crystal.num_sites <= 8]
    made = []
    for i in rng.choice(len(small), num_crystals, replace=False):
        exchange = dict(zip(METALS, rng.permutation(METALS), strict=True))
        numbers = np.array([exchange[int(n)] for n in small[i].atomic_numbers])
        volume = sum(VOLUMES[int(n)] for n in numbers)
        lattice = small[i].lattice
        lattice = lattice * (volume / np.linalg.det(lattice)) ** (1 / 3)
        strain = rng.normal(scale=0.04, size=(3, 3))
        lattice = lattice @ (np.eye(3) + (strain + strain.T) / 2)
        shift = rng.normal(scale=0.1, size=(len(numbers), 3)) @ np.linalg.inv(lattice)
        frac_coords = small[i].frac_coords + shift
        made.append(structure.Crystal(numbers, frac_coords, lattice))
    return made


def compare_emt(crystals: Sequence[structure.Crystal]) -> dict:
    """EMT: L-BFGS one by one against L-BFGS and FIRE in batches."""
    settings = {
        optimizer: ase_relaxation.RelaxationSettings(
            fmax=FMAX, max_steps=MAX_STEPS, optimizer=optimizer
        )
        for optimizer in ("LBFGS", "FIRE")
    }
    return compare(
        crystals,
        "emt",
        settings["LBFGS"],
        {
            "batched": (settings["LBFGS"], {}),
            "batched FIRE": (settings["FIRE"], {}),
            "batched float64": (settings["LBFGS"], {"dtype": "float64"}),
            "batched 16 at once": (settings["LBFGS"], {"batch_size": 16}),
            "batched 200 at once": (settings["LBFGS"], {"batch_size": 200}),
        },
    )


def compare_tensornet(crystals: Sequence[structure.Crystal]) -> dict:
    """A TensorNet of the size of matgl's pretrained ones, with random weights."""
    settings = ase_relaxation.RelaxationSettings(fmax=1e-9, max_steps=TENSORNET_STEPS)
    with tempfile.TemporaryDirectory() as folder:
        save_tensornet(folder)
        return compare(
            crystals,
            f"matgl:{folder}",
            settings,
            {"batched": (settings, {"dtype": "float32"})},
        )


def save_tensornet(folder: str) -> None:
    """Saves a potential of 64 channels, 2 blocks and 5 Å, as matgl's are."""
    import torch
    from matgl.apps.pes import Potential
    from matgl.models import TensorNet

    torch.manual_seed(0)
    model = TensorNet(
        element_types=("Ni", "Cu", "Pd", "Ag", "Pt", "Au"),
        units=64,
        nblocks=2,
        num_rbf=32,
        cutoff=5.0,
        is_intensive=False,
        use_warp=False,
    )
    # Untrained, it hardly depends on the positions: scaled to forces of some 0.1 eV/Å.
    Potential(model=model, data_std=40.0, element_refs=np.zeros(6)).save(folder)


def compare(
    crystals: Sequence[structure.Crystal],
    calculator: str,
    settings: ase_relaxation.RelaxationSettings,
    ways: dict[str, tuple[ase_relaxation.RelaxationSettings, dict]],
) -> dict:
    """One by one against in batches, in several ways.

    The machine may be busier now than then: the crystals go one by one in two halves,
    with each way before, between and after them. The median counts.
    """

    def one_by_one(some):
        with threadpoolctl.threadpool_limits(1):
            return [
                ase_relaxation.relax(crystal, calculator, settings) for crystal in some
            ]

    def in_batches(name):
        way, kwargs = ways[name]
        found = dict(batches.relax_each(crystals, calculator, way, **kwargs))
        return [found[i] for i in range(len(crystals))]

    first = {name: timed(in_batches, name) for name in ways}  # and compile
    one_by_one(crystals[:2])
    half = len(crystals) // 2
    times: dict[str, list] = {name: [] for name in ways}
    halves = []
    for part in (None, crystals[:half], crystals[half:]):
        if part is not None:
            halves.append(timed(one_by_one, part))
        for name in ways:
            times[name].append(timed(in_batches, name)[1:])
    alone = halves[0][0] + halves[1][0]
    wall, cpu = (halves[0][k] + halves[1][k] for k in (1, 2))
    report = {"one by one": summary(alone, wall, cpu)}
    for name in ways:
        relaxed, cold = first[name][:2]
        warm = statistics.median(wall for wall, _ in times[name])
        warm_cpu = statistics.median(cpu for _, cpu in times[name])
        report[name] = summary(relaxed, warm, warm_cpu) | {
            "seconds_of_compilation": round(cold - warm, 1),
            "times_as_fast": round(wall / warm, 1),
            "times_as_fast_in_cpu_seconds": round(cpu / warm_cpu, 1),
            "against_one_by_one": differences(alone, relaxed),
        }
    return report


def timed(fn: Callable, argument) -> tuple:
    """(result, wall seconds, CPU seconds of this process)."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = fn(argument)
    return result, time.perf_counter() - wall, time.process_time() - cpu


def summary(relaxed: list[ase_relaxation.Relaxation], wall: float, cpu: float) -> dict:
    """Speed, and how the relaxations ended."""
    return {
        "seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "crystals_per_second": round(len(relaxed) / wall, 1),
        "converged": sum(one.converged for one in relaxed),
        "failed": sum(one.failure != "" for one in relaxed),
        "mean_steps": round(float(np.mean([one.num_steps for one in relaxed])), 1),
    }


def differences(
    alone: list[ase_relaxation.Relaxation], batched: list[ase_relaxation.Relaxation]
) -> dict:
    """Final energies in batches less those one by one, where both ended alike."""
    both = [
        1000 * (ours.energy - theirs.energy)
        for theirs, ours in zip(alone, batched, strict=True)
        if ours.converged == theirs.converged and not ours.failure + theirs.failure
    ]
    percentiles = (0, 5, 25, 50, 75, 95, 100)
    return {
        "compared": len(both),
        "within_1_mev_per_atom": round(float(np.mean(np.abs(both) < 1)), 3),
        "percentiles_mev_per_atom": {
            str(p): round(float(np.percentile(both, p)), 3) for p in percentiles
        },
    }


if __name__ == "__main__":
    main()
