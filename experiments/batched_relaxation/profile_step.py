"""Where the time of a step with SevenNet goes, and what limits it.

    python experiments/batched_relaxation/profile_step.py --model=7net-0 \
        --output=experiments/batched_relaxation/profile_7net0.json

A batch as `batches.relax_each` fills it: oxides, metals and salts, until the edges of a
batch are taken. Parts of the energy and its gradient are compiled on their own; the
host's parts are timed as it does them; the peak is that of a matrix product of 1024 in
float32. All in CPU milliseconds of one core.
"""

import argparse
import itertools
import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import ase.build
import jax
import jax.numpy as jnp
import numpy as np

from crystaljax.crystals import bridge
from crystaljax.relaxation import batch_places, minimizers
from crystaljax.relaxation.potentials import neighbors
from crystaljax.relaxation.potentials.nequip import (
    batch_potential,
    edges,
    network,
    sevennet_checkpoints,
)

SITES, PLACES = 32, 16


def main() -> None:
    """Times the parts and writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="7net-0")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--count", action="store_true", help="products; no times")
    parser.add_argument("--output", type=pathlib.Path)
    args = parser.parse_args()
    net = sevennet_checkpoints.load(sevennet_checkpoints.find_pretrained(args.model))
    if args.count:
        print(json.dumps(products_of_an_edge(net)))
        return
    built = batch_potential.build(net)
    room = built.room
    assert room is not None
    crystals = fill(built, room.edges["cpu"])
    batch, lists, host = pack(built, crystals)
    frac, lattice, numbers, packed = batch
    used = sum(room.count(each.count) for each in lists)

    def energy(frac, lattice):
        return jnp.sum(built.bind(numbers, packed)(frac, lattice))

    def geometry(frac, lattice):
        vectors = edges.vectors(packed, frac, lattice)
        flat = vectors.reshape(-1, 3)
        distance = jnp.linalg.norm(flat, axis=-1)
        harmonics = network.spherical_harmonics(net, flat, distance)
        layer = net.layers[2]
        total = jnp.sum(jnp.sin(network.radial_basis(net, distance)))
        for path, coupling in zip(layer.paths, layer.couplings, strict=True):
            num_edge = coupling.shape[1]
            matrix = np.swapaxes(coupling, 0, 1).reshape(num_edge, -1)
            product = harmonics[path.edge[0]] @ jnp.asarray(matrix, jnp.float32)
            total += jnp.sum(jnp.sin(product))
        return total

    def without_messages(frac, lattice):
        place = jnp.minimum(packed.place, PLACES - 1)
        types = jnp.asarray(np.maximum(net.type_of, 0))
        node_type = types[numbers[place, packed.site]]

        def convolve(layer, params, x):
            del params
            # As large as the sums of messages; they depend on positions through one
            # number alone.
            scale = jnp.sum(frac) + jnp.sum(lattice)
            shape = len(packed.place)
            return [
                jnp.broadcast_to(
                    x[path.node][:, :1] * scale,
                    (shape, 2 * path.out[0] + 1, path.channels),
                )
                for path in layer.paths
            ]

        return jnp.sum(network.site_energies(net, node_type, convolve, jnp.float32))

    parts: dict[str, Any] = {}
    flops = {}
    for name, part in (
        ("energy and gradient", energy),
        ("directions of edges", geometry),
        ("nodes: linear layers, gates", without_messages),
    ):
        run = jax.jit(jax.value_and_grad(part, (0, 1))).lower(frac, lattice).compile()
        parts[name] = timed(lambda run=run: run(frac, lattice), args.repeats)
        analysis: Any = run.cost_analysis()
        flops[name] = float(analysis["flops"])
    whole, directions, nodes = parts.values()
    parts["messages along edges"] = round(whole - directions - nodes, 2)
    coords = jnp.zeros((PLACES, SITES + 3, 3), jnp.float32)
    state = jax.vmap(minimizers.init_lbfgs)(coords)
    step = jax.jit(jax.vmap(minimizers.step_lbfgs))
    parts["L-BFGS"] = timed(lambda: step(state, coords, coords + 1), args.repeats)
    square = jnp.ones((1024, 1024), jnp.float32)
    product = jax.jit(jnp.matmul)
    milliseconds = timed(lambda: product(square, square), args.repeats)
    products = sum(products_of_an_edge(net).values())
    result = {
        "model": args.model,
        "crystals": len(crystals),
        "sites": sum(each.num_sites for each in crystals),
        "edges": sum(int(each.count.sum()) for each in lists),
        "edges_with_padding": used,
        "cpu_milliseconds_of_a_step": parts,
        "microseconds_per_edge": round(1000 * whole / used, 1),
        "cpu_milliseconds_of_the_host": host | large_cells(built),
        "products_of_an_edge": products_of_an_edge(net),
        "gflops_per_cpu_second": {
            "matrix product of 1024": round(2 * 1024**3 / milliseconds / 1e6, 1),
            "messages along edges": round(
                used * products / parts["messages along edges"] / 1e6, 1
            ),
        },
    }
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def timed(run: Callable[[], Any], repeats: int) -> float:
    """Median CPU milliseconds of a call, compiled before."""
    jax.block_until_ready(run())
    found = []
    for _ in range(repeats):
        start = time.process_time()
        jax.block_until_ready(run())
        found.append(1000 * (time.process_time() - start))
    return round(statistics.median(found), 2)


def fill(built: Any, num_edges: int) -> list:
    """Crystals, one after the other, while there are edges left."""
    kinds = [
        ase.build.bulk("ThO2", "fluorite", a=5.6),
        ase.build.bulk("MgO", "rocksalt", a=4.2, cubic=True),
        ase.build.bulk("Ti").repeat((2, 1, 1)),
        ase.build.bulk("CsI", "cesiumchloride", a=4.57),
    ]
    found, taken = [], 0
    for number in range(PLACES):
        atoms = kinds[number % len(kinds)].copy()
        atoms.rattle(0.05, seed=number)
        crystal = bridge.from_ase(atoms)
        taken += batch_places.estimate_edges(crystal, built)
        if taken > 0.92 * num_edges:
            break
        found.append(crystal)
    return found


def pack(built: Any, crystals: list) -> tuple[tuple, list, dict[str, float]]:
    """A batch on the device, the lists, and what the host took for them."""
    numbers = np.zeros((PLACES, SITES), np.int32)
    frac = np.zeros((PLACES, SITES, 3), np.float32)
    lattice = np.tile(np.eye(3, dtype=np.float32), (PLACES, 1, 1))
    lists = []
    start = time.process_time()
    for place, crystal in enumerate(crystals):
        count = crystal.num_sites
        numbers[place, :count] = crystal.atomic_numbers
        frac[place, :count] = crystal.frac_coords
        lattice[place] = crystal.lattice
        lists.append(neighbors.find(crystal.frac_coords, crystal.lattice, built.reach))
    listing = 1000 * (time.process_time() - start)
    before = built.room.reserve(128, built.room.edges["cpu"])
    start = time.process_time()
    packed = built.pack(lists + [None] * (PLACES - len(lists)), SITES, before)
    packing = 1000 * (time.process_time() - start)
    batch = jax.tree.map(jnp.asarray, (frac, lattice, numbers, packed))
    host = {
        "neighbour list of a crystal": round(listing / len(crystals), 2),
        "packing a batch": round(packing, 2),
    }
    return batch, lists, host


def large_cells(built: Any) -> dict[str, float]:
    """Neighbour lists of ever larger cells: linear in their sites."""
    found = {}
    for times in (2, 4, 8):
        atoms = ase.build.bulk("MgO", "rocksalt", a=4.2, cubic=True).repeat(times)
        frac, cell = atoms.get_scaled_positions(), np.array(atoms.cell)
        start = time.process_time()
        neighbors.find(frac, cell, built.reach)
        taken = 1000 * (time.process_time() - start)
        found[f"neighbour list of {len(atoms)} sites"] = round(taken, 2)
    return found


def products_of_an_edge(net: network.Network) -> dict[str, float]:
    """Multiplications and additions for an edge: forwards, again, and backwards."""
    radial, tensor = 0, 0
    for layer, params in zip(net.layers, net.params, strict=True):
        hidden = params.radial[-1].shape[1]
        sizes = [params.radial[0].shape[0], *(w.shape[1] for w in params.radial)]
        radial += sum(2 * a * b for a, b in itertools.pairwise(sizes))
        for path in layer.paths:
            node, out = 2 * path.node[0] + 1, 2 * path.out[0] + 1
            radial += path.channels * 2 * hidden
            tensor += path.channels * (node + 2 * node * out)
    # Forwards, once more for the gradient, and two products backwards for each.
    return {"radial networks": 4.0 * radial, "tensor products": 4.0 * tensor}


if __name__ == "__main__":
    main()
