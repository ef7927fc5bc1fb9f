"""Networks of the package nequix with random weights, and what it computes with them.

    python experiments/batched_relaxation/nequix_package.py --output=tests/data

Its own weights are downloads, and the layout of a file does not depend on what the
weights are. Written are small files, as the package saves them, and its energies,
forces and stresses in float64: what tests compare with, without the package. Needs
nequix 0.4.5 (``pip install nequix``).
"""

import argparse
import importlib.metadata
import json
import pathlib
from typing import Any

import ase
import ase.build
import equinox  # type: ignore[import-not-found]
import jax
import jraph  # type: ignore[import-not-found]
import numpy as np
from nequix import data, model  # type: ignore[import-not-found]

# What the published models are, but for their size; and what they are not.
LIKE_PUBLISHED: dict[str, Any] = {
    "cutoff": 4.0,
    "atomic_numbers": [29, 8, 11, 17],
    "hidden_irreps": "4x0e + 3x1o + 2x2e + 2x3o",
    "lmax": 3,
    "n_layers": 4,
    "radial_basis_size": 5,
    "radial_mlp_size": 6,
    "radial_mlp_layers": 2,
    "radial_polynomial_p": 6.0,
    "mlp_init_scale": 4.0,
    "index_weights": False,
    "layer_norm": True,
    "shift": 0.2,
    "scale": 5.0,
    "avg_n_neighbors": 17.3,
    "kernel": True,
    "learning_rate": 0.01,
}
OTHERWISE: dict[str, Any] = LIKE_PUBLISHED | {
    "hidden_irreps": "4x0e + 2x1o",
    "lmax": 2,
    "n_layers": 3,
    "radial_mlp_layers": 3,
    "radial_polynomial_p": 2.0,
    "index_weights": True,
    "layer_norm": False,
}
PACKAGES = ("nequix", "e3nn-jax", "equinox", "jax")


def main() -> None:
    """Writes the files that tests read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    result: dict[str, Any] = {
        "made_by": "experiments/batched_relaxation/nequix_package.py",
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "units": "Å, eV, eV/Å, eV/Å³",
        "networks": {},
    }
    for name, config in (("published", LIKE_PUBLISHED), ("other", OTHERWISE)):
        path = args.output / f"nequix_{name}.nqx"
        save(path, config)
        rows = result["networks"][path.name] = {}
        for title, atoms in crystals().items():
            energy, forces, stress = evaluate(*load(path), atoms)
            rows[title] = {
                "symbols": str(atoms.symbols),
                "cell": np.array(atoms.cell).tolist(),
                "positions": atoms.positions.tolist(),
                "energy": energy,
                "forces": forces.tolist(),
                "stress": stress.tolist(),
            }
    path = args.output / "nequix_reference.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def crystals() -> dict[str, ase.Atoms]:
    """A skewed, a thin, an empty and a crowded cell."""
    close = ase.build.bulk("NaCl", "rocksalt", a=5.6).repeat((1, 1, 2))
    close.rattle(0.1, seed=1)
    close.positions[1] = close.positions[0] + [0.3, 0.4, 0]
    return {
        "skewed": ase.Atoms(
            "NaClO",
            cell=[[3.1, 0, 0], [1.9, 3.3, 0], [-1.2, 0.8, 4.4]],
            scaled_positions=[[0.1, 0.2, 0.3], [0.6, 0.6, 0.7], [0.3, 0.9, 0.1]],
            pbc=True,
        ),
        "thin": ase.Atoms("Cu", cell=[2.3, 2.4, 9.0], pbc=True),
        "alone": ase.Atoms("O", cell=[9.5, 9.0, 10.0], pbc=True),
        "close": close,
    }


def save(path: pathlib.Path, config: dict[str, Any], seed: int = 0) -> None:
    """A network with random weights, in float32 as trained ones are."""
    arguments = {k: v for k, v in config.items() if k not in NOT_OF_THE_NETWORK}
    with jax.enable_x64(False):
        keys = jax.random.split(jax.random.key(seed), 3)
        count = len(config["atomic_numbers"])
        network = model.Nequix(
            keys[0],
            n_species=count,
            atom_energies=jax.random.normal(keys[1], (count,)) - 3,
            kernel=False,
            **arguments,
        )
        # They are all 1 before training.
        weights, rest = equinox.partition(network, equinox.is_inexact_array)
        leaves, tree = jax.tree.flatten(weights)
        keys = jax.random.split(keys[2], len(leaves))
        leaves = [
            leaf + 0.3 * jax.random.normal(key, leaf.shape)
            if (leaf == 1).all()
            else leaf
            for key, leaf in zip(keys, leaves, strict=True)
        ]
        network = equinox.combine(jax.tree.unflatten(tree, leaves), rest)
        model.save_model(str(path), network, config)


NOT_OF_THE_NETWORK = ("atomic_numbers", "kernel", "learning_rate")


def load(path: pathlib.Path) -> tuple[Any, dict[str, Any]]:
    """Network, in float64, and configuration of a file, by the package."""
    with jax.enable_x64(False):
        network, config = model.load_model(str(path))
    with jax.enable_x64(True):
        exact = jax.tree.map(
            lambda leaf: leaf.astype(float) if equinox.is_inexact_array(leaf) else leaf,
            network,
        )
    return exact, config


def evaluate(network: Any, config: dict[str, Any], atoms: ase.Atoms):
    """Energy (eV), forces (eV/Å) and stress (3, 3) (eV/Å³) in float64."""
    indices = data.atomic_numbers_to_indices(config["atomic_numbers"])
    graph = data.preprocess_graph(atoms, indices, config["cutoff"], False)
    # It rounds them to float32.
    graph |= {"positions": atoms.positions, "cell": np.array(atoms.cell)}
    graph["shifts"] = graph["shifts"].astype(float)
    graph = data.dict_to_graphstuple(graph)
    # What it pads with, it expects.
    nodes, edges = len(atoms) + 1, len(graph.senders) + 1
    graph = jraph.pad_with_graphs(graph, nodes + -nodes % 8, edges + -edges % 512, 2)
    energy, forces, stress = equinox.filter_jit(network)(graph)
    forces, stress = np.asarray(forces)[: len(atoms)], np.asarray(stress[0])
    return float(energy[0]), forces, stress


if __name__ == "__main__":
    main()
