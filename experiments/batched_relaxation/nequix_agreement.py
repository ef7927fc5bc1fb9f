"""Is Nequix in JAX the package nequix? Energies, forces and stresses of 30 crystals.

    python experiments/batched_relaxation/nequix_agreement.py --work=made \
        --output=experiments/batched_relaxation/nequix_agreement.json

A network of the kind of the published ones with random weights, for 89 elements. What
is compared is in `agreement.py`.
"""

import argparse
import functools
import importlib.metadata
import json
import pathlib

import agreement
import jax
import nequix_package

from crystaljax.relaxation.potentials import nequix

CHANGES = {
    "cutoff": 6.0,
    "atomic_numbers": [*range(1, 84), *range(89, 95)],
    "radial_basis_size": 8,
    "radial_mlp_size": 64,
    "avg_n_neighbors": 57.4,
    "scale": 20.0,
}
MODELS = {
    "as published": nequix_package.LIKE_PUBLISHED
    | {"hidden_irreps": "16x0e + 8x1o + 4x2e + 4x3o"},
}


def main() -> None:
    """Computes everything and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    crystals = agreement.make_crystals()
    result = {
        "num_crystals": len(crystals),
        "step": agreement.STEP,
        "versions": {
            name: importlib.metadata.version(name) for name in nequix_package.PACKAGES
        },
        "models": {},
    }
    for name, config in MODELS.items():
        path = args.work / f"{name}.nqx"
        nequix_package.save(path, config | CHANGES)
        result["models"][name] = measure(path, crystals)
        shown = {k: v for k, v in result["models"][name].items() if k != "crystals"}
        print(name, json.dumps(shown, indent=2), flush=True)
        args.output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def measure(path: pathlib.Path, crystals: dict) -> dict:
    """Differences of a file."""
    network, config = nequix_package.load(path)
    evaluate = functools.partial(nequix_package.evaluate, network, config)

    def in_float64(atoms):
        with jax.enable_x64(True):
            return evaluate(atoms)

    return agreement.measure(nequix.build(path), in_float64, crystals)


if __name__ == "__main__":
    main()
