"""Which known crystal is nearest to a crystal that equals none?

First by composition, then by the distances between its atoms: for each pair of elements
the mean sorted distances of the nearest neighbours, in units of the cube root of the
volume per atom. That is the average minimum distance of D. Widdowson et al., MATCH 87,
529 (2022), taken by pairs of elements, since all orderings of a lattice have the same
distances otherwise. Always there, unlike a match, and cheap; it is no proof of
anything: crystals with 0 between them may still differ, in handedness for one.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from pymatgen.optimization.neighbors import find_points_in_spheres

from crystaljax.crystals import structure, validity

# The first shell of a close packing.
_NUM_NEIGHBORS = 12
_SAME_SITE = 1e-8  # Å
# Rounding; compositions are fractions of whole numbers.
_SAME_COMPOSITION = 1e-9
# Atomic numbers with their shares of the atoms.
_Fractions = tuple[tuple[int, float], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Shape:
    """What is compared of a crystal.

    Attributes:
        fractions: of the atoms, by atomic number.
        distances: by pair of atomic numbers, (neighbors,), without unit.
    """

    fractions: Mapping[int, float]
    distances: Mapping[tuple[int, int], np.ndarray]


def describe(crystal: structure.Crystal) -> Shape:
    """Composition and distances of a crystal.

    Args:
        crystal: must pass `validity.find_cell_problem`.
    """
    numbers = np.asarray(crystal.atomic_numbers, dtype=int)
    lattice = np.ascontiguousarray(crystal.lattice, dtype=float)
    coords = np.ascontiguousarray(np.asarray(crystal.frac_coords, float) @ lattice)
    species, counts = np.unique(numbers, return_counts=True)
    length = (abs(np.linalg.det(lattice)) / len(numbers)) ** (1 / 3)
    distances = {}
    for other, count in zip(species.tolist(), counts.tolist(), strict=True):
        points = coords[numbers == other]
        # A sphere that holds twice as many of these atoms, and more where it must.
        reach = length * (0.5 * _NUM_NEIGHBORS * len(numbers) / count) ** (1 / 3)
        while True:
            center, _, _, found = find_points_in_spheres(
                points, coords, reach, np.ones(3, np.int64), lattice, 1e-8
            )
            apart = found > _SAME_SITE
            center, found = center[apart], found[apart]
            if np.bincount(center, minlength=len(numbers)).min() >= _NUM_NEIGHBORS:
                break
            reach *= 1.3
        nearest = np.array(
            [np.sort(found[center == i])[:_NUM_NEIGHBORS] for i in range(len(numbers))]
        )
        for each in species.tolist():
            distances[each, other] = nearest[numbers == each].mean(axis=0) / length
    total = len(numbers)
    fractions = {
        n: c / total for n, c in zip(species.tolist(), counts.tolist(), strict=True)
    }
    return Shape(fractions, distances)


def composition_difference(one: Shape, other: Shape) -> float:
    """Share of the atoms that would have to be exchanged, 0 to 1."""
    numbers = one.fractions.keys() | other.fractions.keys()
    return 0.5 * sum(
        abs(one.fractions.get(n, 0.0) - other.fractions.get(n, 0.0)) for n in numbers
    )


def distance_difference(one: Shape, other: Shape) -> float:
    """Mean difference of the distances of pairs that both have; inf for no pair."""
    pairs = one.distances.keys() & other.distances.keys()
    if not pairs:
        return float("inf")
    return float(
        np.mean([np.abs(one.distances[p] - other.distances[p]).mean() for p in pairs])
    )


def find_nearest(
    crystals: Sequence[structure.Crystal],
    known: Sequence[tuple[str, structure.Crystal]],
) -> list[tuple[int, float, float]]:
    """The known crystal nearest to each crystal.

    Args:
        crystals: to search; each must pass `validity.find_cell_problem`.
        known: ids and crystals; those without any element of a crystal, and those that
            are no crystals, are not near it.

    Returns:
        Place among ``known`` (-1 for none), difference of the compositions, and of the
        distances.
    """
    # Of many crystals few compositions are different.
    members: dict[_Fractions, list[int]] = collections.defaultdict(list)
    for i, (_, each) in enumerate(known):
        if not validity.find_cell_problem(each):
            members[_fractions(each)].append(i)
    nearest_compositions: dict[_Fractions, tuple[list[int], float]] = {}
    shapes: dict[int, Shape] = {}
    nearest = []
    for crystal in crystals:
        own = describe(crystal)
        key = _fractions(crystal)
        if key not in nearest_compositions:
            nearest_compositions[key] = _find_nearest_compositions(key, members)
        chosen, difference = nearest_compositions[key]
        best = (-1, np.nan, np.nan)
        for i in chosen:
            if i not in shapes:
                shapes[i] = describe(known[i][1])
            distance = distance_difference(own, shapes[i])
            if best[0] < 0 or distance < best[2]:
                best = (i, difference, distance)
        nearest.append(best)
    return nearest


def _find_nearest_compositions(
    own: _Fractions, members: Mapping[_Fractions, Sequence[int]]
) -> tuple[list[int], float]:
    """Places of known crystals of the nearest compositions, and the difference."""
    numbers = {number for number, _ in own}
    apart = {
        key: composition_difference(Shape(dict(own), {}), Shape(dict(key), {}))
        for key in members
        if numbers & {number for number, _ in key}
    }
    least = min(apart.values(), default=np.nan)
    chosen = [key for key, each in apart.items() if each <= least + _SAME_COMPOSITION]
    return sorted(i for key in chosen for i in members[key]), float(least)


def _fractions(crystal: structure.Crystal) -> _Fractions:
    numbers, counts = np.unique(np.asarray(crystal.atomic_numbers), return_counts=True)
    # The same for one and for two formula units.
    shares = np.round(counts / counts.sum(), 12).tolist()
    return tuple(zip(numbers.tolist(), shares, strict=True))
