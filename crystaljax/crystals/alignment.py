"""A crystal in the setting of another: the same crystal, with its arrays alike.

Canonical forms make equal crystals equal, but similar ones need not become similar:
where two lengths or two sites are nearly equal, a small difference decides which comes
first. Here one of two crystals of the same stoichiometry is written in another basis of
its lattice, with another origin and order of sites, so that it looks as much as
possible like the other.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize

from crystaljax.crystals import niggli, structure

# Bases that are compared: those with the least strain.
_MAX_BASES = 48
# In place of a squared distance; no two sites are so far apart.
_OTHER_ROLE = 1e6


def align(
    crystal: structure.Crystal,
    reference: structure.Crystal,
    counts: tuple[int, ...],
) -> tuple[structure.Crystal, Int[np.ndarray, " sites"]]:
    """The crystal in the setting in which it is nearest to a reference.

    Sites of both are in blocks of ``counts``, and those of a block play the same role,
    whatever their elements are. The distance is the root mean square of the sites' in
    the reference's cell, in units of (volume per site)^(1/3), together with the strain
    between the cells at equal volume. Bases are all with entries in {-1, 0, 1} and
    determinant 1, origins all that bring a site of the smallest block onto the
    reference's first one.

    Returns:
        aligned: the same crystal; lattice in standard orientation, coordinates in
            [0, 1).
        order: the crystal's sites in their new order; only sites of a block trade
            places.
    """
    numbers = np.asarray(crystal.atomic_numbers)
    coords = np.asarray(crystal.frac_coords, dtype=np.float64)
    goal = np.asarray(reference.frac_coords, dtype=np.float64)
    lattice = np.asarray(crystal.lattice, dtype=np.float64)
    cell = np.asarray(reference.lattice, dtype=np.float64)
    num_sites = len(coords)
    matrices, inverses = niggli.changes_of_basis()[:2]
    strain = _strains(lattice, cell, matrices)
    bases = np.argsort(strain, kind="stable")[:_MAX_BASES]
    # Blocks of sites, and one of the smallest.
    block = np.repeat(np.arange(len(counts)), counts)
    smallest = np.flatnonzero(block == int(np.argmin(counts)))
    metric = cell @ cell.T / np.linalg.det(cell) ** (2 / 3) * num_sites ** (2 / 3)
    moved = coords @ inverses[bases]
    shifts = goal[smallest[0]] - moved[:, smallest]
    moved = moved[:, None] + shifts[:, :, None]
    squares = _squares(moved, goal, metric)
    squares = np.where(block[:, None] == block, squares, _OTHER_ROLE)
    # At least as far as this: two sites may be nearest to one.
    least = squares.min(axis=-1).mean(axis=-1) + strain[bases][:, None] ** 2
    best = (np.inf, 0, 0, np.arange(num_sites))
    for flat in np.argsort(least, axis=None, kind="stable"):
        basis, origin = np.unravel_index(int(flat), least.shape)
        if least[basis, origin] >= best[0]:
            break
        costs = squares[basis, origin]
        ours, theirs = optimize.linear_sum_assignment(costs)
        total = costs[ours, theirs].mean() + strain[bases[basis]] ** 2
        if total < best[0]:
            order = np.empty(num_sites, dtype=int)
            order[theirs] = ours
            best = (total, int(basis), int(origin), order)
    _, basis, origin, order = best
    aligned = moved[basis, origin][order]
    aligned -= np.floor(aligned)
    return (
        structure.Crystal(
            numbers[order], aligned, structure.orient(matrices[bases[basis]] @ lattice)
        ),
        order,
    )


def _squares(
    moved: Float[np.ndarray, "bases origins sites 3"],
    goal: Float[np.ndarray, "sites 3"],
    metric: Float[np.ndarray, "3 3"],
) -> Float[np.ndarray, "bases origins sites sites"]:
    apart = moved[..., :, None, :] - goal
    apart -= np.round(apart)
    return np.einsum("...i,ij,...j->...", apart, metric, apart, optimize=True)


def _strains(
    lattice: Float[np.ndarray, "3 3"],
    cell: Float[np.ndarray, "3 3"],
    matrices: Float[np.ndarray, "bases 3 3"],
) -> Float[np.ndarray, " bases"]:
    """Between each basis of the lattice and the cell, at equal volume; 0 for none."""
    size = (np.linalg.det(cell) / np.linalg.det(lattice)) ** (1 / 3)
    columns = np.linalg.inv(cell)
    deformed = columns @ (matrices @ (size * lattice))
    strain = deformed @ np.swapaxes(deformed, 1, 2) - np.eye(3)
    return np.sqrt(np.mean(strain**2, axis=(1, 2)))
