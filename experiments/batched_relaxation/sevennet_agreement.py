"""Is SevenNet in JAX the package sevenn? Energies, forces and stresses of 30 crystals.

    python experiments/batched_relaxation/sevennet_agreement.py \
        --output=experiments/batched_relaxation/sevennet_agreement.json

What is compared is in `agreement.py` (``--crystals``: any file that ASE reads).
"""

import argparse
import functools
import json
import pathlib
import warnings

import agreement
import ase.io
import numpy as np
import sevenn._keys as keys
import torch
from sevenn.atom_graph_data import AtomGraphData
from sevenn.train.dataload import unlabeled_atoms_to_graph
from sevenn.util import model_from_checkpoint

from crystaljax.relaxation.potentials import sevennet

MODELS = ("7net-0", "7net-l3i5")


def main() -> None:
    """Computes everything and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crystals", type=pathlib.Path)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.crystals:
        crystals = ase.io.read(args.crystals, ":")
        names = [f"{i} {each.symbols}" for i, each in enumerate(crystals)]
        crystals = dict(zip(names, crystals, strict=True))
    else:
        crystals = agreement.make_crystals()
    result = {"num_crystals": len(crystals), "step": agreement.STEP, "models": {}}
    for name in args.models.split(","):
        result["models"][name] = measure(name, crystals)
        shown = {k: v for k, v in result["models"][name].items() if k != "crystals"}
        print(name, json.dumps(shown, indent=2), flush=True)
        args.output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def measure(name: str, crystals: dict[str, ase.Atoms]) -> dict:
    """Differences of a checkpoint."""
    path = sevennet.find_pretrained(name)
    built = sevennet.build(path)
    model = model_from_checkpoint(str(path))[0].eval().double()
    model.set_is_batch_data(False)
    evaluate = functools.partial(by_package, model, built.cutoff)
    return agreement.measure(built, evaluate, crystals)


def by_package(model, cutoff: float, atoms: ase.Atoms):
    """Energy (eV), forces (eV/Å), stress (eV/Å³) in float64."""
    graph = unlabeled_atoms_to_graph(atoms, cutoff)
    exact = {k: torch.tensor(graph[k]) for k in (keys.EDGE_VEC, keys.CELL_VOLUME)}
    data = AtomGraphData.from_numpy_dict(graph)
    for key, value in exact.items():
        data[key] = value
    # Its one-hot elements are float32 whatever the weights are.
    single = torch.Tensor.float
    torch.Tensor.float = torch.Tensor.double
    try:
        output = model(data)
    finally:
        torch.Tensor.float = single
    energy, forces, stress = (
        output[key].detach().numpy()
        for key in (keys.PRED_TOTAL_ENERGY, keys.PRED_FORCE, keys.PRED_STRESS)
    )
    xx, yy, zz, xy, yz, zx = -stress.reshape(6)
    return float(energy), forces, np.array([[xx, xy, zx], [xy, yy, yz], [zx, yz, zz]])


if __name__ == "__main__":
    main()
