"""What a potential on the device is, and the derivatives that follow from it.

A potential is an energy, a pure function of fractional coordinates and lattice; forces
and stresses are its derivatives. It sees a batch of crystals in fixed shapes: sites are
padded with atomic number 0, and neighbours are packed as suits the potential.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from crystaljax.relaxation.potentials import neighbors

# (frac_coords (batch, sites, 3), lattice (batch, 3, 3)) → energies (batch,), eV.
EnergyFn = Callable[[Array, Array], Array]
# (lists of the crystals of a batch, None where there is none; sites of each; what it
# gave for the batch before, None at first) → arrays on the host. Never smaller than
# before: another shape is another program.
PackFn = Callable[[Sequence[neighbors.SiteList | None], int, Any], Any]

# What compiling a program costs is worth some padding.
_SITE_COUNTS = (8, 16, 32, 64)


@dataclasses.dataclass(frozen=True, eq=False)
class Room:
    """How a batch is filled where work and memory follow the pairs of neighbours.

    Attributes:
        edges: backend of JAX → edges, padding included, of a batch that suit it.
        bytes_per_edge: memory of the device that an edge takes.
        count: neighbours of each site → edges with padding.
        reserve: (nodes, edges) → what ``pack`` takes for the batch before, so that the
            first is as large.
    """

    edges: dict[str, int]
    bytes_per_edge: float
    count: Callable[[np.ndarray], int]
    reserve: Callable[[int, int], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Potential:
    """A potential for batches of crystals.

    Attributes:
        cutoff: Å; sites farther apart do not see each other.
        skin: Å beyond the cutoff that neighbour lists reach, so that they stay valid
            while sites move a little.
        atomic_numbers: the elements it has parameters for.
        sites_at_once: backend of JAX ("cpu", "gpu") → sites of a batch that suit it.
        stopped_per_look: share of the running crystals that have to stop before the
            host looks: 0 (the first to stop) where a step takes longer than a look.
        pack: makes a batch of neighbour lists, see `PackFn`.
        bind: (atomic numbers (batch, sites), what ``pack`` gave) → `EnergyFn`. What
            depends on neither coordinates nor lattice is computed here, once.
        room: see `Room`; None where work follows the padded sites.
    """

    cutoff: float
    skin: float
    atomic_numbers: frozenset[int]
    sites_at_once: dict[str, int]
    stopped_per_look: float
    pack: PackFn
    bind: Callable[[Array, Any], EnergyFn]
    room: Room | None = None

    @property
    def reach(self) -> float:
        """How far neighbour lists reach, Å."""
        return self.cutoff + self.skin


def padded_sites(num_sites: int, fewest: int = 1) -> int:
    """Number of sites, at least ``fewest``, that arrays for so many are made for."""
    largest, wanted = _SITE_COUNTS[-1], max(num_sites, fewest)
    multiple = -(-wanted // largest) * largest
    return next((n for n in _SITE_COUNTS if n >= wanted), multiple)


def energies_forces_stresses(
    energy_fn: EnergyFn,
    frac_coords: Float[Array, "batch sites 3"],
    lattice: Float[Array, "batch 3 3"],
) -> tuple[
    Float[Array, " batch"], Float[Array, "batch sites 3"], Float[Array, "batch 3 3"]
]:
    """Energies (eV), forces (eV/Å) and stresses (eV/Å³, ASE's sign) of a batch.

    The stress is the derivative by a strain ε of the crystal, ``lattice @ (1 + ε)``, at
    constant fractional coordinates, divided by the volume.
    """

    def total(shift, strain):
        deformed = lattice + lattice @ strain
        # Cartesian shifts of the sites, as fractional ones.
        frac = frac_coords + shift @ jnp.linalg.inv(lattice)
        energies = energy_fn(frac, deformed)
        return jnp.sum(energies), energies

    zeros = jnp.zeros_like(frac_coords), jnp.zeros_like(lattice)
    (_, energies), (gradient, virial) = jax.value_and_grad(
        total, argnums=(0, 1), has_aux=True
    )(*zeros)
    volume = jnp.abs(jnp.linalg.det(lattice))[:, None, None]
    stress = (virial + jnp.swapaxes(virial, -1, -2)) / (2 * volume)
    return energies, -gradient, stress
