"""SevenNet potentials under XLA: a batch of crystals as one big graph.

Y. Park et al., J. Chem. Theory Comput. 20, 4857 (2024). Weights come from checkpoints
of the package sevenn, which is not imported and brings PyTorch.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from crystaljax.relaxation.potentials import potential
from crystaljax.relaxation.potentials.nequip import checkpoints, edges, network

# Edges in the skin cost as much as others and add nothing.
_SKIN = 0.3  # Å

# On CPUs small graphs stay in the cache, and few edges wait for the last crystal.
_SITES_AT_ONCE = {"cpu": 64, "gpu": 1024}
_EDGES_AT_ONCE = {"cpu": 2048, "gpu": 65536}


PRETRAINED = tuple(checkpoints.PRETRAINED)
find_pretrained = checkpoints.find_pretrained


def supports(path: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint is of a kind that ``build`` takes.

    Raises:
        ValueError: the file is damaged or no checkpoint of SevenNet.
        OSError: it cannot be read.
    """
    try:
        checkpoints.load(path)
    except checkpoints.AnotherKindError:
        return False
    return True


def build(path: str | os.PathLike[str]) -> potential.Potential:
    """The potential in a checkpoint, for batches of crystals on the device.

    Raises:
        ValueError: the file is no checkpoint that is understood, see
            `checkpoints.load`.
        OSError: it cannot be read.
    """
    return from_network(checkpoints.load(path))


def from_network(net: network.Network) -> potential.Potential:
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
