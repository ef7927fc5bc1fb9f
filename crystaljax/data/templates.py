"""Templates: known crystals that, with other elements, could answer a request.

Most crystals are of a structure type that is known (a prototype), so the training
structures of the same stoichiometry and space group, with chemically similar elements
in the same roles, are good first guesses. A network that is shown some of them, put
into the words of the question, need not keep all prototypes in its parameters and has
to learn only which one to follow, and how it must change. Species have the same role
if they take the same place in the order of `roles`. The templates of a question, and in
training the structure itself, are written in the setting of the first template
(`alignment`), so that their coordinates can be followed as they are.
"""

import collections
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Integer
from scipy import spatial

from crystaljax.crystals import alignment, elements, sample_tensors, structure
from crystaljax.data import dataset as datasets
from crystaljax.system import workers

# Mendeleev numbers that weigh as much as one deviation of the energies.
_NUMBERS_PER_DEVIATION = 10.0
# Of a structure with four templates.
_SECONDS_EACH = 0.01

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
        atomic_numbers: of the requested cell.
        space_group: requested.
        energy: requested, eV/atom.
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
        num_neighbors = min(count + len(found), len(members))
        while True:
            _, nearest = library.trees[group].query(point, k=num_neighbors)
            candidates = members[np.atleast_1d(nearest)].tolist()
            good = [
                each
                for each in candidates
                if each not in found and library.formulas[each] != without_formula
            ]
            if len(good) >= count - len(found) or num_neighbors == len(members):
                break
            num_neighbors = min(2 * num_neighbors, len(members))
        found += good[: count - len(found)]
    return np.array(found + [-1] * (count - len(found)), dtype=np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class Shown:
    """Training structures with their templates, all in the setting of the first.

    Attributes:
        structures: the data set, training structures in the setting of their first
            template, see `alignment`.
        templates: one data set for each place among the templates, with the sites of
            the structure that they are shown to: a template's site stands where its
            role is played. Space group 0 and zeros where there is no template.
    """

    structures: datasets.Dataset
    templates: tuple[datasets.Dataset, ...]


def show_in_training(
    library: Library,
    count: int,
    *,
    num_workers: int | None = None,
    description: str | None = None,
) -> Shown:
    """Every training structure of the data set with its templates.

    Those of its own formula do not count: held-out formulas have none either.

    Args:
        library: of the data set.
        count: templates of each.
        num_workers: processes; None for all CPUs, or this one if there is little to do.
        description: label of a progress bar; none if None.
    """
    dataset = library.dataset
    found = {
        index: find(
            library,
            _numbers(dataset, index),
            int(dataset.space_group[index]),
            float(dataset.formation_energy[index]),
            count,
            without_formula=formula,
        )
        for index, formula in library.formulas.items()
    }
    found = {index: each[each >= 0] for index, each in found.items() if each[0] >= 0}
    items = (
        [datasets.crystal(dataset, int(each)) for each in (index, *shown)]
        for index, shown in found.items()
    )
    num_workers = workers.choose_num_workers(num_workers, len(found), _SECONDS_EACH)
    made = workers.map_in_workers(
        _align_with_templates,
        items,
        num_workers=num_workers,
        description=description,
        total=len(found),
    )
    coords, lattice = dataset.frac_coords.copy(), dataset.lattice.copy()
    places = [_nothing_like(dataset) for _ in range(count)]
    for (index, shown), (own, theirs) in zip(found.items(), made, strict=True):
        sites = slice(dataset.offsets[index], dataset.offsets[index + 1])
        coords[sites], lattice[index] = own.frac_coords, own.lattice
        for place, template, crystal in zip(places, shown, theirs, strict=False):
            place.atomic_numbers[sites] = crystal.atomic_numbers
            place.frac_coords[sites] = crystal.frac_coords
            place.lattice[index] = crystal.lattice
            place.space_group[index] = dataset.space_group[template]
            place.formation_energy[index] = dataset.formation_energy[template]
    structures = dataclasses.replace(dataset, frac_coords=coords, lattice=lattice)
    return Shown(structures, tuple(places))


def _nothing_like(dataset: datasets.Dataset) -> datasets.Dataset:
    names = ("atomic_numbers", "frac_coords", "lattice")
    names += ("space_group", "formation_energy")
    zeros = {name: np.zeros_like(getattr(dataset, name)) for name in names}
    return dataclasses.replace(dataset, **zeros)


def _align_with_templates(
    crystals: Sequence[structure.Crystal],
) -> tuple[structure.Crystal, list[structure.Crystal]]:
    """A crystal and its templates, in the setting of the first of these."""
    own, *shown = crystals
    shown = _align_all(shown)
    counts = roles(own.atomic_numbers)[1]
    aligned, _ = alignment.align(_in_roles(own), shown[0], counts)
    back = np.argsort(_order_of_roles(own.atomic_numbers))
    return _reorder(aligned, back), [_reorder(each, back) for each in shown]


def gather(
    shown: Shown, indices: Int[np.ndarray, "*batch"], rows_of_sites: int
) -> sample_tensors.CrystalBatch:
    """As `dataset.gather`, with templates."""
    batch = datasets.gather(shown.structures, indices, rows_of_sites)
    each = [datasets.gather(place, indices, rows_of_sites) for place in shown.templates]

    def stack(name: str) -> np.ndarray:
        return np.stack([getattr(one, name) for one in each], axis=np.ndim(indices))

    templates = sample_tensors.TemplateBatch(
        **{
            name: stack(name)
            for name in sample_tensors.TemplateBatch.__dataclass_fields__
        }
    )
    return dataclasses.replace(batch, templates=templates)


def attach(conditions: Any, library: Library, count: int) -> Any:
    """Conditions with their templates, all in the setting of the first.

    The first is the nearest, and for further samples of the same the next ones, so that
    these need not follow the same template.
    """
    numbers = np.asarray(conditions.atomic_numbers)
    batch, sites = numbers.shape
    shown = sample_tensors.TemplateBatch(
        atomic_numbers=np.zeros((batch, count, sites), np.uint8),
        frac_coords=np.zeros((batch, count, sites, 3), np.float32),
        lattice=np.zeros((batch, count, 3, 3), np.float32),
        space_group=np.zeros((batch, count), np.uint8),
        energy=np.zeros((batch, count), np.float32),
    )
    dataset = library.dataset
    repetition = conditions.repetition
    if repetition is None:
        repetition = np.zeros(batch, np.int32)
    for row, (num_sites, group, energy, earlier) in enumerate(
        zip(
            np.asarray(conditions.num_sites).tolist(),
            np.asarray(conditions.space_group).tolist(),
            np.asarray(conditions.energy).tolist(),
            np.asarray(repetition).tolist(),
            strict=True,
        )
    ):
        own = numbers[row, :num_sites]
        # As in training. A polymorph of the formula itself would be taken for the
        # answer, and is none unless its energy is the requested one.
        formula = elements.reduced_formula(own)
        found = find(library, own, group, energy, count, without_formula=formula)
        found = np.roll(found[found >= 0], -earlier)
        found = tuple(found.tolist())
        order = _order_of_roles(own)
        for place, crystal in enumerate(_align_known(library, found)):
            shown.atomic_numbers[row, place, order] = crystal.atomic_numbers
            shown.frac_coords[row, place, order] = crystal.frac_coords
            shown.lattice[row, place] = crystal.lattice
            shown.space_group[row, place] = dataset.space_group[found[place]]
            shown.energy[row, place] = dataset.formation_energy[found[place]]
    return conditions.replace(templates=shown)


@functools.lru_cache(maxsize=16384)
def _align_known(library: Library, indices: tuple[int, ...]) -> list[structure.Crystal]:
    return _align_all([datasets.crystal(library.dataset, each) for each in indices])


def _align_all(crystals: Sequence[structure.Crystal]) -> list[structure.Crystal]:
    """Crystals in the setting of the first, their sites in the order of their roles."""
    if not crystals:
        return []
    first, *others = map(_in_roles, crystals)
    counts = roles(first.atomic_numbers)[1]
    return [first, *(alignment.align(each, first, counts)[0] for each in others)]


def _in_roles(crystal: structure.Crystal) -> structure.Crystal:
    return _reorder(crystal, _order_of_roles(crystal.atomic_numbers))


def _reorder(crystal: structure.Crystal, order: np.ndarray) -> structure.Crystal:
    return structure.Crystal(
        crystal.atomic_numbers[order], crystal.frac_coords[order], crystal.lattice
    )


def _order_of_roles(
    atomic_numbers: Integer[np.ndarray, " sites"],
) -> Int[np.ndarray, " sites"]:
    """The order that sorts sites as `roles` does species."""
    numbers = np.asarray(atomic_numbers)
    counts = (numbers[:, None] == numbers).sum(axis=1)
    return np.argsort(
        counts * 256 + elements.mendeleev_number()[numbers], kind="stable"
    )
