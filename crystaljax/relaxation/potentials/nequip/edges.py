"""Messages along the edges of a graph, in blocks of edges that end at one node.

Products of features and the sum over the edges of a block are one matrix product: what
depends on the directions of the edges, (results, edges × components), with what is
sent along them, (edges × components, channels). Work and memory follow the edges.

On CPUs blocks are taken some at a time, which stay in the cache, and no more of them
than there are: padding costs little. What is sent along edges is computed again for the
gradient; the sums alone are kept.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from crystaljax.relaxation.potentials import neighbors as neighbor_lists
from crystaljax.relaxation.potentials.nequip import irreps
from crystaljax.relaxation.potentials.nequip import network as networks

# Edges of a block: more fill less of the last block of each node.
_BLOCK = 8
# Blocks that a CPU takes at a time. 8 to 64 are equally fast; all at once, and kept for
# the gradient, takes 2.1 times as long (experiments/batched_relaxation).
_CHUNK = 16


@flax.struct.dataclass
class Blocks:
    """Sites of a batch of crystals as nodes, with their edges in blocks.

    Attributes:
        place: int32 (nodes,), the crystal of a node; that after the last for padding.
        site: int32 (nodes,), its place among the sites of the crystal.
        node: int32 (blocks,), the node that the edges of a block end at; ascending.
        sender: int32 (blocks, edges), where they come from.
        offset: int8 (blocks, edges, 3), the lattice vectors to the sender's image.
        is_edge: bool (blocks, edges), False for padding.
    """

    place: Any
    site: Any
    node: Any
    sender: Any
    offset: Any
    is_edge: Any


def pack(
    lists: Sequence[neighbor_lists.SiteList | None],
    num_sites: int,
    before: Blocks | None = None,
) -> Blocks:
    """Lists of several crystals → one graph, arrays on the host.

    Args:
        lists: one per crystal; None for a place without one.
        num_sites: that sites are padded to elsewhere; means nothing here.
        before: the graph before this; no larger than this one will be.
    """
    del num_sites
    places: list[Any] = [np.zeros(0)]
    sites: list[Any] = [np.zeros(0)]
    parts: list[Any] = [(np.zeros(0), np.zeros((0, _BLOCK)), np.zeros((0, _BLOCK, 3)))]
    masks = [np.zeros((0, _BLOCK), bool)]
    num_nodes = 0
    for place, one in enumerate(lists):
        if one is None:
            continue
        count = len(one.count)
        site, sender, offset, is_edge = _blocks(one)
        parts.append((site + num_nodes, sender + num_nodes, offset))
        masks.append(is_edge)
        places.append(np.full(count, place))
        sites.append(np.arange(count))
        num_nodes += count
    node, sender, offset = (np.concatenate(each) for each in zip(*parts, strict=True))
    nodes = neighbor_lists.capacity(num_nodes + 1, before and before.place)
    blocks = _whole_chunks(neighbor_lists.capacity(len(node), before and before.node))

    def padded(values, size, padding, dtype):
        array = np.full((size, *values.shape[1:]), padding, dtype)
        array[: len(values)] = values
        return array

    return Blocks(
        place=padded(np.concatenate(places), nodes, len(lists), np.int32),
        site=padded(np.concatenate(sites), nodes, 0, np.int32),
        node=padded(node, blocks, nodes - 1, np.int32),
        sender=padded(sender, blocks, nodes - 1, np.int32),
        offset=padded(offset, blocks, 0, np.int8),
        is_edge=padded(np.concatenate(masks), blocks, False, bool),
    )


def reserve(num_nodes: int, num_edges: int) -> Blocks:
    """A graph without edges that is as large as one of so many; see ``pack``."""
    blocks = _whole_chunks(-(-num_edges // _BLOCK))
    return Blocks(
        place=np.zeros(num_nodes, np.int32),
        site=np.zeros(num_nodes, np.int32),
        node=np.zeros(blocks, np.int32),
        sender=np.zeros((blocks, _BLOCK), np.int32),
        offset=np.zeros((blocks, _BLOCK, 3), np.int8),
        is_edge=np.zeros((blocks, _BLOCK), bool),
    )


def _whole_chunks(num_blocks: int) -> int:
    return num_blocks if num_blocks < _CHUNK else -(-num_blocks // _CHUNK) * _CHUNK


def count(neighbors: np.ndarray) -> int:
    """Edges, padding included, of sites with so many neighbours each."""
    return int(np.sum(-(-neighbors // _BLOCK)) * _BLOCK)


def bytes_per_edge(network: networks.Network, itemsize: int = 4) -> float:
    """Memory that an edge takes: its directions for each path, with their gradients.

    Also its share of the sums of its block, those of all layers with their gradients.
    """
    paths = {path for layer in network.layers for path in layer.paths}
    directed = sum((2 * p.node[0] + 1) * (2 * p.out[0] + 1) for p in paths)
    sums = sum(
        (2 * path.out[0] + 1) * path.channels
        for layer in network.layers
        for path in layer.paths
    )
    return float(2 * itemsize * (directed + sums / _BLOCK))


def _blocks(
    one: neighbor_lists.SiteList,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Site (blocks,), neighbours (blocks, edges), offsets, which are neighbours."""
    num_sites, most = one.index.shape
    per_site = -(-most // _BLOCK)
    width = per_site * _BLOCK
    listed = np.arange(width) < one.count[:, None]
    index = np.zeros((num_sites, width), np.int32)
    index[:, :most] = one.index
    offset = np.zeros((num_sites, width, 3), np.int8)
    offset[:, :most] = np.moveaxis(one.offset, 0, -1)
    listed = listed.reshape(num_sites, per_site, _BLOCK)
    used = listed.any(axis=2)
    site = np.nonzero(used)[0]
    index = np.where(listed, index.reshape(listed.shape), site_of(listed))[used]
    return site, index, offset.reshape(*listed.shape, 3)[used], listed[used]


def site_of(listed: np.ndarray) -> np.ndarray:
    """The site itself, where padding comes from."""
    return np.broadcast_to(np.arange(len(listed))[:, None, None], listed.shape)


def vectors(blocks: Blocks, frac_coords: Array, lattice: Array) -> Array:
    """From nodes to the senders of their edges: (blocks, edges, 3), Å; never 0.

    Args:
        blocks: the graph.
        frac_coords: (crystals, sites, 3).
        lattice: (crystals, 3, 3), Å.
    """
    dtype = frac_coords.dtype
    # Padding nodes are beyond the last place.
    place = jnp.minimum(blocks.place, len(lattice) - 1)
    frac = frac_coords[place, blocks.site]
    apart = frac[blocks.sender] - frac[blocks.node][:, None]
    found = (apart + blocks.offset.astype(dtype)) @ lattice[place[blocks.node]]
    # The direction of an edge without length has no derivative.
    return jnp.where(blocks.is_edge[..., None], found, jnp.array([1, 0, 0], dtype))


def build_convolve(
    network: networks.Network, blocks: Blocks, edge_vectors: Array
) -> networks.ConvolveFn:
    """Sums of the messages to the nodes of a graph.

    Args:
        network: with its weights.
        blocks: the graph.
        edge_vectors: from ``vectors``.
    """
    num_blocks, width, _ = edge_vectors.shape
    flat = edge_vectors.reshape(num_blocks * width, 3)
    distance = jnp.linalg.norm(flat, axis=-1)
    basis = networks.radial_basis(network, distance)
    basis = jnp.where(blocks.is_edge.reshape(-1, 1), basis, 0)
    harmonics = networks.spherical_harmonics(network, flat, distance)
    on_cpu = jax.default_backend() == "cpu"
    chunk = min(_CHUNK, num_blocks) if on_cpu else num_blocks

    def chunks(values: Array) -> Array:
        """(chunks, …): of edges or blocks, first axis."""
        return values.reshape(num_blocks // chunk, -1, *values.shape[1:])

    senders, bases = chunks(blocks.sender.reshape(-1)), chunks(basis)

    def directions(path: irreps.Path, coupling: np.ndarray) -> Array:
        """(blocks, edges × components of the node, components of the result)."""
        num_node, num_edge, num_out = coupling.shape
        matrix = np.swapaxes(coupling, 0, 1).reshape(num_edge, num_node * num_out)
        product = harmonics[path.edge[0]] @ jnp.asarray(matrix, flat.dtype)
        return product.reshape(num_blocks, width * num_node, num_out)

    # The same for all layers that have the path: computed once.
    known = {
        path: chunks(directions(path, coupling))
        for layer in network.layers
        for path, coupling in zip(layer.paths, layer.couplings, strict=True)
    }

    num_used = -(-jnp.sum(blocks.is_edge[:, 0]) // chunk)

    def convolve(layer, params, x):
        def send(x, params, edges):
            """Sums over each block of a chunk, a path each."""
            sender, (basis, directed) = edges
            hidden = networks.radial_hidden(layer, params, basis)
            sent = {irrep: features[sender] for irrep, features in x.items()}
            sums = []
            for path, weight, way in zip(
                layer.paths, params.weights, directed, strict=True
            ):
                scaled = sent[path.node] * (hidden @ weight)[:, None]
                scaled = scaled.reshape(chunk, -1, path.channels)
                sums.append(jnp.einsum("bek,beu->bku", way, scaled))
            return sums

        directed = [known[path] for path in layer.paths]
        edges = senders, (bases, directed)
        messages = _map_used(send, num_used, x, params, edges)
        return [
            jax.ops.segment_sum(
                each.reshape(num_blocks, *each.shape[2:]),
                blocks.node,
                len(blocks.place),
                indices_are_sorted=True,
            )
            for each in messages
        ]

    return convolve


def _map_used(
    send_fn: Callable[..., list[Array]],
    num_used: Array,
    x: networks.Features,
    params: networks.LayerParams,
    edges: tuple[Array, Any],
) -> list[Array]:
    """``send_fn(x, params, chunk)`` of the first chunks; 0 for the others.

    The derivatives are those by ``x`` and what in ``edges`` depends on positions.

    Args:
        send_fn: gives a list of arrays.
        num_used: chunks that are wanted.
        x: features of the nodes.
        params: weights.
        edges: (senders, what depends on positions), both with the chunks in front.
    """

    def at(tree, i):
        return jax.tree.map(lambda leaf: leaf[i], tree)

    def put(tree, i, values):
        return jax.tree.map(lambda leaf, new: leaf.at[i].set(new), tree, values)

    @jax.custom_vjp
    def run(x, directed, num_used, params, senders):
        shapes = jax.eval_shape(send_fn, x, params, at((senders, directed), 0))
        num_chunks = len(senders)
        empty = [jnp.zeros((num_chunks, *s.shape), s.dtype) for s in shapes]

        def step(i, sums):
            return put(sums, i, send_fn(x, params, (senders[i], at(directed, i))))

        return jax.lax.fori_loop(0, num_used, step, empty)

    def forwards(*inputs):
        return run(*inputs), inputs

    def backwards(inputs, cotangents):
        x, directed, num_used, params, senders = inputs

        def step(i, gradients):
            def send(x, directed):
                return send_fn(x, params, (senders[i], directed))

            _, pull = jax.vjp(send, x, at(directed, i))
            of_x, of_directed = pull(at(cotangents, i))
            by_x, by_directed = gradients
            return jax.tree.map(jnp.add, by_x, of_x), put(by_directed, i, of_directed)

        zeros = jax.tree.map(jnp.zeros_like, (x, directed))
        # Integers and weights have none.
        return *jax.lax.fori_loop(0, num_used, step, zeros), None, None, None

    run.defvjp(forwards, backwards)
    senders, directed = edges
    return run(x, directed, num_used, params, senders)
