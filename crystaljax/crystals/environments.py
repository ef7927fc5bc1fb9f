"""What surrounds each species of a crystal, in numbers that no setting changes.

A crystal at hand is described so to a network that shall make another one of the same
formula: how many sites of each species lie at which distance of the sites of another.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from crystaljax.crystals import elements, structure

# Distances, in units of the cube root of the volume of an atom.
_RADII = np.arange(0.2, 2.3, 0.2)
_WIDTH = 0.2
# Species in the order of the crystal, of which each is counted apart; later ones are
# counted with the last.
_NUM_ROLES = 4
# Of all species: means, and deviations among the sites.
NUM_FEATURES = len(_RADII) * (_NUM_ROLES + 2)


def describe(
    crystal: structure.Crystal, species: Sequence[int]
) -> Float[np.ndarray, "species features"]:
    """The surroundings of each species, means over its sites.

    Args:
        crystal: sound, with each of the species.
        species: atomic numbers in an order that depends on the formula alone.
    """
    # It brings pymatgen, which those who know what they are told do without.
    from crystaljax.crystals import bridge

    volume = abs(np.linalg.det(crystal.lattice)) / crystal.num_sites
    unit = np.cbrt(volume)
    centers, others, _, distances = bridge.to_pymatgen(crystal).get_neighbor_list(
        r=float(unit * (_RADII[-1] + 2 * _WIDTH))
    )
    near = np.exp(-((((distances / unit)[:, None] - _RADII) / _WIDTH) ** 2))
    role = {n: min(i, _NUM_ROLES - 1) for i, n in enumerate(species)}
    roles = np.array([role[n] for n in crystal.atomic_numbers.tolist()])
    shape = (crystal.num_sites, _NUM_ROLES, len(_RADII))
    sums = np.zeros(shape)
    np.add.at(sums, (centers, roles[others]), near)
    # Of a dozen neighbours one more is less than of two.
    apart, together = np.log1p(sums), np.log1p(sums.sum(axis=1))
    rows = []
    for number in species:
        own = crystal.atomic_numbers == number
        rows.append(
            np.concatenate(
                [
                    apart[own].mean(axis=0).ravel(),
                    together[own].mean(axis=0),
                    together[own].std(axis=0),
                ]
            )
        )
    return np.array(rows, np.float32)


def fill(crystal: structure.Crystal) -> float:
    """Logarithm of the volume over that of the atoms by their covalent radii."""
    radii = elements.load_covalent_radii()[np.asarray(crystal.atomic_numbers) - 1]
    spheres = 4 / 3 * np.pi * np.sum(radii**3)
    return float(np.log(abs(np.linalg.det(crystal.lattice)) / spheres))
