"""Relaxation within a space group: forces and stress averaged over its operations.

From a crystal that has its symmetry exactly, symmetric steps lead to crystals that have
it too. Steps of L-BFGS and FIRE are sums of gradients, so that it is enough to project
these, in coordinates of the undeformed cell (those of ASE's ``FrechetCellFilter``). One
at a time and in batches that is the same matrix. ASE's ``FixSymmetry`` does it step by
step instead, and gives up where a cell changes much, as those of samples do.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from crystaljax.crystals import structure, symmetrization, symmetry_search

# Å: what the samples' space groups are found with, and what is left after averaging.
SYMPREC = 0.1
_EXACT = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Projection:
    """What a gradient is multiplied by.

    Attributes:
        sites: on the rows of all sites, one after the other.
        cell: on the three rows of the cell.
    """

    sites: Float[np.ndarray, "coords coords"]
    cell: Float[np.ndarray, "9 9"]

    def apply(self, rows: Float[np.ndarray, "rows 3"]) -> Float[np.ndarray, "rows 3"]:
        """Projects forces on sites, and on the cell where there are three more rows."""
        num_sites = len(self.sites) // 3
        parts = [(self.sites @ rows[:num_sites].ravel()).reshape(-1, 3)]
        if len(rows) > num_sites:
            parts.append((self.cell @ rows[num_sites:].ravel()).reshape(3, 3))
        return np.concatenate(parts)


def symmetrize(crystal: structure.Crystal) -> structure.Crystal:
    """The crystal with exactly the symmetry that it has within `SYMPREC`."""
    return symmetrization.symmetrize(crystal, SYMPREC)


def build(crystal: structure.Crystal) -> Projection:
    """Projection on the operations of a crystal from `symmetrize`."""
    num_sites = crystal.num_sites
    found = symmetry_search.find_symmetry(crystal, _EXACT)
    if found is None:
        return Projection(np.eye(3 * num_sites), np.eye(9))
    lattice = np.asarray(crystal.lattice, dtype=float)
    inverse = np.linalg.inv(lattice)
    coords = np.asarray(crystal.frac_coords, dtype=float)
    numbers = np.asarray(crystal.atomic_numbers)
    is_other = numbers[:, None] != numbers
    sites = np.zeros((num_sites, 3, num_sites, 3))
    cell = np.zeros((9, 9))
    for rotation, translation in zip(found.rotations, found.translations, strict=True):
        images = coords @ rotation.T + translation
        apart = images[:, None] - coords
        apart -= np.round(apart)
        distances = np.linalg.norm(apart @ lattice, axis=-1)
        target = np.argmin(np.where(is_other, np.inf, distances), axis=1)
        # Of row vectors in Å: r → r @ turn.
        turn = inverse @ rotation.T @ lattice
        sites[target, :, np.arange(num_sites), :] += turn.T
        cell += np.kron(turn.T, turn.T)
    count = len(found.rotations)
    size = 3 * num_sites
    return Projection(sites.reshape(size, size) / count, cell / count)
