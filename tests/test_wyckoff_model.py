"""Models of groups and positions: only what fits, the likeliest first, learned."""

import collections
import dataclasses
import functools

import numpy as np
import pytest

from crystaljax.crystals import (
    elements,
    orbits,
    standard_choice,
    wyckoff,
    wyckoff_assignments,
)
from crystaljax.models import (
    orbit_estimator,
    prototype_library,
    wyckoff_files,
    wyckoff_model,
)
from crystaljax.system import errors
from crystaljax.training import wyckoff_training

HALIDES, METALS = (9, 17, 35, 53), (3, 11, 19, 37, 55)


def question(metal, halide, group, counts=(1, 1)):
    numbers = np.repeat([metal, halide], counts)
    return prototype_library.question_of(numbers, 0.1 * (metal == 3), group)


@functools.cache
def trained():
    """Fluorides are CsCl-like, other halides rock salt."""
    examples = []
    for metal in METALS:
        for halide in HALIDES:
            group = 221 if halide == 9 else 225
            asked = question(metal, halide, group)
            examples.append((asked, ((0,), (1,))))
    return wyckoff_training.train(
        examples,
        examples[::3],
        wyckoff_training.Settings(num_epochs=60, num_networks=1, width=32),
    )


def test_questions_are_about_the_primitive_cell():
    asked = prototype_library.question_of(
        np.array([8, 8, 8, 8, 22, 22, 0, 0]), 0.5, 136, 2
    )
    assert asked.species == (22, 8)
    assert asked.counts == (1, 2)
    assert asked.formula == elements.reduced_formula(np.array([22, 8, 8]))
    with pytest.raises(ValueError, match="cannot be 4 primitive cells"):
        prototype_library.question_of(np.array([8, 8, 8, 8, 22, 22]), 0.5, 136, 4)


def test_assignment_and_orbits_there_and_back():
    crystal = standard_choice.choose(
        orbits.OrbitCrystal(
            136,
            np.array([8, 22]),
            np.array([5, 0]),
            np.array([[0.3, 0, 0], [0, 0, 0]]),
            np.array([4.8, 0.2, 0, 0, 0, 0]),
        )
    )
    assignment = wyckoff_model.assignment_of(crystal)
    assert assignment == ((0,), (5,))
    asked = prototype_library.question_of(
        orbits.expand(crystal).atomic_numbers, 0.0, 136
    )
    numbers, positions = wyckoff_model.orbits_of(asked, assignment)
    np.testing.assert_array_equal(numbers, crystal.atomic_numbers)
    np.testing.assert_array_equal(positions, crystal.positions)


def test_positions_that_can_be_filled_are_as_probable_as_among_all():
    model = trained()
    inputs = []
    # Few options, all of a large group, and a single one.
    for group, counts in ((221, (1, 1)), (47, (4, 4)), (225, (1, 1)), (1, (1, 1))):
        asked = question(11, 9, group, counts)
        start = wyckoff_assignments.begin(group, asked.counts)
        shown = wyckoff_model._species_inputs(asked, np.array([0.3, 0.7]))
        inputs.append(wyckoff_model.position_inputs(start, asked, [], shown))
    found = np.exp(model._step_probabilities(inputs))
    batch = wyckoff_model.stack(inputs)
    whole = [
        model._position_fn(params, batch, model._table)
        for params in model.position_params
    ]
    assert sorted(batch["mask"].sum(axis=1).tolist())[0] == 1
    assert batch["mask"].sum(axis=1).max() > wyckoff_model._FEW_OPTIONS
    np.testing.assert_allclose(found, np.mean(whole, axis=0), atol=1e-6)


def test_positions_and_groups_are_learned():
    model = trained()
    asked = [question(11, 9, 221), question(19, 35, 225)]
    for found in model.likely_assignments(asked, 3):
        assert found[0][1] == ((0,), (1,))
        # a and b are alike: one description stands for both.
        assert len(found) == 1
        assert found[0][0] == pytest.approx(0, abs=0.05)
    groups = model.group_probabilities(
        [question(37, 9, 0), question(37, 17, 0), question(3, 53, 0)]
    )
    assert groups.argmax(axis=1).tolist() == [221, 225, 225]
    np.testing.assert_allclose(np.exp(groups).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("group", "counts"), [(62, (4, 8)), (47, (1, 2)), (123, (2, 4)), (2, (1, 3))]
)
def test_all_answers_fit_and_where_they_are_few_they_are_all(group, counts):
    model = trained()
    asked = question(11, 17, group, counts)
    (found,) = model.likely_assignments([asked], 10**4, width=10**4)
    every = wyckoff_assignments.list_assignments(group, asked.counts)
    canonical = {wyckoff_assignments.canonical(group, each) for each in every}
    assert len(found) == len(canonical)
    assert {each for _, each in found} <= set(every)
    logarithms = [p for p, _ in found]
    assert logarithms == sorted(logarithms, reverse=True)
    assert np.logaddexp.reduce(logarithms) == pytest.approx(0, abs=1e-3)
    # A narrow beam finds the likeliest too, or one that is not far.
    (narrow,) = model.likely_assignments([asked], 1, width=16)
    assert narrow[0][1] in set(every)


def test_what_is_improbable_is_not_followed_and_the_rest_stays_as_it_is():
    model = trained()
    asked = question(11, 17, 62, (4, 8))
    (whole,) = model.likely_assignments([asked], 10**4, width=10**4)
    (likely,) = model.likely_assignments([asked], 10**4, width=10**4, least=0.2)
    assert 0 < len(likely) < len(whole)
    assert likely[0][1] == whole[0][1]
    # Less where a description of the same is improbable.
    of_all = {each: logarithm for logarithm, each in whole}
    assert all(logarithm <= of_all[each] + 1e-6 for logarithm, each in likely)
    assert all(each[0] > whole[0][0] + np.log(0.2 / 8) for each in likely)


def test_groups_that_a_formula_cannot_have_are_impossible():
    asked = question(11, 17, 0, (1, 3))
    (row,) = trained().group_probabilities([asked])
    for group in range(1, 231):
        feasible = wyckoff.is_feasible(group, asked.counts)
        assert (row[group] > -50) == feasible
    assert row[0] < -50


def shares_by_formula(examples, entries):
    """What the structures of each formula contribute to a library."""
    members = collections.defaultdict(list)
    for index, (asked, _) in enumerate(examples):
        members[asked.formula].append(index)
    return {
        formula: prototype_library.shares_of(
            [examples[i] for i in rows], [entries[i] for i in rows]
        )
        for formula, rows in members.items()
    }


def test_a_structure_is_not_shown_its_own_formula():
    examples = []
    for metal in METALS:
        for halide in HALIDES:
            asked = question(metal, halide, 225)
            # Apart in energy: entries of their own.
            asked = dataclasses.replace(asked, energy=2.0 * (metal == 3))
            examples.append((asked, ((0,), (1,))))
    library, entries = prototype_library.build_library(examples)
    shares = shares_by_formula(examples, entries)
    assert library.sizes.sum() == len(examples) > len(library) > 1
    asked = question(11, 17, 225)
    ((entry, share),) = shares[asked.formula].items()
    assert share.size == 1 and library.sizes[entry] > 1
    assert library.nearest(asked, 50)[1][0] < library.nearest(asked, 50)[1][1]
    # Without the formula an entry is the mean of the others.
    members, distances = library.nearest(asked, 50, shares[asked.formula])
    assert (np.diff(distances) >= 0).all() and len(members) == len(library)
    mendeleev = elements.mendeleev_number()
    others = [
        mendeleev[list(each.species)]
        for each, _ in examples
        if entry in shares[each.formula] and each.formula != asked.formula
    ]
    apart = (np.mean(others, axis=0) - mendeleev[list(asked.species)]) / 10
    expected = np.sqrt(np.mean(apart**2))
    assert distances[members.index(entry)] == pytest.approx(expected)
    assert library.nearest(question(11, 17, 62, (4, 4)), 4)[0] == []


def test_an_entry_of_one_formula_is_not_shown_to_it():
    examples = [(question(11, 17, 225), ((0,), (1,)))] * 3
    library, entries = prototype_library.build_library(examples)
    shares = shares_by_formula(examples, entries)
    asked = question(11, 17, 225)
    assert library.nearest(asked, 4)[0] == [0]
    assert library.nearest(asked, 4, shares[asked.formula])[0] == []


def polymorphs(seed, count):
    """Carbons of one group on one of two positions, whose energies lie close together.

    Each polymorph was found several times, at the same energy but for the last digits.
    """
    kinds = np.random.default_rng(0).random(40)
    rng = np.random.default_rng(seed)
    examples = []
    for kind in rng.integers(len(kinds), size=count).tolist():
        energy = float(kinds[kind] + 1e-4 * rng.normal())
        asked = prototype_library.question_of(np.full(2, 6), energy, 225)
        examples.append((asked, ((2,),) if kind % 2 else ((0, 1),)))
    return examples


def test_the_energy_tells_which_polymorph_is_meant_where_formulas_are_shared():
    model = wyckoff_training.train(
        polymorphs(1, 300),
        polymorphs(2, 50),
        wyckoff_training.Settings(num_epochs=30, num_networks=1, width=32),
    )
    assert len(model.library) >= 38
    asked = polymorphs(3, 100)
    found = model.likely_assignments([each for each, _ in asked], 1)
    right = [one[0][1] == answer for one, (_, answer) in zip(found, asked, strict=True)]
    assert np.mean(right) > 0.9


def test_what_is_left_out_for_an_example_is_what_is_new_in_held_out_ones():
    examples = polymorphs(1, 40)
    _, entries = prototype_library.build_library(examples)
    salt = [(question(11, 17, 225), ((0,), (1,)))]

    def left_out(held_out):
        found = wyckoff_training._left_out(examples, held_out, entries, 0)
        return [sum(share.size for share in each.values()) for each in found]

    assert left_out(polymorphs(2, 5)) == [1] * 40
    assert left_out(salt) == left_out([]) == [40] * 40
    half = left_out(polymorphs(2, 5) + 5 * salt)
    assert set(half) == {1, 40} and 10 < half.count(1) < 30


def test_energies_are_learned():
    found = trained().likely_energies([question(3, 9, 0), question(19, 35, 0)])
    np.testing.assert_allclose(found, [0.1, 0.0], atol=0.03)


def test_a_model_is_the_same_when_it_is_read_back(tmp_path):
    estimator = orbit_estimator.OrbitEstimator({"params": {"a": np.ones(2)}}, depth=3)
    model = dataclasses.replace(trained(), estimator=estimator)
    path = tmp_path / "positions.npz"
    wyckoff_files.save(model, path)
    again = wyckoff_files.load(path, "train again")
    asked = [question(11, 9, 221), question(19, 35, 225)]
    assert again.likely_assignments(asked, 3) == model.likely_assignments(asked, 3)
    open_asked = [question(37, 9, 0)]
    np.testing.assert_array_equal(
        again.group_probabilities(open_asked), model.group_probabilities(open_asked)
    )
    np.testing.assert_array_equal(
        again.likely_energies(open_asked), model.likely_energies(open_asked)
    )
    assert again.estimator.depth == 3
    np.testing.assert_array_equal(again.estimator.params["params"]["a"], np.ones(2))
    wyckoff_files.save(trained(), path)
    assert wyckoff_files.load(path, "train again").estimator is None


@pytest.mark.parametrize("damage", ["missing", "empty", "half", "other"])
def test_a_damaged_model_is_named(tmp_path, damage):
    path = tmp_path / "positions.npz"
    wyckoff_files.save(trained(), path)
    data = path.read_bytes()
    match damage:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "half":
            path.write_bytes(data[: len(data) // 2])
        case "other":
            np.savez(path, version=np.array(99))
    with pytest.raises(errors.UserError, match=r"positions\.npz .*; train again"):
        wyckoff_files.load(path, "train again")


def test_group_that_cannot_hold_the_sites_is_named():
    with pytest.raises(ValueError, match="space group 227 cannot hold"):
        trained().likely_assignments([question(11, 17, 227, (1, 3))], 1)
