"""The same relaxations by torch-sim, with the same SevenNet, on the same CPU.

    python3.12 -m venv torch_sim && . torch_sim/bin/activate
    pip install torch torch-sim-atomistic sevenn
    python experiments/batched_relaxation/torch_sim_relaxations.py \
        --starts=made/noise/starts.extxyz --model=7net-0 \
        --output=experiments/batched_relaxation/torch_sim_noise_7net0.json

In an environment of its own, of Python 3.12, without crystaljax: the starts are those
that ``sevennet_relaxations.py`` writes into its folder. Cells and sites to 0.05 eV/Å,
with ASE's cell filter, L-BFGS and FIRE, batches of several sizes that are refilled as
crystals converge.
"""

import argparse
import json
import pathlib
import platform
import time
import warnings

import ase.io
import torch
import torch_sim
from torch_sim.models.sevennet import SevenNetModel

FMAX, MAX_STEPS = 0.05, 500


def main() -> None:
    """Relaxes in each way and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=pathlib.Path, required=True)
    parser.add_argument("--model", default="7net-l3i5")
    parser.add_argument("--optimizers", default="lbfgs,fire")
    parser.add_argument("--atoms_at_once", default="64,256")
    parser.add_argument("--num_crystals", type=int, default=100)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    atoms = ase.io.read(args.starts, ":")[: args.num_crystals]
    model = SevenNetModel(model=args.model, device="cpu", dtype=torch.float32)
    result = {
        "model": args.model,
        "num_crystals": len(atoms),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_sim": torch_sim.__version__,
        "ways": {},
    }
    relax(atoms[:2], model, "lbfgs", 64)  # loads what it needs
    for optimizer in args.optimizers.split(","):
        for at_once in map(int, args.atoms_at_once.split(",")):
            name = f"{optimizer}, {at_once} atoms at once"
            result["ways"][name] = relax(atoms, model, optimizer, at_once)
            shown = {k: v for k, v in result["ways"][name].items() if k != "energies"}
            print(name, json.dumps(shown), flush=True)
            args.output.write_text(json.dumps(result, indent=1) + "\n")


def relax(atoms: list, model, optimizer: str, at_once: int) -> dict:
    """Relaxes all; CPU seconds, and how they ended."""
    converged_fn = torch_sim.generate_force_convergence_fn(
        FMAX, include_cell_forces=True
    )
    evaluations = 0

    def count(state, last_energy=None):
        nonlocal evaluations
        evaluations += state.n_systems
        return converged_fn(state, last_energy)

    cpu, wall = time.process_time(), time.perf_counter()
    state = torch_sim.optimize(
        atoms,
        model,
        optimizer=torch_sim.Optimizer(optimizer),
        convergence_fn=count,
        max_steps=MAX_STEPS,
        steps_between_swaps=1,
        autobatcher=torch_sim.InFlightAutoBatcher(
            model, memory_scales_with="n_atoms", max_memory_scaler=at_once
        ),
        init_kwargs={"cell_filter": torch_sim.CellFilter.frechet},
    )
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    energies = (state.energy / state.n_atoms_per_system).tolist()
    return {
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "steps_of_crystals": evaluations,
        "converged": int(converged_fn(state).sum()),
        "energies": energies,
    }


if __name__ == "__main__":
    main()
