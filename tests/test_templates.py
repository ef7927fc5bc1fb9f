"""Templates: the right ones, and put into the words of the question."""

import collections

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from crystaljax import canonical, elements, structure
from crystaljax.conditions import Conditions
from crystaljax.data import columnar, templates
from crystaljax.data import dataset as datasets

ELEMENTS = [3, 11, 12, 20, 22, 29, 30, 8, 16, 17]
FORMS = [(1, 1), (1, 2), (2, 2), (1, 1, 3)]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    rng = np.random.default_rng(0)
    crystals, groups = [], []
    for _ in range(120):
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
        [f"crystal-{i}" for i in range(120)],
        [elements.cell_formula(each.atomic_numbers) for each in crystals],
        crystals,
        groups,
        rng.normal(0, 0.5, 120).tolist(),
    )
    datasets.write_dataset(path, columns, np.where(np.arange(120) < 100, 0, 2), {})
    return templates.build_library(datasets.open_dataset(path))


def condition_of(dataset, index):
    crystal = datasets.crystal(dataset, int(index))
    return (
        crystal.atomic_numbers,
        int(dataset.space_group[index]),
        float(dataset.formation_energy[index]),
    )


def nearest_one_by_one(library, numbers, space_group, energy, count, without):
    """The definition, written plainly."""
    dataset = library.dataset
    species, counts = templates.roles(numbers)
    scale = np.std(dataset.formation_energy[dataset.indices("train")])
    found = []
    for index in dataset.indices("train").tolist():
        theirs = datasets.crystal(dataset, int(index)).atomic_numbers
        other, other_counts = templates.roles(theirs)
        if other_counts != counts or elements.reduced_formula(theirs) == without:
            continue
        rank = elements.mendeleev_number()
        apart = np.mean(((rank[list(species)] - rank[list(other)]) / 10) ** 2)
        apart += ((dataset.formation_energy[index] - energy) / scale) ** 2
        found.append((dataset.space_group[index] != space_group, apart, index))
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


def test_training_structures_never_see_their_own_formula(library):
    dataset = library.dataset
    found = templates.find_for_training(library, 4)
    train = dataset.indices("train")
    assert (found[dataset.indices("test")] == -1).all()
    assert (found[train] >= 0).any()
    for index in train.tolist():
        asked = condition_of(dataset, index)
        own = elements.reduced_formula(asked[0])
        assert found[index].tolist() == nearest_one_by_one(library, *asked, 4, own)


def test_templates_take_the_roles_of_the_question(library):
    dataset = library.dataset
    indices = np.concatenate([dataset.indices("train"), dataset.indices("test")])
    batch = datasets.gather(dataset, indices, 12)
    found = np.array(
        [templates.find(library, *condition_of(dataset, i), 3) for i in indices]
    )
    shown = templates.gather(dataset, found, batch.atomic_numbers)
    for row, ours in enumerate(batch.atomic_numbers):
        species, _ = templates.roles(ours[ours > 0])
        for slot, index in enumerate(found[row]):
            theirs = shown.atomic_numbers[row, slot]
            if index < 0:
                assert not theirs.any() and shown.space_group[row, slot] == 0
                assert not shown.frac_coords[row, slot].any()
                continue
            template = datasets.crystal(dataset, int(index))
            other, _ = templates.roles(template.atomic_numbers)
            np.testing.assert_array_equal(theirs > 0, ours > 0)
            for one, its in zip(species, other, strict=True):
                # A role has the sites of the template's species, in their order.
                np.testing.assert_array_equal(theirs[ours == one], its)
                np.testing.assert_allclose(
                    shown.frac_coords[row, slot][ours == one],
                    template.frac_coords[template.atomic_numbers == its],
                    atol=1e-6,
                )
            assert shown.energy[row, slot] == dataset.formation_energy[index]


def test_any_shape_of_batch_is_gathered_alike(library):
    dataset = library.dataset
    indices = np.arange(24)
    found = templates.find_for_training(library, 2)[indices]
    numbers = datasets.gather(dataset, indices, 12).atomic_numbers
    flat = templates.gather(dataset, found, numbers)
    folded = templates.gather(
        dataset, found.reshape(3, 8, 2), numbers.reshape(3, 8, 12)
    )
    np.testing.assert_array_equal(
        folded.frac_coords.reshape(flat.frac_coords.shape), flat.frac_coords
    )


def test_conditions_get_the_templates_of_what_they_ask(library):
    dataset = library.dataset
    indices = dataset.indices("test")
    batch = datasets.gather(dataset, indices, 12)
    conditions = Conditions(
        batch.atomic_numbers, batch.num_sites, batch.space_group, batch.energy
    )
    attached = templates.attach(conditions, library, 3)
    expected = []
    for i in indices.tolist():
        asked = condition_of(dataset, i)
        own = elements.reduced_formula(asked[0])
        expected.append(templates.find(library, *asked, 3, without_formula=own))
    shown = templates.gather(dataset, np.array(expected), batch.atomic_numbers)
    for name in ("atomic_numbers", "frac_coords", "lattice", "space_group", "energy"):
        np.testing.assert_array_equal(
            getattr(attached.templates, name), getattr(shown, name)
        )


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
