"""What networks of the NequIP family give for a batch of crystals."""

import jax
import jax.numpy as jnp
import numpy as np

from crystaljax.relaxation.potentials import neighbors, potential
from crystaljax.relaxation.potentials.nequip import batch_potential


def evaluate(net, atoms, dtype="float64"):
    """Energies, forces and stresses of crystals of ASE, in one batch."""
    built = batch_potential.build(net)
    most = max(map(len, atoms)) + 1
    numbers = np.zeros((len(atoms), most), np.int32)
    frac = np.zeros((len(atoms), most, 3))
    lattice = np.stack([np.array(each.cell) for each in atoms])
    lists = []
    for i, each in enumerate(atoms):
        numbers[i, : len(each)] = each.numbers
        frac[i, : len(each)] = each.get_scaled_positions(wrap=False)
        found = each.get_scaled_positions(wrap=False)
        lists.append(neighbors.find(found, lattice[i], built.reach))
    # With room for more edges than there are: whole chunks are not used.
    used = sum(built.room.count(each.count) for each in lists)
    packed = built.pack(lists, most, built.room.reserve(64, used + 1024))

    @jax.jit
    def run(numbers, packed, frac, lattice):
        energy_fn = built.bind(numbers, packed)
        return potential.energies_forces_stresses(energy_fn, frac, lattice)

    with jax.enable_x64(dtype == "float64"):
        inputs = jax.tree.map(
            jnp.asarray, (numbers, packed, frac.astype(dtype), lattice.astype(dtype))
        )
        energies, forces, stresses = jax.device_get(run(*inputs))
    split = [force[: len(each)] for force, each in zip(forces, atoms, strict=True)]
    return list(zip(energies, split, stresses, strict=True))
