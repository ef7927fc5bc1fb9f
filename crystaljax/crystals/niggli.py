"""Reduced bases of lattices: the Niggli cell, and all that are as good as it.

Exact reduction (Niggli) is not stable where lengths or angles agree by symmetry, which
is the common case, so that noise decides which basis comes out. Here it is followed by
all changes of basis that are as good *within a tolerance*. All of them keep the
handedness.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import spglib
from jaxtyping import Float, Int

# Vectors this much longer than the shortest possible still count as equally short.
LENGTH_TOLERANCE = 0.01
# Coordinates (and cosines) are compared on this grid first. 48 has the divisors 2, 3,
# 4, 6, 8, 12 and 16, so the fractions that crystals are made of lie on grid points ...
COARSE_CELLS = 48
# ... and cells reach from -0.463 to 0.537 around a grid point: their boundaries stay
# clear of fifths, sevenths, ninths ... and of halves of cells (1/32), by 3e-5 at least.
CELL_OFFSET = 0.463
# Of spglib, the first its default.
_NIGGLI_TOLERANCES = (1e-5, 1e-4, 1e-3)
_NOT_REDUCED = "the lattice cannot be reduced; is it extremely skewed?"
# The six entries of a metric: three squared lengths, then the products for α, β, γ.
_METRIC_ENTRIES = ((0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1))


def niggli_changes(
    lattices: Float[np.ndarray, "crystals 3 3"],
) -> tuple[Float[np.ndarray, "crystals 3 3"], list[str]]:
    """Changes of basis to right-handed Niggli cells; and what is wrong, if anything."""
    problems = [""] * len(lattices)
    is_finite = np.all(np.isfinite(lattices), axis=(1, 2), keepdims=True)[:, 0, 0]
    lattices = np.where(is_finite[:, None, None], lattices, np.eye(3))
    volumes = np.linalg.det(lattices)
    flat = np.abs(volumes) <= 1e-9 * np.linalg.norm(lattices, axis=-1).prod(axis=1)
    reduced = lattices.copy()
    for index, lattice in enumerate(lattices):
        if not is_finite[index]:
            problems[index] = "a lattice entry is not finite"
        elif flat[index]:
            problems[index] = (
                f"lattice vectors span {abs(volumes[index]):g} Å³; expected three that "
                "are not in a plane"
            )
        elif (found := _niggli_lattice(lattice)) is not None:
            reduced[index] = found
        else:
            problems[index] = _NOT_REDUCED
    # Exact integers, so that no error of the reduction enters.
    lattices = np.where(flat[:, None, None], np.eye(3), lattices)
    changes = np.round(reduced @ np.linalg.inv(lattices))
    determinants = np.linalg.det(changes)
    for index in np.flatnonzero(np.abs(np.abs(determinants) - 1) > 1e-3):
        problems[index] = problems[index] or _NOT_REDUCED
    # (-x) @ (-lattice) is the same crystal; a mirror image would not be.
    changes *= np.sign(determinants * volumes)[:, None, None]
    return changes, problems


def _niggli_lattice(lattice: Float[np.ndarray, "3 3"]) -> np.ndarray | None:
    # Cells that are degenerate to about the tolerance exhaust its iterations; a looser
    # one leaves a basis that is as short within `LENGTH_TOLERANCE`.
    for tolerance in _NIGGLI_TOLERANCES:
        reduced = _reduce(spglib.niggli_reduce, lattice, tolerance)
        if reduced is not None:
            return reduced
    # So do very skewed cells; a Delaunay cell is less skewed.
    delaunay = _reduce(spglib.delaunay_reduce, lattice)
    return None if delaunay is None else _reduce(spglib.niggli_reduce, delaunay)


def _reduce(reduce_fn: Callable[..., Any], *arguments: Any) -> np.ndarray | None:
    """What one of spglib's reductions gives; None where it gives up.

    Its releases differ in how they fail, as does one release by a variable of the
    environment, which ASE sets for good where it keeps a symmetry.
    """
    try:
        return reduce_fn(*arguments)
    except Exception as error:
        if type(error).__name__.startswith("Spglib"):
            return None
        raise


@functools.cache
def changes_of_basis() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Right-handed changes of basis with entries in {-1, 0, 1}.

    Returns:
        matrices: shape (3480, 3, 3).
        inverses: theirs, shape (3480, 3, 3), whole numbers too.
        vectors: shape (13, 3), their rows up to sign.
        rows: shape (3480, 3), which of the vectors each row is.
    """
    signed = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
    # Of v and -v, the one whose first nonzero entry is positive comes later.
    vectors = signed[14:]
    index_of = np.abs(np.arange(27) - 13) - 1
    candidates = np.array(list(itertools.product(range(27), repeat=3)))
    matrices = signed[candidates]
    first, second, third = np.moveaxis(matrices, 1, 0)
    keep = np.sum(np.cross(first, second) * third, axis=-1) == 1
    matrices = matrices[keep].astype(float)
    return (
        matrices,
        np.round(np.linalg.inv(matrices)),
        vectors.astype(float),
        index_of[candidates[keep]],
    )


@functools.cache
def _metric_changes() -> Float[np.ndarray, "3480 6 6"]:
    """What each change of basis makes of a metric written as six numbers."""
    matrices = changes_of_basis()[0]
    rows, columns = _METRIC_ENTRIES
    units = np.zeros((6, 3, 3))
    units[np.arange(6), rows, columns] = units[np.arange(6), columns, rows] = 1
    changed = np.einsum("bij,ujk,blk->buil", matrices, units, matrices)
    return np.swapaxes(changed[:, :, rows, columns], 1, 2)


@functools.lru_cache(maxsize=4096)
def _bases_with_rows(allowed: tuple[int, int, int]) -> Int[np.ndarray, " bases"]:
    """Changes of basis whose row k is among the vectors of the bit mask allowed[k]."""
    rows = changes_of_basis()[3]
    fits = (np.array(allowed) >> rows) & 1
    return np.flatnonzero(fits.all(axis=1))


def equivalent_bases(
    lattices: Float[np.ndarray, "crystals 3 3"],
) -> tuple[Int[np.ndarray, " bases"], Int[np.ndarray, " bases"]]:
    """Changes of basis from Niggli cells to those as good within the tolerance.

    All bases of a crystal give the same preferred cell, so they differ by the proper
    automorphisms of the lattice (as it is within the tolerance): at most 24.

    Returns:
        Whose each basis is, ascending; and which change of basis.
    """
    metrics = lattices @ np.swapaxes(lattices, 1, 2)
    vectors = changes_of_basis()[2]
    norms = np.einsum("vi,cij,vj->cv", vectors, metrics, vectors)
    diagonal = np.diagonal(metrics, axis1=1, axis2=2)
    shortest = np.sort(diagonal, axis=1) * (1 + LENGTH_TOLERANCE) ** 2
    is_short = norms[:, None] <= shortest[..., None]
    allowed = is_short @ (1 << np.arange(len(vectors)))
    # Lattices of one kind allow the same rows, and there are few kinds.
    kinds, kind_of = np.unique(allowed, axis=0, return_inverse=True)
    flat = metrics[:, *_METRIC_ENTRIES]
    owners, chosen = [], []
    for number, kind in enumerate(kinds):
        members = np.flatnonzero(kind_of.ravel() == number)
        bases = _bases_with_rows(tuple(kind.tolist()))
        preference = _preference(flat[members], bases)
        is_best = preference == preference.min(axis=1, keepdims=True)
        member, basis = np.nonzero(is_best)
        owners.append(members[member])
        chosen.append(bases[basis])
    owner, basis = np.concatenate(owners), np.concatenate(chosen)
    order = np.argsort(owner, kind="stable")
    return owner[order], basis[order]


def _preference(
    metrics: Float[np.ndarray, "crystals 6"], bases: Int[np.ndarray, " bases"]
) -> Int[np.ndarray, "crystals bases"]:
    """The lower, the better the basis; crystals whose lattices allow the same bases."""
    changes = _metric_changes()[bases].reshape(-1, 6)
    changed = (metrics @ changes.T).reshape(len(metrics), len(bases), 6)
    lengths = np.sqrt(changed[..., :3])
    products = lengths[..., (1, 0, 0)] * lengths[..., (2, 2, 1)]
    coarse = _coarse_cosine(changed[..., 3:] / products)
    # Niggli's types: all angles acute, or none. Flipping two vectors always gives one.
    has_type = (coarse > 0).all(axis=-1) | (coarse <= 0).all(axis=-1)
    # Most acute first (60° rather than 90° for fcc); then right angles first, so that
    # the 120° of a hexagonal cell is γ. In one number: none of these exceeds 64.
    preference = -coarse.sum(axis=-1)
    for value in (*np.moveaxis(np.abs(coarse), -1, 0), *np.moveaxis(coarse, -1, 0)):
        preference = preference * 128 + value
    return np.where(has_type, preference, np.iinfo(np.int64).max)


def _coarse_cosine(cosines: np.ndarray) -> np.ndarray:
    return np.floor(cosines * COARSE_CELLS + CELL_OFFSET).astype(np.int64)
