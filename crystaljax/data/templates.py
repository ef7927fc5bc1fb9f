"""Templates: known crystals that could be what is asked for, with other elements.

Most crystals are of a structure type that is known (a prototype), so the training
structures of the same stoichiometry and space group, with chemically similar elements
in the same roles, are good first guesses. A network that is shown some of them, put
into the words of the question, need not keep all prototypes in its parameters and has
to learn only which one to follow, and how it must change. Species have the same role
if they take the same place in the order of `roles`; data sets with
``origin="mendeleev"`` write crystals of one prototype alike, so that coordinates of a
template can be followed as they are.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Integer, UInt8
from scipy import spatial

from crystaljax import elements, structure
from crystaljax.data import dataset as datasets

# Mendeleev numbers that weigh as much as one deviation of the energies.
_NUMBERS_PER_DEVIATION = 10.0

# Numbers of sites of the species, ascending; and the space group, 0 for any.
_Group = tuple[tuple[int, ...], int]


@dataclasses.dataclass(frozen=True, eq=False)
class Library:
    """Training structures by what they can be templates for.

    Attributes:
        dataset: that they are in.
        energy_scale: standard deviation of their energies, eV/atom.
        members: indices of the structures of each group, ascending; every structure is
            in the group of its space group and in that of all.
        trees: nearest neighbours among these by species and energy.
        formulas: reduced formula of each structure of the data set that is a member.
    """

    dataset: datasets.Dataset
    energy_scale: float
    members: dict[_Group, np.ndarray]
    trees: dict[_Group, spatial.KDTree]
    formulas: dict[int, str]


def roles(
    atomic_numbers: Integer[np.ndarray, " sites"],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Species, rarest first and then by Mendeleev number; their numbers of sites."""
    counts = collections.Counter(np.asarray(atomic_numbers).tolist())
    numbers = elements.mendeleev_number()
    species = sorted(counts, key=lambda each: (counts[each], numbers[each]))
    return tuple(species), tuple(counts[each] for each in species)


def build_library(dataset: datasets.Dataset) -> Library:
    """The library of a data set's training structures."""
    train = dataset.indices("train")
    energy = np.asarray(dataset.formation_energy, dtype=np.float64)
    scale = float(energy[train].std()) or 1.0
    groups: dict[_Group, list[int]] = collections.defaultdict(list)
    points: dict[_Group, list[np.ndarray]] = collections.defaultdict(list)
    formulas = {}
    for index in train.tolist():
        numbers = _numbers(dataset, index)
        species, counts = roles(numbers)
        formulas[index] = elements.reduced_formula(numbers)
        for group in (int(dataset.space_group[index]), 0):
            groups[counts, group].append(index)
            points[counts, group].append(_point(species, float(energy[index]), scale))
    return Library(
        dataset,
        scale,
        {key: np.array(members) for key, members in groups.items()},
        {key: spatial.KDTree(np.array(each)) for key, each in points.items()},
        formulas,
    )


def _numbers(dataset: datasets.Dataset, index: int) -> np.ndarray:
    start, end = dataset.offsets[index], dataset.offsets[index + 1]
    return np.asarray(dataset.atomic_numbers[start:end])


def _point(species: Sequence[int], energy: float, scale: float) -> np.ndarray:
    numbers = elements.mendeleev_number()[list(species)] / _NUMBERS_PER_DEVIATION
    return np.append(numbers / np.sqrt(len(species)), energy / scale)


def find(
    library: Library,
    atomic_numbers: Integer[np.ndarray, " sites"],
    space_group: int,
    energy: float,
    count: int,
    *,
    without_formula: str | None = None,
) -> Int[np.ndarray, " {count}"]:
    """Indices of the nearest templates, -1 where there are not so many.

    Those of the space group come first, each kind by distance: root mean square of the
    differences of Mendeleev numbers, in tens, and the difference of energies, in
    standard deviations.

    Args:
        library: to look in.
        atomic_numbers: of the cell that is asked for.
        space_group: that is asked for.
        energy: that is asked for, eV/atom.
        count: how many.
        without_formula: reduced formula of structures that do not count.
    """
    species, counts = roles(atomic_numbers)
    point = _point(species, energy, library.energy_scale)
    found: list[int] = []
    for group in ((counts, space_group), (counts, 0)):
        if group not in library.members or len(found) >= count:
            continue
        members = library.members[group]
        # As many more as may have to be passed over.
        wanted = min(count + len(found), len(members))
        while True:
            _, nearest = library.trees[group].query(point, k=wanted)
            candidates = members[np.atleast_1d(nearest)].tolist()
            good = [
                each
                for each in candidates
                if each not in found and library.formulas[each] != without_formula
            ]
            if len(good) >= count - len(found) or wanted == len(members):
                break
            wanted = min(2 * wanted, len(members))
        found += good[: count - len(found)]
    return np.array(found + [-1] * (count - len(found)), dtype=np.int32)


def find_for_training(library: Library, count: int) -> Int[np.ndarray, "all {count}"]:
    """Templates of every training structure of the data set, -1 for all others.

    Those of its own formula do not count: held-out formulas have none either.
    """
    dataset = library.dataset
    found = np.full((len(dataset), count), -1, dtype=np.int32)
    for index in library.formulas:
        found[index] = find(
            library,
            _numbers(dataset, index),
            int(dataset.space_group[index]),
            float(dataset.formation_energy[index]),
            count,
            without_formula=library.formulas[index],
        )
    return found


def gather(
    dataset: datasets.Dataset,
    indices: Int[np.ndarray, "*batch count"],
    atomic_numbers: UInt8[np.ndarray, "*batch sites"],
) -> structure.TemplateBatch:
    """Templates, their sites in the order of those that take their roles.

    Args:
        dataset: that the templates are in.
        indices: of the templates; -1 where there is none, which becomes zeros.
        atomic_numbers: of the cells that are asked for, 0 beyond their sites.
    """
    exists = indices >= 0
    batch = datasets.gather(dataset, np.maximum(indices, 0), atomic_numbers.shape[-1])
    theirs = np.where(exists[..., None], batch.atomic_numbers, 0)
    ours = np.broadcast_to(atomic_numbers[..., None, :], theirs.shape)
    # The sites that come first in the order of roles belong together, and so on.
    from_order = np.argsort(_role_keys(theirs), axis=-1, kind="stable")
    to_order = np.argsort(_role_keys(ours), axis=-1, kind="stable")
    source = np.zeros_like(from_order)
    np.put_along_axis(source, to_order, from_order, axis=-1)
    coords = np.take_along_axis(batch.frac_coords, source[..., None], axis=-2)
    numbers = np.take_along_axis(theirs, source, axis=-1)
    return structure.TemplateBatch(
        atomic_numbers=numbers.astype(np.uint8),
        frac_coords=np.where(numbers[..., None] > 0, coords, 0).astype(np.float32),
        lattice=np.where(exists[..., None, None], batch.lattice, 0).astype(np.float32),
        space_group=np.where(exists, batch.space_group, 0).astype(np.uint8),
        energy=np.where(exists, batch.energy, 0).astype(np.float32),
    )


def _role_keys(atomic_numbers: np.ndarray) -> np.ndarray:
    """Keys that sort sites as `roles` does species, padding last."""
    same = atomic_numbers[..., :, None] == atomic_numbers[..., None, :]
    keys = same.sum(axis=-1) * 256 + elements.mendeleev_number()[atomic_numbers]
    return np.where(atomic_numbers > 0, keys, np.iinfo(np.int64).max)


def attach(conditions: Any, library: Library, count: int) -> Any:
    """Conditions with their templates."""
    numbers = np.asarray(conditions.atomic_numbers)
    indices = np.array(
        [
            find(
                library,
                row[:num_sites],
                int(group),
                float(energy),
                count,
                # As in training. A polymorph of the formula itself would be taken for
                # the answer, and is none unless its energy is the one asked for.
                without_formula=elements.reduced_formula(row[:num_sites]),
            )
            for row, num_sites, group, energy in zip(
                numbers,
                np.asarray(conditions.num_sites).tolist(),
                np.asarray(conditions.space_group).tolist(),
                np.asarray(conditions.energy).tolist(),
                strict=True,
            )
        ]
    )
    return conditions.replace(templates=gather(library.dataset, indices, numbers))
