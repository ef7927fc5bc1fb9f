"""Models of groups and positions: only what fits, the likeliest first, learned."""

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
from crystaljax.models import wyckoff_model
from crystaljax.training import wyckoff_training

HALIDES, METALS = (9, 17, 35, 53), (3, 11, 19, 37, 55)


def question(metal, halide, group, counts=(1, 1)):
    numbers = np.repeat([metal, halide], counts)
    return wyckoff_model.question_of(numbers, 0.1 * (metal == 3), group)


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
    asked = wyckoff_model.question_of(np.array([8, 8, 8, 8, 22, 22, 0, 0]), 0.5, 136, 2)
    assert asked.species == (22, 8)
    assert asked.counts == (1, 2)
    assert asked.formula == elements.reduced_formula(np.array([22, 8, 8]))
    with pytest.raises(ValueError, match="cannot be 4 primitive cells"):
        wyckoff_model.question_of(np.array([8, 8, 8, 8, 22, 22]), 0.5, 136, 4)


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
    asked = wyckoff_model.question_of(orbits.expand(crystal).atomic_numbers, 0.0, 136)
    numbers, positions = wyckoff_model.orbits_of(asked, assignment)
    np.testing.assert_array_equal(numbers, crystal.atomic_numbers)
    np.testing.assert_array_equal(positions, crystal.positions)


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


def test_groups_that_a_formula_cannot_have_are_impossible():
    asked = question(11, 17, 0, (1, 3))
    (row,) = trained().group_probabilities([asked])
    for group in range(1, 231):
        feasible = wyckoff.is_feasible(group, asked.counts)
        assert (row[group] > -50) == feasible
    assert row[0] < -50


def test_a_structure_is_not_shown_its_own_formula():
    library = trained().library
    asked = question(11, 17, 225)
    members, distances = library.nearest(asked, 50)
    assert len(members) == 14
    assert all(library.questions[i].formula != asked.formula for i in members)
    assert (np.diff(distances) >= 0).all()
    assert library.nearest(question(11, 17, 62, (4, 4)), 4)[0] == []


def test_group_that_cannot_hold_the_sites_is_named():
    with pytest.raises(ValueError, match="space group 227 cannot hold"):
        trained().likely_assignments([question(11, 17, 227, (1, 3))], 1)
