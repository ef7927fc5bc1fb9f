"""A crystal in numbers: cell, sites on Wyckoff positions, distances, nearest known."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from crystaljax.crystals import elements, structure, symmetry_search
from crystaljax.matching import nearness
from crystaljax.screening.report import drawn_values

_SYMPREC = 0.1  # Å
# Neighbours of a site up to this multiple of its shortest distance are one shell.
_SHELL = 1.2
_MAX_SITES = 200


def describe(crystal: structure.Crystal, known: str | None) -> dict[str, Any]:
    """What is shown of a crystal that is looked at, as JSON values.

    Args:
        crystal: must pass `validity.find_cell_problem`.
        known: of known crystals, as `known_crystals.read` takes it; None for none.
    """
    lengths = structure.lattice_parameters(np.asarray(crystal.lattice, float)[None])[0]
    symmetry = symmetry_search.find_symmetry(crystal, _SYMPREC)
    return drawn_values.to_json(
        {
            "formula": elements.cell_formula(crystal.atomic_numbers),
            "cell": lengths,
            "volume": abs(np.linalg.det(crystal.lattice)),
            "group": 0 if symmetry is None else int(symmetry.number),
            "symprec": _SYMPREC,
            "sites": _describe_sites(crystal, symmetry),
            "num_sites": crystal.num_sites,
            "shells": _describe_shells(crystal, symmetry),
            "nearest": _find_nearest(crystal, known),
        }
    )


def _describe_sites(crystal: structure.Crystal, symmetry: Any) -> list[dict[str, Any]]:
    # Rounded first: what is next to 1 is 0.
    coords = np.round(np.asarray(crystal.frac_coords, float), 5) % 1
    letters = [""] * crystal.num_sites if symmetry is None else symmetry.wyckoffs
    return [
        {
            "symbol": elements.symbol(int(number)),
            "letter": letter,
            "coords": coords[site],
        }
        for site, (number, letter) in enumerate(
            zip(crystal.atomic_numbers, letters, strict=True)
        )
    ][:_MAX_SITES]


def _describe_shells(crystal: structure.Crystal, symmetry: Any) -> list[dict[str, Any]]:
    """The nearest neighbours of each kind of site, once for sites that are alike."""
    # pymatgen comes with it.
    from pymatgen.optimization.neighbors import find_points_in_spheres

    lattice = np.ascontiguousarray(crystal.lattice, dtype=float)
    coords = np.ascontiguousarray(np.asarray(crystal.frac_coords, float) @ lattice)
    numbers = np.asarray(crystal.atomic_numbers, dtype=int)
    alike = (
        np.arange(len(numbers))
        if symmetry is None
        else np.asarray(symmetry.equivalent_atoms)
    )
    letters = [""] * len(numbers) if symmetry is None else symmetry.wyckoffs
    sites, counts = np.unique(alike, return_counts=True)
    sites, counts = sites[:_MAX_SITES], counts[:_MAX_SITES]
    length = (abs(np.linalg.det(lattice)) / len(numbers)) ** (1 / 3)
    reach = 2 * length
    while True:
        center, other, _, found = find_points_in_spheres(
            coords, coords[sites], reach, np.ones(3, np.int64), lattice, 1e-8
        )
        apart = found > 1e-8
        center, other, found = center[apart], other[apart], found[apart]
        shortest = np.full(len(sites), np.inf)
        np.minimum.at(shortest, center, found)
        if (shortest * _SHELL <= reach).all():
            break
        reach *= 1.5
    shells = []
    for place, (site, count) in enumerate(zip(sites, counts, strict=True)):
        within = (center == place) & (found <= _SHELL * shortest[place])
        neighbors = []
        for number in np.unique(numbers[other[within]]):
            of_kind = found[within][numbers[other[within]] == number]
            neighbors.append(
                {
                    "symbol": elements.symbol(int(number)),
                    "count": len(of_kind),
                    "shortest": of_kind.min(),
                    "longest": of_kind.max(),
                }
            )
        shells.append(
            {
                "symbol": elements.symbol(int(numbers[site])),
                "position": f"{count}{letters[site]}",
                "neighbors": neighbors,
            }
        )
    return shells


def _find_nearest(
    crystal: structure.Crystal, known: str | None
) -> dict[str, Any] | None:
    """The nearest known crystal; None where none is loaded."""
    if known is None:
        return None
    symbols = frozenset(
        elements.symbol(int(number)) for number in np.unique(crystal.atomic_numbers)
    )
    found = _read_known(known, symbols)
    place, composition, distance = nearness.find_nearest([crystal], found)[0]
    if place < 0:
        return {"id": "", "formula": "", "composition": None, "distance": None}
    name, nearest = found[place]
    return {
        "id": name,
        "formula": elements.cell_formula(nearest.atomic_numbers),
        "composition": composition,
        "distance": distance,
    }


@functools.lru_cache(maxsize=32)
def _read_known(
    path: str, symbols: frozenset[str]
) -> Sequence[tuple[str, structure.Crystal]]:
    from crystaljax.screening import known_crystals

    found = known_crystals.read(pathlib.Path(path), {symbols})
    return list(zip(found.ids, found.crystals, strict=True))
