"""The estimator of energies that goes along with a model of orbits.

The flow on orbits says where sites lie; what energy the crystal has is estimated from
its sites by `energy_estimator`, a network of its own that is trained once, before the
flow.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from crystaljax.models.networks import encoders, energy_estimator

_WIDTH, _NUM_HEADS, _PAIR_FEATURES, _DROPOUT = 128, 4, 32, 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class OrbitEstimator:
    """A trained estimator.

    Attributes:
        params: of `build_network`.
        depth: number of its blocks.
    """

    params: Any
    depth: int


def build_network(depth: int) -> energy_estimator.EnergyEstimator:
    """The network, with ``depth`` blocks."""
    return energy_estimator.EnergyEstimator(
        _WIDTH, depth, _NUM_HEADS, _PAIR_FEATURES, _DROPOUT
    )


def element_table() -> jax.Array:
    """What the network is given of each atomic number."""
    return jnp.asarray(encoders.element_features("scaled"))


@functools.lru_cache(maxsize=16)
def build_estimate_fn(depth: int) -> Callable[..., jax.Array]:
    """Compiles ``(params, scale, atomic_numbers, frac_coords, lattice)`` → energies.

    In eV/atom. The same function for the same depth: it is compiled once.
    """
    network = build_network(depth)

    def estimate(params, scale, atomic_numbers, frac_coords, lattice):
        numbers = jnp.asarray(atomic_numbers).astype(jnp.int32)
        table = element_table()
        found: Any = network.apply(params, numbers, frac_coords, lattice, table)
        return scale.unscale_energy(found)

    return jax.jit(estimate)
