"""Effective medium theory (EMT), as ASE has it, for batches of crystals on the device.

K. W. Jacobsen, P. Stoltze, J. K. Nørskov, Surf. Sci. 366, 394 (1996); parameters and
cutoffs are those of ``ase.calculators.emt.EMT()``, so that energies, forces and
stresses are ASE's. For alloys of Al, Ni, Cu, Pd, Ag, Pt and Au; H, C, N and O are there
as in ASE, where they are "just for fun".
"""

import math

import ase.data
import jax
import jax.numpy as jnp
import numpy as np
from ase.calculators import emt
from ase.units import Bohr
from jaxtyping import Array

from crystaljax.relaxation.potentials import neighbors as neighbor_lists
from crystaljax.relaxation.potentials import potential

# Those of the largest atom in the table, whichever atoms a crystal has: interactions
# are switched off between the third and the fourth shell of its fcc crystal.
_NEAREST = emt.beta * max(p[1] for p in emt.parameters.values()) * Bohr
_SWITCH = _NEAREST * 0.5 * (math.sqrt(3) + 2)  # Å
_STEEPNESS = math.log(1e4 - 1) / (2 * _NEAREST - _SWITCH)  # 1/Å
CUTOFF = _SWITCH + 0.5  # Å

_SKIN = 0.6  # Å

# Measured on 2 CPU cores: see experiments/batched_relaxation.
_SITES_AT_ONCE = {"cpu": 512, "gpu": 32768}


def build() -> potential.Potential:
    """The potential."""
    numbers = [ase.data.atomic_numbers[symbol] for symbol in emt.parameters]
    return potential.Potential(
        cutoff=CUTOFF,
        skin=_SKIN,
        atomic_numbers=frozenset(numbers),
        sites_at_once=_SITES_AT_ONCE,
        stopped_per_look=0.25,
        pack=neighbor_lists.pack,
        bind=_bind,
    )


def _element_table() -> dict[str, np.ndarray]:
    """Parameter → value by atomic number, Å and eV; 1 where there is no element."""
    names = ("E0", "s0", "V0", "eta2", "kappa", "lambda", "n0", "gamma1", "gamma2")
    table = {name: np.ones(len(ase.data.chemical_symbols)) for name in names}
    shells = np.array([12, 6, 24])  # sites in the first three shells of fcc
    for symbol, (e0, s0, v0, eta2, kappa, lam, n0) in emt.parameters.items():
        number = ase.data.atomic_numbers[symbol]
        s0, eta2, kappa, lam = s0 * Bohr, eta2 / Bohr, kappa / Bohr, lam / Bohr
        r = emt.beta * s0 * np.sqrt([1, 2, 3])
        weight = shells / 12 / (1 + np.exp(_STEEPNESS * (r - _SWITCH)))
        gamma1 = weight @ np.exp(-eta2 * (r - emt.beta * s0))
        gamma2 = weight @ np.exp(-kappa / emt.beta * (r - emt.beta * s0))
        values = (e0, s0, v0, eta2, kappa, lam, n0 / Bohr**3, gamma1, gamma2)
        for name, value in zip(names, values, strict=True):
            table[name][number] = value
    return table


_TABLE = _element_table()


def _bind(
    atomic_numbers: Array, neighbors: neighbor_lists.Neighbors
) -> potential.EnergyFn:
    batch, sites, num_neighbors = neighbors.index.shape
    is_site = atomic_numbers > 0
    listed = neighbor_lists.is_neighbor(neighbors)
    flat = neighbors.index.reshape(batch, sites * num_neighbors)
    other_numbers = jnp.take_along_axis(atomic_numbers, flat, axis=1)
    other_numbers = other_numbers.reshape(neighbors.index.shape)
    # NumPy arrays stay float64 when traced: converted to JAX's default float type.
    own = {
        name: jnp.asarray(values, float)[atomic_numbers]
        for name, values in _TABLE.items()
    }

    def of_other(values: np.ndarray) -> Array:
        return jnp.asarray(values, float)[other_numbers]

    # A neighbour at r adds w(r) χ exp(-η (r - β s0)) to the density at a site, and
    # w(r) χ exp(-κ (r / β - s0)) to its pair sum, with the neighbour's η, κ and s0, and
    # χ = n0(neighbour) / n0(site): exponents linear in r.
    log_chi = of_other(np.log(_TABLE["n0"])) - jnp.log(own["n0"])[..., None]
    density_slope = of_other(_TABLE["eta2"])
    density_start = of_other(_TABLE["eta2"] * emt.beta * _TABLE["s0"]) + log_chi
    pair_slope = of_other(_TABLE["kappa"] / emt.beta)
    pair_start = of_other(_TABLE["kappa"] * _TABLE["s0"]) + log_chi

    def energy_fn(frac_coords: Array, lattice: Array) -> Array:
        x, y, z = neighbor_lists.vectors(neighbors, frac_coords, lattice)
        r = jnp.sqrt(jnp.where(listed, x * x + y * y + z * z, 1.0))
        near = listed & (r < CUTOFF)
        weight = jnp.where(near, jax.nn.sigmoid(_STEEPNESS * (_SWITCH - r)), 0.0)
        density = jnp.sum(weight * jnp.exp(density_start - density_slope * r), axis=-1)
        pairs = jnp.sum(weight * jnp.exp(pair_start - pair_slope * r), axis=-1)

        alone = ~jnp.any(near, axis=-1)
        density = jnp.where(alone, 1.0, density) / (12 * own["gamma1"])
        ds = -jnp.log(density) / (emt.beta * own["eta2"])
        cohesion = own["E0"] * (1 + own["lambda"] * ds) * jnp.exp(-own["lambda"] * ds)
        reference = 6 * own["V0"] * jnp.exp(-own["kappa"] * ds)
        energy = cohesion + reference - 0.5 * own["V0"] / own["gamma2"] * pairs
        # An atom on its own has energy 0 before E0 is taken off.
        energy = jnp.where(alone, 0.0, energy) - own["E0"]
        return jnp.sum(jnp.where(is_site, energy, 0.0), axis=-1)

    return energy_fn
