"""Crystals as arrays on the host. Does without JAX: every command imports it.

Conventions, stated once for the whole package:

* Lattice vectors are **rows**, in Å: ``cartesian = fractional @ lattice``. Angles are
  in degrees and appear at the edges only. Energies are in eV/atom.
* A lattice is kept in one orientation, right-handed: a along x, b in the xy plane, so
  the matrix is lower triangular with a positive diagonal.
* Sites are grouped by species, species in alphabetical order as in an AFLOW formula
  (``Au1Cu3``); fractional coordinates lie in [0, 1).
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Int

from crystaljax.system import errors

PAPER_ROWS = 64
NUM_LATTICE_ROWS = 3
# The paper keeps one row of padding between the last possible site and the lattice.
NUM_EXTRA_ROWS = NUM_LATTICE_ROWS + 1
# Farther from the cell, coordinates have lost the digits that say where in it they are.
MAX_COORDINATE = 1e6
_FAR = 10.0


@dataclasses.dataclass(frozen=True, eq=False)
class Crystal:
    """One crystal on the host.

    Attributes:
        atomic_numbers: shape (sites,), integers.
        frac_coords: shape (sites, 3), fractional coordinates.
        lattice: shape (3, 3), vectors as rows, Å.
    """

    atomic_numbers: np.ndarray
    frac_coords: np.ndarray
    lattice: np.ndarray

    @property
    def num_sites(self) -> int:
        """Number of sites in the cell."""
        return len(self.atomic_numbers)


def rows_for(num_sites: int) -> int:
    """Smallest number of rows (a multiple of 8) that holds ``num_sites`` sites."""
    return -(-(num_sites + NUM_EXTRA_ROWS) // 8) * 8


def max_sites(rows: int) -> int:
    """Largest number of sites that ``rows`` rows hold.

    Raises:
        ValueError: ``rows`` is not a multiple of 8, or holds no site.
    """
    if rows < 8 or rows % 8:
        raise errors.UserError(f"rows is {rows}; expected a positive multiple of 8")
    return rows - NUM_EXTRA_ROWS


def rows_of(
    num_sites: Int[np.ndarray, " crystals"], buckets: tuple[int, ...]
) -> Int[np.ndarray, " crystals"]:
    """Rows of each crystal's sample tensor: the fewest of ``buckets`` that hold it.

    Args:
        num_sites: of the crystals.
        buckets: rows to choose among, in ascending order.

    Raises:
        ValueError: a crystal does not fit into the largest.
    """
    limits = np.array([max_sites(rows) for rows in buckets])
    largest = int(np.max(num_sites, initial=0))
    if largest > limits[-1]:
        raise errors.UserError(
            f"a crystal of {largest} sites does not fit into {buckets[-1]} rows, which "
            f"hold {limits[-1]} sites; use rows={rows_for(largest)} or more"
        )
    return np.array(buckets)[np.searchsorted(limits, num_sites)]


def wrap_sites(
    frac_coords: Float[np.ndarray, "*sites 3"],
) -> Float[np.ndarray, "*sites 3"]:
    """Wraps coordinates from files into [0, 1): the first thing done with them.

    What is not finite or farther out than `MAX_COORDINATE` stays as it is: no digits
    are left that say where in the cell it is, and `validity.find_cell_problem` says so.
    """
    coords = np.asarray(frac_coords, dtype=np.float64)
    if coords.size and coords.min() >= 0 and coords.max() < 1:
        # Nearly always, and files hold millions. A negative zero becomes zero.
        return coords + 0.0
    is_known = np.abs(coords) <= MAX_COORDINATE
    inside = np.where(is_known, coords, 0.0)
    inside -= np.floor(inside)
    inside[inside >= 1] = 0.0
    return np.where(is_known, inside, coords)


def wrapped(crystal: Crystal) -> Crystal:
    """The same crystal with its sites in the cell; see `wrap_sites`."""
    return dataclasses.replace(crystal, frac_coords=wrap_sites(crystal.frac_coords))


def wrapped_if_far(crystal: Crystal) -> Crystal:
    """The same crystal, its sites in the cell if one of them was far outside.

    Near ones stay where they are, to the last bit: what is computed from them can be
    compared with them.
    """
    coords = np.asarray(crystal.frac_coords)
    is_far = coords.size > 0 and np.abs(coords).max() > _FAR
    return wrapped(crystal) if is_far else crystal


def orient(lattice: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """Rotates lattices into the standard orientation (a along x, b in the xy plane).

    Fractional coordinates are unchanged by it. The lattice must be right-handed.

    Raises:
        ValueError: a lattice is left-handed or has no volume.
    """
    volume = np.linalg.det(lattice)
    if not np.all(volume > 0):
        raise errors.UserError(
            f"lattice with determinant {np.min(volume):g} Å³; expected right-handed "
            "vectors that span a volume"
        )
    # The Cholesky factor of the metric is the lower-triangular matrix wanted.
    return np.linalg.cholesky(lattice @ np.swapaxes(lattice, -1, -2))


def lattice_from_parameters(
    parameters: Float[np.ndarray, "6"],
) -> Float[np.ndarray, "3 3"]:
    """(a, b, c, α, β, γ) in Å and degrees → lattice in the standard orientation.

    Raises:
        ValueError: the lengths and angles do not span a cell.
    """
    # Plain floats: files hold millions of cells, and NumPy takes ten times as long on
    # six numbers.
    a, b, c, *angles = parameters.tolist()
    cos_alpha, cos_beta, cos_gamma = (
        _cosine(angle) if math.isfinite(angle) else math.nan for angle in angles
    )
    sin_gamma = math.sqrt(max(1 - cos_gamma**2, 0.0))
    c_y = (cos_alpha - cos_beta * cos_gamma) / sin_gamma if sin_gamma else math.nan
    c_z_squared = 1 - cos_beta**2 - c_y**2
    # False for NaN too.
    if not (a > 0 and b > 0 and c > 0 and c_z_squared > 0):
        raise errors.UserError(
            f"cell parameters {parameters.tolist()} span no cell; expected positive "
            "lengths (Å) and angles (degrees) of a parallelepiped"
        )
    return np.array(
        [
            [a, 0.0, 0.0],
            [b * cos_gamma, b * sin_gamma, 0.0],
            [c * cos_beta, c * c_y, c * math.sqrt(c_z_squared)],
        ]
    )


def _cosine(degrees: float) -> float:
    # cos(90°) is 6e-17 in floating point; a right angle should give an exact zero.
    return 0.0 if degrees == 90 else math.cos(math.radians(degrees))


def lattice_parameters(
    lattice: Float[np.ndarray, "*batch 3 3"],
) -> Float[np.ndarray, "*batch 6"]:
    """Lattice → (a, b, c, α, β, γ) in Å and degrees."""
    lengths = np.linalg.norm(lattice, axis=-1)
    unit = lattice / lengths[..., None]
    pairs = [(1, 2), (0, 2), (0, 1)]
    cosines = np.stack(
        [np.sum(unit[..., i, :] * unit[..., j, :], axis=-1) for i, j in pairs], axis=-1
    )
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    return np.concatenate([lengths, angles], axis=-1)


# What stands for a crystal that could not be read.
NO_CRYSTAL = Crystal(np.zeros(0, dtype=int), np.zeros((0, 3)), np.full((3, 3), np.nan))
