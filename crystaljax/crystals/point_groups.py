"""Rotations of lattices, and the point groups among them.

Matrices act on columns of fractional coordinates, and are those of a reduced cell:
their entries are -1, 0 and 1.
"""

import functools
import itertools

import numpy as np
from jaxtyping import Float, Int

from crystaljax.crystals import space_groups


@functools.cache
def load_rotations() -> Int[np.ndarray, "matrices 3 3"]:
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


def kind_of(rotation: Int[np.ndarray, "3 3"]) -> tuple[int, int]:
    """Trace and determinant, which name a rotation whatever the basis is."""
    return int(np.trace(rotation)), round(float(np.linalg.det(rotation)))


@functools.cache
def kinds_of_point_group(space_group: int) -> tuple[tuple[int, int], ...]:
    """Traces and determinants of a point group's rotations, which are in any basis."""
    operations = space_groups.load_space_group_operations()[space_group]
    rotations = operations[operations[:, 3, 3] == 1][:, :3, :3]
    rotations = np.unique(np.round(rotations).astype(int), axis=0)
    return tuple(sorted(kind_of(rotation) for rotation in rotations))


def strain(
    lattice: Float[np.ndarray, "3 3"], rotations: Int[np.ndarray, "rotations 3 3"]
) -> Float[np.ndarray, " rotations"]:
    """How far matrices are from rotations of the lattice; 0 for one."""
    columns = np.asarray(lattice, dtype=np.float64).T
    cartesian = columns @ rotations @ np.linalg.inv(columns)
    change = np.swapaxes(cartesian, 1, 2) @ cartesian - np.eye(3)
    return np.abs(change).max(axis=(1, 2))


def find_subgroups(
    rotations: Int[np.ndarray, "rotations 3 3"], kinds: tuple[tuple[int, int], ...]
) -> tuple[tuple[int, ...], ...]:
    """Groups of the given kinds (see `kinds_of_point_group`), as indices."""
    return _find_subgroups(rotations.astype(np.int8).tobytes(), kinds)


@functools.lru_cache(maxsize=4096)
def _find_subgroups(
    rotations: bytes, kinds: tuple[tuple[int, int], ...]
) -> tuple[tuple[int, ...], ...]:
    # Bytes, so that what was found is kept: rotations are 3×3 int8.
    matrices = np.frombuffer(rotations, dtype=np.int8).reshape(-1, 3, 3).astype(int)
    index_of = {matrix.tobytes(): i for i, matrix in enumerate(matrices)}
    # -1: beyond what is there.
    products = [
        [index_of.get((one @ other).tobytes(), -1) for other in matrices]
        for one in matrices
    ]
    kind = [kind_of(matrix) for matrix in matrices]
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
        if group and tuple(sorted(kind[i] for i in group)) == kinds:
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
