"""A NequIP network as a potential: a batch of crystals is one big graph."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from crystaljax.relaxation.potentials import potential
from crystaljax.relaxation.potentials.nequip import edges, network

# Edges in the skin cost as much as others and add nothing.
_SKIN = 0.3  # Å

# On CPUs small graphs stay in the cache, and few edges wait for the last crystal.
_SITES_AT_ONCE = {"cpu": 64, "gpu": 1024}
_EDGES_AT_ONCE = {"cpu": 2048, "gpu": 65536}


def build(net: network.Network) -> potential.Potential:
    """The potential of a network, for batches of crystals on the device."""

    def bind(atomic_numbers: Array, blocks: edges.Blocks) -> potential.EnergyFn:
        batch = len(atomic_numbers)
        # Padding nodes are beyond the last place: energies that nobody reads.
        place = jnp.minimum(blocks.place, batch - 1)
        types = jnp.asarray(np.maximum(net.type_of, 0))
        node_type = types[atomic_numbers[place, blocks.site]]

        def energy_fn(frac_coords: Array, lattice: Array) -> Array:
            vectors = edges.vectors(blocks, frac_coords, lattice)
            convolve = edges.build_convolve(net, blocks, vectors)
            energies = network.site_energies(
                net, node_type, convolve, frac_coords.dtype
            )
            return jax.ops.segment_sum(energies, blocks.place, batch + 1)[:batch]

        return energy_fn

    return potential.Potential(
        cutoff=net.envelope.cutoff,
        skin=_SKIN,
        atomic_numbers=frozenset(np.flatnonzero(net.type_of >= 0).tolist()),
        sites_at_once=_SITES_AT_ONCE,
        stopped_per_look=0.0,
        pack=edges.pack,
        bind=bind,
        room=potential.Room(
            edges=_EDGES_AT_ONCE,
            bytes_per_edge=edges.bytes_per_edge(net),
            count=edges.count,
            reserve=edges.reserve,
        ),
    )
