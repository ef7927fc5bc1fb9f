"""Crystals of the space group that was requested, from crystals that are nearly of it.

Samples are right to a tenth of an Å or so, where programs that look for symmetry find
some operations of the space group and miss others. What they do not know is which group
it shall be. Here it is known, so that the operations which make a group of the right
kind are found one by one, by how little they would move.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

from crystaljax.crystals import (
    point_groups,
    structure,
    symmetrization,
    symmetry_search,
    validity,
)

# Of the largest distance; a loose one finds operations that the group has not.
_STEPS = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
# Å, for what should be symmetric but for rounding.
_EXACT = 1e-3
# Largest change of a squared length under what shall be a rotation of the lattice.
_MAX_STRAIN = 0.25
# Largest numbers of rotations of a distorted lattice, and of groups of these.
_MAX_ROTATIONS = 64
_MAX_GROUPS = 8
_NUM_ROUNDS = 4


def project(
    crystal: structure.Crystal, space_group: int, *, largest: float = 0.5
) -> structure.Crystal:
    """The nearest crystal of a space group, where the crystal is nearly of it.

    At first spglib looks for the group at growing tolerances up to ``largest``.
    Otherwise sets of rotations of the (nearly symmetric) lattice that form a point
    group of the right kind are tried, those first that move the sites least: the
    crystal is averaged over them, which is accepted if the result has the space group
    and no site has moved by more than ``largest``, beside what the whole moved.

    Args:
        crystal: what is nearly of the group.
        space_group: that is requested, 1-230.
        largest: distance that a site may move, Å.

    Returns:
        The crystal with exactly that symmetry, its sites in their order; the crystal as
        it is where none was found.
    """
    if validity.find_cell_problem(crystal):
        return crystal
    for share in _STEPS:
        symprec = share * largest
        if symmetry_search.find_space_group(crystal, symprec) != space_group:
            continue
        projected = symmetrization.symmetrize(crystal, symprec)
        if symmetry_search.find_space_group(projected, _EXACT) == space_group:
            return projected
    for rotations in _find_groups(crystal, space_group, largest):
        projected = crystal
        for _ in range(_NUM_ROUNDS):
            translations = symmetrization.fit_translations(projected, rotations)[0]
            projected = symmetrization.average(projected, rotations, translations)
        if _distance(crystal, projected) > largest:
            continue
        projected = symmetrization.symmetrize(projected, _EXACT)
        if symmetry_search.find_space_group(projected, _EXACT) == space_group:
            return projected
    return crystal


def _find_groups(
    crystal: structure.Crystal, space_group: int, largest: float
) -> Iterator[Int[np.ndarray, "rotations 3 3"]]:
    """Point groups of the right kind, by how little their rotations move the sites."""
    wanted = point_groups.kinds_of_point_group(space_group)
    candidates = point_groups.load_rotations()
    candidates = candidates[
        point_groups.strain(crystal.lattice, candidates) < _MAX_STRAIN
    ]
    kinds = [point_groups.kind_of(rotation) for rotation in candidates]
    candidates = candidates[[kind in wanted for kind in kinds]]
    if len(candidates) == 0:
        return
    distances = symmetrization.fit_translations(crystal, candidates)[1]
    # The average over two crystals moves each by half of what is between them.
    near = np.argsort(distances, kind="stable")[:_MAX_ROTATIONS]
    near = near[distances[near] < 2 * largest]
    # Always in the same order, so that crystals share what is found.
    near = np.sort(near)
    groups = point_groups.find_subgroups(candidates[near], wanted)
    near_distances = distances[near]
    cost = [float(near_distances[list(group)].mean()) for group in groups]
    for number in np.argsort(cost, kind="stable")[:_MAX_GROUPS]:
        yield candidates[near][list(groups[number])]


def _distance(one: structure.Crystal, other: structure.Crystal) -> float:
    """Largest distance of a site from where it was, beside what all moved, Å."""
    apart = np.asarray(other.frac_coords) - np.asarray(one.frac_coords)
    apart = (apart - apart.mean(axis=0)) @ np.asarray(other.lattice)
    return float(np.linalg.norm(apart, axis=1).max())
