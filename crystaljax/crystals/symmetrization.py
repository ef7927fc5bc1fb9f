"""Crystals with the symmetry that they nearly have."""

import numpy as np
from jaxtyping import Float, Int

from crystaljax.crystals import structure, symmetry_search


def symmetrize(crystal: structure.Crystal, symprec: float = 0.1) -> structure.Crystal:
    """The nearest crystal that has exactly the symmetry found within ``symprec`` (Å).

    Cell and sites are averaged over all operations that spglib finds, so that the cell
    keeps its sites and their order (spglib's standardised cells have sites of their
    own, and a supercell would be lost). What was averaged may show operations that were
    just beyond ``symprec`` before: this goes on until no new ones are found. The
    lattice is oriented as everywhere in the package. A crystal in which no symmetry is
    found comes back as it is.
    """
    seen = set()
    while (found := symmetry_search.find_symmetry(crystal, symprec)) is not None:
        num_primitive = len(set(found.mapping_to_primitive))
        if (num_primitive, found.number) in seen:
            break
        seen.add((num_primitive, found.number))
        if num_primitive < crystal.num_sites:
            crystal = _symmetrize_supercell(
                crystal, found.primitive_lattice, found.mapping_to_primitive, symprec
            )
        else:
            crystal = average(crystal, found.rotations, found.translations)
    return crystal


def average(
    crystal: structure.Crystal, rotations: np.ndarray, translations: np.ndarray
) -> structure.Crystal:
    """Mean of what all operations make of the crystal.

    Args:
        crystal: any.
        rotations: (operations, 3, 3), a group of which the lattice nearly is.
        translations: (operations, 3), fractional; each operation brings every site near
            to one of its species.
    """
    lattice = np.asarray(crystal.lattice, dtype=np.float64)
    # Rotations act on columns of fractional coordinates: R'GR = G for the metric G.
    metric = np.mean(
        np.swapaxes(rotations, 1, 2) @ (lattice @ lattice.T) @ rotations, axis=0
    )
    symmetric = np.linalg.cholesky(metric)
    if np.linalg.det(lattice) < 0:
        symmetric[2] *= [1, 1, -1]
    numbers = np.asarray(crystal.atomic_numbers, dtype=int)
    coords = np.asarray(crystal.frac_coords, dtype=np.float64)
    return structure.Crystal(
        numbers,
        _average_coords(coords, numbers, lattice, rotations, translations),
        symmetric,
    )


def fit_translations(
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


def _symmetrize_supercell(
    crystal: structure.Crystal,
    primitive_lattice: np.ndarray,
    site_of_primitive: np.ndarray,
    symprec: float,
) -> structure.Crystal:
    """By way of the primitive cell: a supercell need not have all of its rotations."""
    lattice = np.asarray(crystal.lattice, dtype=np.float64)
    multiple = np.round(lattice @ np.linalg.inv(primitive_lattice))
    coords = np.asarray(crystal.frac_coords, dtype=np.float64) @ multiple
    classes = np.unique(site_of_primitive, return_inverse=True)[1]
    firsts = np.unique(classes, return_index=True)[1]
    apart = coords - coords[firsts][classes]
    apart -= np.round(apart)
    shifts = [apart[classes == each].mean(axis=0) for each in range(len(firsts))]
    primitive = structure.Crystal(
        np.asarray(crystal.atomic_numbers, dtype=int)[firsts],
        coords[firsts] + np.array(shifts),
        np.linalg.solve(multiple, lattice),
    )
    symmetric = symmetrize(primitive, symprec)
    # Each site stays in its own copy of the primitive cell.
    ours = symmetric.frac_coords[classes]
    ours = ours + np.round(coords - ours)
    lattice = multiple @ symmetric.lattice
    if np.linalg.det(lattice) > 0:
        lattice = structure.orient(lattice)
    return structure.Crystal(
        np.asarray(crystal.atomic_numbers, dtype=int),
        np.linalg.solve(multiple.T, ours.T).T,
        lattice,
    )


def _average_coords(
    coords: np.ndarray,
    numbers: np.ndarray,
    lattice: np.ndarray,
    rotations: np.ndarray,
    translations: np.ndarray,
) -> np.ndarray:
    """Mean of what all operations carry to each site."""
    shifts = np.zeros_like(coords)
    is_other = np.where(numbers[:, None] == numbers, 0.0, np.inf)
    for rotation, translation in zip(rotations, translations, strict=True):
        images = coords @ rotation.T + translation
        # From every site to every image; the nearest one is what came to it.
        apart = images[None] - coords[:, None]
        apart -= np.round(apart)
        distances = np.sum((apart @ lattice) ** 2, axis=-1) + is_other
        nearest = np.argmin(distances, axis=1)
        shifts += apart[np.arange(len(coords)), nearest]
    return coords + shifts / len(rotations)
