"""Crystals of the space group that was asked for, from crystals that are nearly of it.

Samples are right to a tenth of an Å or so, where programs that look for symmetry find
some operations of the space group and miss others. What they do not know is which group
it shall be. Here it is known, so that the operations which make a group of the right
kind are found one by one, by how little they would move.
"""

import functools
import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from crystaljax.crystals import (
    space_groups,
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
# Rotations of a distorted lattice that are looked at, and groups of these.
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
        space_group: that is asked for, 1-230.
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
            translations = _fit_translations(projected, rotations)[0]
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
    wanted = _kinds_of_point_group(space_group)
    candidates = _all_rotations()
    candidates = candidates[_strain(crystal.lattice, candidates) < _MAX_STRAIN]
    kinds = [_kind(rotation) for rotation in candidates]
    candidates = candidates[[kind in wanted for kind in kinds]]
    if len(candidates) == 0:
        return
    distances = _fit_translations(crystal, candidates)[1]
    # The average over two crystals moves each by half of what is between them.
    near = np.argsort(distances, kind="stable")[:_MAX_ROTATIONS]
    near = near[distances[near] < 2 * largest]
    # Always in the same order, so that crystals share what is found.
    near = np.sort(near)
    groups = _find_subgroups(candidates[near].astype(np.int8).tobytes(), wanted)
    near_distances = distances[near]
    cost = [float(near_distances[list(group)].mean()) for group in groups]
    for number in np.argsort(cost, kind="stable")[:_MAX_GROUPS]:
        yield candidates[near][list(groups[number])]


@functools.cache
def _all_rotations() -> Int[np.ndarray, "matrices 3 3"]:
    """Matrices with entries in {-1, 0, 1} that may be rotations of a reduced cell."""
    rows = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
    matrices = rows[np.array(list(itertools.product(range(27), repeat=3)))]
    determinants = np.round(np.linalg.det(matrices)).astype(int)
    traces = np.trace(matrices, axis1=1, axis2=2)
    # A rotation by 0, 60, 90, 120 or 180 degrees, or one with an inversion.
    possible = (np.abs(determinants) == 1) & np.isin(
        determinants * traces, range(-1, 4)
    )
    matrices = matrices[possible]
    powers = np.eye(3, dtype=int) + np.zeros_like(matrices)
    for _ in range(12):
        powers = powers @ matrices
    # The orders of crystals' rotations divide 12.
    return matrices[(powers == np.eye(3, dtype=int)).all(axis=(1, 2))]


def _kind(rotation: Int[np.ndarray, "3 3"]) -> tuple[int, int]:
    return int(np.trace(rotation)), round(float(np.linalg.det(rotation)))


@functools.cache
def _kinds_of_point_group(space_group: int) -> tuple[tuple[int, int], ...]:
    """Traces and determinants of a point group's rotations, which are in any basis."""
    operations = space_groups.load_space_group_operations()[space_group]
    rotations = operations[operations[:, 3, 3] == 1][:, :3, :3]
    rotations = np.unique(np.round(rotations).astype(int), axis=0)
    return tuple(sorted(_kind(rotation) for rotation in rotations))


def _strain(
    lattice: Float[np.ndarray, "3 3"], rotations: Int[np.ndarray, "rotations 3 3"]
) -> Float[np.ndarray, " rotations"]:
    """How far matrices are from rotations of the lattice; 0 for one."""
    columns = np.asarray(lattice, dtype=np.float64).T
    cartesian = columns @ rotations @ np.linalg.inv(columns)
    strain = np.swapaxes(cartesian, 1, 2) @ cartesian - np.eye(3)
    return np.abs(strain).max(axis=(1, 2))


def _fit_translations(
    crystal: structure.Crystal, rotations: Int[np.ndarray, "rotations 3 3"]
) -> tuple[Float[np.ndarray, "rotations 3"], Float[np.ndarray, " rotations"]]:
    """The translation with which each rotation brings sites nearest to sites.

    Returns:
        translations: fractional.
        distances: root mean square of what is left between sites and images, Å.
    """
    numbers = np.asarray(crystal.atomic_numbers, dtype=int)
    coords = np.asarray(crystal.frac_coords, dtype=np.float64)
    metric = np.asarray(crystal.lattice, dtype=np.float64)
    metric = metric @ metric.T
    species, counts = np.unique(numbers, return_counts=True)
    rarest = np.flatnonzero(numbers == species[np.argmin(counts)])
    images = coords @ np.swapaxes(rotations, 1, 2)
    # The first site of the rarest species goes to one of them.
    shifts = coords[rarest] - images[:, rarest[:1]]
    moved = images[:, None] + shifts[:, :, None]
    apart = moved[:, :, None] - coords[:, None]
    apart -= np.round(apart)
    squares = np.einsum("...i,ij,...j->...", apart, metric, apart)
    squares = np.where(numbers[:, None] == numbers, squares, np.inf)
    nearest = np.argmin(squares, axis=-1)
    apart = np.take_along_axis(apart, nearest[..., None, None], axis=-2)[..., 0, :]
    # What all images are beside their sites is of the translation.
    mean = apart.mean(axis=2)
    apart -= mean[:, :, None]
    squares = np.einsum("...i,ij,...j->...", apart, metric, apart).mean(axis=-1)
    best = np.argmin(squares, axis=1)
    each = np.arange(len(rotations))
    return (shifts - mean)[each, best], np.sqrt(squares[each, best])


@functools.lru_cache(maxsize=4096)
def _find_subgroups(
    rotations: bytes, kinds: tuple[tuple[int, int], ...]
) -> tuple[tuple[int, ...], ...]:
    """Groups of rotations of the given kinds, as indices; rotations are 3×3 int8."""
    matrices = np.frombuffer(rotations, dtype=np.int8).reshape(-1, 3, 3).astype(int)
    index_of = {matrix.tobytes(): i for i, matrix in enumerate(matrices)}
    # -1: beyond what is there.
    products = [
        [index_of.get((one @ other).tobytes(), -1) for other in matrices]
        for one in matrices
    ]
    kind_of = [_kind(matrix) for matrix in matrices]
    inversion = index_of.get((-np.eye(3, dtype=int)).tobytes())
    if inversion is None and (-3, -1) in kinds:
        return ()
    found = set()
    # Two of its rotations generate a point group, and the inversion if it has it.
    for one, other in itertools.combinations_with_replacement(range(len(matrices)), 2):
        generators = {one, other}
        if (-3, -1) in kinds and inversion is not None:
            generators.add(inversion)
        group = _close(generators, products, len(kinds))
        if group and tuple(sorted(kind_of[i] for i in group)) == kinds:
            found.add(group)
    return tuple(sorted(found))


def _close(
    generators: set[int], products: list[list[int]], order: int
) -> tuple[int, ...]:
    """The group that is generated, if it has no more than ``order`` members."""
    group, new = set(generators), list(generators)
    while new:
        one = new.pop()
        for generator in generators:
            product = products[one][generator]
            if product < 0 or len(group) > order:
                return ()
            if product not in group:
                group.add(product)
                new.append(product)
    return tuple(sorted(group))


def _distance(one: structure.Crystal, other: structure.Crystal) -> float:
    """Largest distance of a site from where it was, beside what all moved, Å."""
    apart = np.asarray(other.frac_coords) - np.asarray(one.frac_coords)
    apart = (apart - apart.mean(axis=0)) @ np.asarray(other.lattice)
    return float(np.linalg.norm(apart, axis=1).max())
