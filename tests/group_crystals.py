"""Crystals that are given as a space group and one site of each orbit."""

import numpy as np
from pymatgen.core import Structure

from crystaljax.crystals import space_groups


def from_spacegroup(symbol, lattice, species, coords):
    """What `Structure.from_spacegroup` makes, but for the order of the sites.

    pymatgen compares all operations of a group with each other: a second for Fm-3m.
    """
    (number,) = space_groups.parse_space_groups(symbol)
    operations = space_groups.load_space_group_operations()[number].astype(float)
    operations = operations[operations[:, 3, 3] == 1]
    rotations = operations[:, :3, :3]
    translations = np.rint(operations[:, :3, 3] * 24) / 24
    symbols, sites = [], []
    for name, site in zip(species, coords, strict=True):
        images = (rotations @ np.array(site, float) + translations) % 1
        _, first = np.unique(np.round(images, 6) % 1, axis=0, return_index=True)
        symbols += [name] * len(first)
        sites += images[np.sort(first)].tolist()
    return Structure(lattice, symbols, sites)
