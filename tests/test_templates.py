"""Templates: the right ones, and put into the words of the question."""

import collections
import functools

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from crystaljax.crystals import canonical, elements, structure
from crystaljax.data import columnar, templates
from crystaljax.data import dataset as datasets
from crystaljax.matching import matcher
from crystaljax.sampling.conditions import Conditions

ELEMENTS = [3, 11, 12, 20, 22, 29, 30, 8, 16, 17]
FORMS = [(1, 1), (1, 2), (2, 2), (1, 1, 3)]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    rng = np.random.default_rng(0)
    crystals, groups = [], []
    for _ in range(72):
        counts = FORMS[rng.integers(len(FORMS))]
        species = rng.choice(ELEMENTS, len(counts), replace=False)
        numbers = np.repeat(species, counts)
        order = np.argsort([elements.symbol(int(n)) for n in numbers], kind="stable")
        coords = rng.random((len(numbers), 3))
        lattice = 4 * np.eye(3) + np.tril(rng.random((3, 3)))
        crystals.append(structure.Crystal(numbers[order], coords, lattice))
        groups.append(int(rng.choice([12, 62, 225])))
    path = tmp_path_factory.mktemp("templates") / "data"
    columns = columnar.columns_from_crystals(
        [f"crystal-{i}" for i in range(72)],
        [elements.cell_formula(each.atomic_numbers) for each in crystals],
        crystals,
        groups,
        rng.normal(0, 0.5, 72).tolist(),
    )
    datasets.write_dataset(path, columns, np.where(np.arange(72) < 60, 0, 2), {})
    return templates.build_library(datasets.open_dataset(path))


def condition_of(dataset, index):
    crystal = datasets.crystal(dataset, int(index))
    return (
        crystal.atomic_numbers,
        int(dataset.space_group[index]),
        float(dataset.formation_energy[index]),
    )


@functools.cache
def training_examples(library):
    """Index, species, counts, formula, space group and energy of each structure."""
    found = []
    for index in library.dataset.indices("train").tolist():
        numbers, group, energy = condition_of(library.dataset, index)
        formula = elements.reduced_formula(numbers)
        found.append((index, *templates.roles(numbers), formula, group, energy))
    return found


def nearest_one_by_one(library, numbers, space_group, energy, count, without):
    """The definition, written plainly."""
    species, counts = templates.roles(numbers)
    scale = np.std([each[-1] for each in training_examples(library)])
    rank = elements.mendeleev_number()
    found = []
    for index, other, other_counts, formula, group, its_energy in training_examples(
        library
    ):
        if other_counts != counts or formula == without:
            continue
        apart = np.mean(((rank[list(species)] - rank[list(other)]) / 10) ** 2)
        apart += ((its_energy - energy) / scale) ** 2
        found.append((group != space_group, apart, index))
    found = [index for *_, index in sorted(found)][:count]
    return found + [-1] * (count - len(found))


@pytest.mark.parametrize("count", [1, 3, 40])
def test_nearest_are_those_of_the_definition(library, count):
    for index in library.dataset.indices("test").tolist():
        asked = condition_of(library.dataset, index)
        for without in (None, elements.reduced_formula(asked[0])):
            found = templates.find(library, *asked, count, without_formula=without)
            expected = nearest_one_by_one(library, *asked, count, without)
            assert found.tolist() == expected


def shown_to(library, index, count):
    """Indices of the templates of a training structure, by the definition."""
    asked = condition_of(library.dataset, index)
    own = elements.reduced_formula(asked[0])
    return nearest_one_by_one(library, *asked, count, own)


def is_same(one, other):
    rms = matcher.match(one, other, [matcher.TOLERANCES["paper"]]).rms[0]
    return rms is not None and rms < 1e-4


@functools.cache
def show(library, count):
    """So many templates of each."""
    return templates.show_in_training(library, count, num_workers=1)


@pytest.fixture(scope="module")
def shown(library):
    return show(library, 4)


def test_processes_show_the_same(library, shown):
    for ours, theirs in zip(
        shown.templates,
        templates.show_in_training(library, 4, num_workers=2).templates,
        strict=True,
    ):
        for name in ("space_group", "formation_energy", "offsets", "atomic_numbers"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        for name in ("frac_coords", "lattice"):
            np.testing.assert_allclose(
                getattr(ours, name), getattr(theirs, name), atol=1e-6
            )


def test_training_structures_are_shown_other_formulas(library, shown):
    dataset = library.dataset
    energies = [place.formation_energy for place in shown.templates]
    assert not np.array(energies)[:, dataset.indices("test")].any()
    for index in dataset.indices("train").tolist():
        expected = shown_to(library, index, 4)
        assert expected[0] >= 0
        for place, template in zip(shown.templates, expected, strict=True):
            if template < 0:
                assert place.space_group[index] == 0
                assert not place.lattice[index].any()
                continue
            assert place.space_group[index] == dataset.space_group[template]
            assert place.formation_energy[index] == dataset.formation_energy[template]
            # The same crystal, in another setting.
            found = datasets.crystal(place, index)
            order = np.argsort(found.atomic_numbers, kind="stable")
            found = structure.Crystal(
                found.atomic_numbers[order], found.frac_coords[order], found.lattice
            )
            assert is_same(found, datasets.crystal(dataset, template))


def test_structures_are_what_they_were_in_the_setting_of_their_first_template(library):
    dataset = library.dataset
    shown = show(library, 2)
    for index in dataset.indices("train").tolist():
        before = datasets.crystal(dataset, index)
        after = datasets.crystal(shown.structures, index)
        np.testing.assert_array_equal(after.atomic_numbers, before.atomic_numbers)
        assert is_same(after, before)
        first = datasets.crystal(shown.templates[0], index)
        species, _ = templates.roles(before.atomic_numbers)
        # A site of the first role is where one of the template's is.
        ours = after.frac_coords[after.atomic_numbers == species[0]]
        theirs = first.frac_coords[after.atomic_numbers == species[0]]
        apart = ours[:, None] - theirs
        assert np.abs(apart - np.round(apart)).max(axis=-1).min() < 1e-6
    rest = dataset.indices("test")
    np.testing.assert_array_equal(shown.structures.lattice[rest], dataset.lattice[rest])


def test_templates_take_the_roles_of_the_question(library):
    dataset = library.dataset
    indices = dataset.indices("train")
    shown = show(library, 3)
    batch = templates.gather(shown, indices, 12)
    for row, ours in enumerate(batch.atomic_numbers):
        species, _ = templates.roles(ours[ours > 0])
        for place, index in enumerate(shown_to(library, indices[row], 3)):
            theirs = batch.templates.atomic_numbers[row, place]
            if index < 0:
                assert not theirs.any()
                continue
            numbers = datasets.crystal(dataset, index).atomic_numbers
            other, _ = templates.roles(numbers)
            np.testing.assert_array_equal(theirs > 0, ours > 0)
            for one, its in zip(species, other, strict=True):
                np.testing.assert_array_equal(theirs[ours == one], its)


def test_any_shape_of_batch_is_gathered_alike(library):
    shown = show(library, 2)
    indices = np.arange(24)
    flat = templates.gather(shown, indices, 12)
    folded = templates.gather(shown, indices.reshape(3, 8), 12)
    for one, other in zip(jax.tree.leaves(flat), jax.tree.leaves(folded), strict=True):
        np.testing.assert_array_equal(other.reshape(one.shape), one)
    assert flat.templates.frac_coords.shape == (24, 2, 12, 3)


def test_conditions_get_what_was_shown_in_training(library):
    """Asked for a training structure's own conditions."""
    dataset = library.dataset
    indices = dataset.indices("train")
    batch = templates.gather(show(library, 3), indices, 12)
    conditions = Conditions(
        batch.atomic_numbers, batch.num_sites, batch.space_group, batch.energy
    )
    attached = templates.attach(conditions, library, 3)
    for name in ("atomic_numbers", "frac_coords", "lattice", "space_group", "energy"):
        found, expected = (
            getattr(attached.templates, name),
            getattr(batch.templates, name),
        )
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_further_samples_follow_other_templates(library):
    dataset = library.dataset
    index = int(dataset.indices("test")[0])
    batch = datasets.gather(dataset, np.full(5, index), 12)
    conditions = Conditions(
        batch.atomic_numbers,
        batch.num_sites,
        batch.space_group,
        batch.energy,
        repetition=np.arange(5, dtype=np.int32),
    )
    attached = templates.attach(conditions, library, 3).templates
    asked = condition_of(dataset, index)
    own = elements.reduced_formula(asked[0])
    expected = nearest_one_by_one(library, *asked, 3, own)
    energies = dataset.formation_energy[expected]
    for number, found in enumerate(attached.energy):
        np.testing.assert_array_equal(found, np.roll(energies, -number))


@hypothesis.given(st.permutations(range(5)), st.booleans())
def test_crystals_of_one_prototype_are_written_alike(order, alphabetical_first):
    """Perovskites whose species come in either order by name."""
    a, b = ("Ba", "Ti") if alphabetical_first else ("Y", "Al")
    coords = np.array(
        [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    )
    numbers = np.array([elements.atomic_number(s) for s in (a, b, "O", "O", "O")])
    order = list(order)
    shift = np.array([0.1, 0.2, 0.3])
    crystal = structure.Crystal(numbers[order], coords[order] + shift, 3.9 * np.eye(3))
    found = canonical.canonical_crystal(crystal, "mendeleev")
    symbols = [elements.symbol(n) for n in found.atomic_numbers.tolist()]
    assert symbols == sorted(symbols)
    by_role = collections.defaultdict(list)
    for number, coordinates in zip(
        found.atomic_numbers.tolist(), found.frac_coords, strict=True
    ):
        by_role[elements.symbol(number)].append(coordinates)
    np.testing.assert_allclose(by_role[a], [[0, 0, 0]], atol=1e-9)
    np.testing.assert_allclose(by_role[b], [[0.5, 0.5, 0.5]], atol=1e-9)
    assert np.isclose(np.array(by_role["O"]).sum(), 3)
