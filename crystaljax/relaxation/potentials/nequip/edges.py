"""Messages along the edges of a graph, one after another.

Each message is computed where it is used: work and memory follow the number of edges.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from crystaljax.relaxation.potentials import neighbors as neighbor_lists
from crystaljax.relaxation.potentials.nequip import network as networks


def build_convolve(
    network: networks.Network,
    graph: neighbor_lists.Graph,
    vectors: Array,
) -> networks.ConvolveFn:
    """Sums of the messages to the nodes of a graph.

    Args:
        network: with its weights.
        graph: its edges lead from the source, which receives, to the target.
        vectors: (edges, 3), from source to target, Å; not 0.
    """
    distance = jnp.linalg.norm(vectors, axis=-1)
    basis = networks.radial_basis(network, distance) * graph.is_edge[:, None]
    harmonics = networks.spherical_harmonics(network, vectors, distance)
    num_nodes = len(graph.place)

    def convolve(layer, params, x):
        hidden = networks.radial_hidden(layer, params, basis)
        sent = {irrep: features[graph.target] for irrep, features in x.items()}
        sums = []
        paths = zip(layer.paths, layer.couplings, params.weights, strict=True)
        for path, coupling, weight in paths:
            scale = hidden @ jnp.asarray(weight, hidden.dtype)
            y = harmonics[path.edge[0]]
            message = _product(coupling, sent[path.node], y) * scale[:, None]
            sums.append(jax.ops.segment_sum(message, graph.source, num_nodes))
        return sums

    return convolve


def _product(coupling, x: Array, y: Array) -> Array:
    """(edges, m of the result, channels); only what is not 0 is multiplied."""
    parts = []
    for k in range(coupling.shape[2]):
        terms = [
            float(coupling[i, j, k]) * y[:, j, None] * x[:, i]
            for i in range(coupling.shape[0])
            for j in range(coupling.shape[1])
            if coupling[i, j, k]
        ]
        parts.append(sum(terms[1:], start=terms[0]))
    return jnp.stack(parts, 1)
