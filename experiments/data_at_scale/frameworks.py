"""Prototypes without species: their cells, and orderings of species on their sites.

Lengths are in units of the edge of an atom's cube: every cell has 1 Å³ an atom.
"""

import dataclasses
import functools
import itertools

import numpy as np
import spglib
from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY

from crystaljax.crystals import structure
from crystaljax.data.sources import prototypes

SYMPREC = 2e-3
# Molecules and gases are no packings: shortest distance (fcc has 1.12).
MIN_SPACING = 0.62

_IMAGES = np.array(list(itertools.product((-1, 0, 1), repeat=3)))


@dataclasses.dataclass(frozen=True, eq=False)
class Framework:
    """A prototype as the libraries have it.

    Attributes:
        letters: shape (sites,), which species, the rarest first.
        frac_coords: shape (sites, 3).
        lattice: shape (3, 3), rows.
        spacing: shortest distance.
    """

    letters: np.ndarray
    frac_coords: np.ndarray
    lattice: np.ndarray
    spacing: float

    @functools.cached_property
    def symmetry(self) -> tuple[np.ndarray, np.ndarray]:
        """Rotations and translations that keep the sites, whatever their species."""
        cell = (self.lattice, self.frac_coords, np.zeros_like(self.letters))
        operations = spglib.get_symmetry(cell, SYMPREC)
        assert operations is not None, "a prototype without symmetry"
        return operations["rotations"], operations["translations"]


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """A cell of a framework, maybe larger than the one it has.

    Attributes:
        letters: shape (sites,).
        frac_coords: shape (sites, 3).
        lattice: shape (3, 3), rows.
        basis: shape (3, 3), the lattice in units of the framework's.
        translations: shape (framework's cells, 3), fractional, that keep the sites.
    """

    letters: np.ndarray
    frac_coords: np.ndarray
    lattice: np.ndarray
    basis: np.ndarray
    translations: np.ndarray


def load_frameworks() -> list[Framework]:
    """Prototypes of the package and of pymatgen's AFLOW library."""
    found = [
        (["ABC".index(letter) for letter in p.letters], p.frac_coords, p.lattice)
        for p in prototypes.PROTOTYPES
    ]
    for entry in AFLOW_PROTOTYPE_LIBRARY:
        crystal = entry["snl"].structure
        counts = crystal.composition.get_el_amt_dict()
        rank = {name: i for i, name in enumerate(sorted(counts, key=counts.get))}
        letters = [rank[site.specie.symbol] for site in crystal]
        found.append((letters, crystal.frac_coords, crystal.lattice.matrix))
    frameworks = []
    for letters, frac_coords, lattice in found:
        letters, frac_coords = np.array(letters), np.array(frac_coords)
        # Right-handed, whatever the library has.
        parameters = structure.lattice_parameters(lattice)
        lattice = normalise(structure.lattice_from_parameters(parameters), len(letters))
        spacing = distances(0 * letters, frac_coords, lattice)[0].min()
        if spacing > MIN_SPACING:
            frameworks.append(Framework(letters, frac_coords, lattice, float(spacing)))
    return frameworks


def normalise(lattice: np.ndarray, num_sites: int) -> np.ndarray:
    """Scales a lattice to 1 Å³ an atom."""
    return lattice * np.cbrt(num_sites / np.linalg.det(lattice))


def draw_cell(framework: Framework, multiple: int, rng: np.random.Generator) -> Cell:
    """The same crystal in a cell ``multiple`` times as large, at random."""
    if multiple == 1:
        coords, lattice = framework.frac_coords, framework.lattice
        return Cell(framework.letters, coords, lattice, np.eye(3), np.zeros((1, 3)))
    bases = [_draw_basis(multiple, rng) for _ in range(3)]
    pairs = [(basis, _reduce(basis @ framework.lattice)) for basis in bases]
    # The one that is least of a needle.
    basis, reduced = min(pairs, key=lambda pair: np.linalg.norm(pair[1], axis=1).max())
    inside = list(itertools.product(*map(range, np.diag(basis))))
    angles = structure.lattice_parameters(basis @ framework.lattice)[3:]
    if rng.random() < 0.5 or angles.min() < 40 or angles.max() > 140:
        basis = np.round(reduced @ np.linalg.inv(framework.lattice))
    inverse = np.linalg.inv(basis)
    coords = (framework.frac_coords[:, None] + inside) @ inverse
    return Cell(
        letters=np.repeat(framework.letters, multiple),
        frac_coords=np.mod(np.round(coords.reshape(-1, 3), 10), 1),
        lattice=basis @ framework.lattice,
        basis=basis,
        translations=inside @ inverse,
    )


def _draw_basis(multiple: int, rng: np.random.Generator) -> np.ndarray:
    """A Hermite normal form with this determinant."""
    divisors = [d for d in range(1, multiple + 1) if multiple % d == 0]
    a = int(rng.choice(divisors))
    b = int(rng.choice([d for d in divisors if multiple // a % d == 0]))
    below = rng.integers(0, [a, a, b])
    return np.array(
        [[a, 0, 0], [below[0], b, 0], [below[1], below[2], multiple // a // b]]
    )


def _reduce(lattice: np.ndarray) -> np.ndarray:
    reduced = spglib.niggli_reduce(lattice)
    if reduced is None:
        return lattice
    return reduced if np.linalg.det(reduced) > 0 else -reduced


def draw_ordering(
    counts: tuple[int, ...], framework: Framework, cell: Cell, rng: np.random.Generator
) -> np.ndarray | None:
    """Letters for the sites, equal within orbits of up to three random symmetries.

    None where the orbits drawn do not add up to the counts.
    """
    inverse = np.linalg.inv(cell.basis)
    rotations, translations = framework.symmetry
    turned = inverse.T @ rotations @ cell.basis.T
    keeps_cell = np.abs(turned - np.round(turned)).max(axis=(1, 2)) < 1e-6
    chosen = rng.choice(np.flatnonzero(keeps_cell), size=rng.integers(1, 4))
    shifts = cell.translations[rng.integers(len(cell.translations), size=len(chosen))]
    images = site_images(
        cell.frac_coords, turned[chosen], translations[chosen] @ inverse + shifts
    )
    # Every site gets the lowest number of its orbit; each pass carries it on.
    orbit = np.arange(len(cell.letters))
    for _ in range(len(orbit)):
        for image in images:
            orbit = np.minimum(orbit, orbit[image])
    left = np.array(counts)
    letters = np.zeros_like(orbit)
    numbers, sizes = np.unique(orbit, return_counts=True)
    # Large orbits first: small ones fill what is left.
    for index in np.lexsort((rng.random(len(sizes)), -sizes)):
        fitting = np.flatnonzero(left >= sizes[index])
        if not len(fitting):
            return None
        letter = rng.choice(fitting, p=left[fitting] / left[fitting].sum())
        letters[orbit == numbers[index]] = letter
        left[letter] -= sizes[index]
    return letters


def site_images(frac_coords, rotations, translations) -> np.ndarray:
    """Site that each operation takes each site to; shape (operations, sites)."""
    moved = np.einsum("oij,sj->osi", rotations, frac_coords) + translations[:, None]
    apart = moved[:, :, None] - frac_coords
    apart -= np.round(apart)
    return np.argmin(np.einsum("ostj,ostj->ost", apart, apart), axis=-1)


def distances(letters, frac_coords, lattice) -> tuple[np.ndarray, np.ndarray]:
    """Shortest distances between letters, and what tells crystals apart: (4, 4)."""
    reduced = _reduce(lattice)
    coords = frac_coords @ (lattice @ np.linalg.inv(reduced))
    apart = coords[:, None] - coords
    apart -= np.round(apart)
    vectors = (apart[:, :, None] + _IMAGES) @ reduced
    squared = np.einsum("ijkl,ijkl->ijk", vectors, vectors)
    squared[squared < 1e-6] = np.inf
    per_pair = np.exp(-2 * squared).sum(axis=-1)
    squared = squared.min(axis=-1)
    nearest, similarity = np.full((4, 4), np.inf), np.zeros((4, 4))
    for i, j in itertools.product(range(letters.max() + 1), repeat=2):
        between = np.ix_(letters == i, letters == j)
        nearest[i, j] = np.sqrt(squared[between].min())
        # The square sees how the neighbours are spread over the sites.
        similarity[i, j] = np.sum(per_pair[between].sum(1) ** 2)
    return nearest, similarity
