"""Which form of the tensor product is the fastest here, forwards and backwards?

    python experiments/batched_relaxation/tensor_products.py \
        --output=experiments/batched_relaxation/tensor_products.json

A middle layer of SevenNet-0 (15 paths, 128x0e+64x1e+32x2e) on the edges of some
crystals, and the whole network (``--whole``). The forms give the same sums; memory is
what the compiled program sets aside.
"""

import argparse
import functools
import json
import pathlib
import statistics
import time

import ase.build
import jax
import jax.numpy as jnp
import numpy as np

from crystaljax.relaxation.potentials import neighbors
from crystaljax.relaxation.potentials.nequip import (
    batch_potential,
    edges,
    network,
    sevennet_checkpoints,
)

BLOCK = edges._BLOCK


def main() -> None:
    """Times every form, by turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="7net-0")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--whole", action="store_true", help="the whole network")
    parser.add_argument("--forms", help="numbers of some of them, such as 0,1,2")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    net = sevennet_checkpoints.load(sevennet_checkpoints.find_pretrained(args.model))
    blocks, frac, lattice, num_edges = make_graph(net)
    layer, params = net.layers[2], net.params[2]
    params = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), params)
    rng = np.random.default_rng(0)
    channels = {path.node: path.channels for path in layer.paths}
    nodes = len(blocks.place)
    x = {
        irrep: jnp.asarray(rng.normal(size=(nodes, 2 * irrep[0] + 1, c)), jnp.float32)
        for irrep, c in channels.items()
    }
    forms = {
        "blocks, chunks that stay in the cache, recomputed": as_it_is,
        "blocks at once, recomputed": recomputed,
        "blocks at once, kept": blocks_at_once,
        "edge by edge, path by path": by_path,
        "dense over channels": dense,
        "ragged_dot over the edges of a node": ragged,
    }
    if args.forms:
        names = list(forms)
        forms = {names[int(i)]: forms[names[int(i)]] for i in args.forms.split(",")}
    result: dict = {"model": args.model, "whole": args.whole}
    result |= {"edges": num_edges, "slots": blocks.sender.size}
    result |= {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    compiled, first = {}, None
    result["forms"] = {}
    for name, form in forms.items():

        def total(x, frac, form=form):
            vectors = edges.vectors(blocks, frac, lattice)
            if args.whole:
                types = jnp.zeros(nodes, jnp.int32)
                send = functools.partial(form, net, blocks, vectors)
                return jnp.sum(network.site_energies(net, types, send, jnp.float32))
            sums = form(net, blocks, vectors, layer, params, x)
            return sum(jnp.sum(jnp.sin(each)) for each in sums)

        start = time.process_time()
        try:
            run = jax.jit(jax.value_and_grad(total, (0, 1))).lower(x, frac).compile()
            value, gradient = jax.block_until_ready(run(x, frac))
        except Exception as error:
            result["forms"][name] = {"error": f"{type(error).__name__}: {error}"[:300]}
            print(name, result["forms"][name], flush=True)
            continue
        seconds = time.process_time() - start
        first = first or (value, gradient)
        apart = [
            float(jnp.abs(a - b).max())
            for a, b in zip(
                jax.tree.leaves(gradient), jax.tree.leaves(first[1]), strict=True
            )
        ]
        memory = run.memory_analysis()
        result["forms"][name] = {
            "compilation_cpu_seconds": round(seconds, 1),
            "megabytes": round(memory.temp_size_in_bytes / 1e6, 1),
            "gradient_apart": max(apart),
        }
        compiled[name] = run
        print(name, result["forms"][name], flush=True)
    times: dict[str, list[float]] = {name: [] for name in compiled}
    for _ in range(args.repeats):
        for name, run in compiled.items():
            start = time.process_time()
            jax.block_until_ready(run(x, frac))
            times[name].append(1000 * (time.process_time() - start))
    for name, each in times.items():
        result["forms"][name]["cpu_milliseconds"] = round(statistics.median(each), 1)
        print(name, result["forms"][name], flush=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n")


def make_graph(net: network.Network):
    """Three crystals of 8, 14 and 20 sites as one graph."""
    crystals = [
        ase.build.bulk("MgO", "rocksalt", a=4.2, cubic=True),
        ase.build.bulk("ThO2", "fluorite", a=5.6).repeat((1, 1, 4)),
        ase.build.bulk("Ti").repeat((2, 1, 5)),
    ]
    built, lists = batch_potential.build(net), []
    most = max(map(len, crystals))
    frac = np.zeros((len(crystals), most, 3), np.float32)
    for i, atoms in enumerate(crystals):
        atoms.rattle(0.1, seed=i)
        found = atoms.get_scaled_positions()
        frac[i, : len(atoms)] = found
        lists.append(neighbors.find(found, np.array(atoms.cell), built.reach))
    lattice = np.stack([np.array(each.cell) for each in crystals]).astype(np.float32)
    blocks = jax.tree.map(jnp.asarray, built.pack(lists, most, None))
    num_edges = sum(int(each.count.sum()) for each in lists)
    return blocks, jnp.asarray(frac), jnp.asarray(lattice), num_edges


# ------------------------------------------------------------------------------- forms
def as_it_is(net, blocks, vectors, layer, params, x):
    """The form that is in use."""
    return edges.build_convolve(net, blocks, vectors)(layer, params, x)


def recomputed(net, blocks, vectors, layer, params, x):
    """A matrix product for each block of edges and path, twice."""

    @jax.checkpoint
    def run(vectors, params, x):
        return blocks_at_once(net, blocks, vectors, layer, params, x)

    return run(vectors, params, x)


def geometry(net, blocks, vectors):
    """Radial basis (edges, basis) and harmonics of all edges."""
    flat = vectors.reshape(-1, 3)
    distance = jnp.linalg.norm(flat, axis=-1)
    basis = network.radial_basis(net, distance)
    basis = jnp.where(blocks.is_edge.reshape(-1, 1), basis, 0)
    return basis, network.spherical_harmonics(net, flat, distance)


def blocks_at_once(net, blocks, vectors, layer, params, x):
    """A matrix product for each block of edges and path."""
    basis, harmonics = geometry(net, blocks, vectors)
    hidden = network.radial_hidden(layer, params, basis)
    sent = {irrep: f[blocks.sender.reshape(-1)] for irrep, f in x.items()}
    num, sums = len(blocks.node), []
    for path, coupling, weight in zip(
        layer.paths, layer.couplings, params.weights, strict=True
    ):
        node, edge, out = coupling.shape
        matrix = jnp.asarray(np.swapaxes(coupling, 0, 1).reshape(edge, -1), jnp.float32)
        way = (harmonics[path.edge[0]] @ matrix).reshape(num, BLOCK * node, out)
        scaled = sent[path.node] * (hidden @ weight)[:, None]
        scaled = scaled.reshape(num, BLOCK * node, path.channels)
        sums.append(add(blocks, jnp.einsum("bek,beu->bku", way, scaled)))
    return sums


def add(blocks, messages):
    """Sums of messages of blocks over nodes."""
    return jax.ops.segment_sum(
        messages, blocks.node, len(blocks.place), indices_are_sorted=True
    )


def by_path(net, blocks, vectors, layer, params, x):
    """As the package does it: a product for each edge, then the sum."""
    basis, harmonics = geometry(net, blocks, vectors)
    hidden = network.radial_hidden(layer, params, basis)
    sender, target = blocks.sender.reshape(-1), jnp.repeat(blocks.node, BLOCK)
    sums = []
    for path, coupling, weight in zip(
        layer.paths, layer.couplings, params.weights, strict=True
    ):
        coupling = jnp.asarray(coupling, jnp.float32)
        way = jnp.einsum("en,mnk->emk", harmonics[path.edge[0]], coupling)
        product = jnp.einsum("emk,emu->eku", way, x[path.node][sender])
        product = product * (hidden @ weight)[:, None]
        sums.append(jax.ops.segment_sum(product, target, len(blocks.place)))
    return sums


def dense(net, blocks, vectors, layer, params, x):
    """One product for all paths: all components by all components, channels padded."""
    basis, harmonics = geometry(net, blocks, vectors)
    hidden = network.radial_hidden(layer, params, basis)
    sender, target = blocks.sender.reshape(-1), jnp.repeat(blocks.node, BLOCK)
    most = max(path.channels for path in layer.paths)
    starts, rows = {}, 0
    for irrep in x:
        starts[irrep] = rows
        rows += 2 * irrep[0] + 1
    columns = sum(2 * path.out[0] + 1 for path in layer.paths)
    all_harmonics = jnp.concatenate(list(harmonics.values()), axis=1)
    at = np.cumsum([0, *(each.shape[1] for each in harmonics.values())])
    table = np.zeros((all_harmonics.shape[1], rows, columns), np.float32)
    weights, column = [], 0
    for path, coupling, weight in zip(
        layer.paths, layer.couplings, params.weights, strict=True
    ):
        node, edge, out = coupling.shape
        first, row = int(at[path.edge[0]]), starts[path.node]
        table[first : first + edge, row : row + node, column : column + out] = (
            np.swapaxes(coupling, 0, 1)
        )
        padded = jnp.pad(weight, ((0, 0), (0, most - path.channels)))
        weights += [padded] * out
        column += out
    sent = jnp.concatenate(
        [jnp.pad(f, ((0, 0), (0, 0), (0, most - f.shape[2]))) for f in x.values()],
        axis=1,
    )[sender]
    way = jnp.einsum("en,nmk->emk", all_harmonics, table)
    product = jnp.einsum("emk,emu->eku", way, sent)
    product = product * jnp.einsum("eh,khu->eku", hidden, jnp.stack(weights))
    total = jax.ops.segment_sum(product, target, len(blocks.place))
    sums, column = [], 0
    for path in layer.paths:
        out = 2 * path.out[0] + 1
        sums.append(total[:, column : column + out, : path.channels])
        column += out
    return sums


def ragged(net, blocks, vectors, layer, params, x):
    """A matrix product for each node, over as many edges as it has."""
    basis, harmonics = geometry(net, blocks, vectors)
    hidden = network.radial_hidden(layer, params, basis)
    sender, target = blocks.sender.reshape(-1), jnp.repeat(blocks.node, BLOCK)
    counts = jnp.bincount(target, length=len(blocks.place))
    numbers = jax.lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(((0,), (0,)), ((), ())),
        lhs_ragged_dimensions=[0],
        rhs_group_dimensions=[],
    )
    sums = []
    for path, coupling, weight in zip(
        layer.paths, layer.couplings, params.weights, strict=True
    ):
        node, edge, out = coupling.shape
        matrix = jnp.asarray(np.swapaxes(coupling, 0, 1).reshape(edge, -1), jnp.float32)
        way = (harmonics[path.edge[0]] @ matrix).reshape(-1, out)
        scaled = x[path.node][sender] * (hidden @ weight)[:, None]
        sums.append(
            jax.lax.ragged_dot_general(
                way,
                scaled.reshape(-1, path.channels),
                (counts * node).astype(jnp.int32),
                numbers,
            )
        )
    return sums


if __name__ == "__main__":
    main()
