"""From questions to crystals by orbits: whole cells, keys, and what cannot be."""

import functools

import jax
import numpy as np
import pytest

from crystaljax.crystals import elements, orbits, symmetry_search
from crystaljax.models import (
    initial,
    processes,
    prototype_library,
    scaling,
    wyckoff_model,
)
from crystaljax.models.networks import orbit_transformer
from crystaljax.sampling import likely_orbits, orbit_conditions, orbit_generation
from crystaljax.system import errors, sharding
from crystaljax.training import wyckoff_training

RUTILE = np.array([22, 22, 8, 8, 8, 8])


@functools.cache
def generator(batch_size=4):
    model = orbit_transformer.OrbitTransformer(
        width=16, depth=1, num_heads=2, pair_features=4
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: np.float32(leaf + rng.normal(0, 0.05, leaf.shape)),
        initial.init_params(model, 0, 0),
    )
    mesh = sharding.build_local_mesh()
    process = processes.FlowMatching(
        processes.sample_torus, period=1.0, answer="direction", time_power=2.0
    )
    return orbit_generation.OrbitGenerator(
        generate_fn=orbit_generation.build_generate_fn(model, process, 2, mesh),
        scale=scaling.Scaling(0.0, 1.0, 0.0, 1.0, 0.0, 1.0, np.full(104, 15.0)),
        tables=orbits.load_tables(),
        positions=None,
        mesh=mesh,
        shapes=((2, 8), (5, 12)),
        batch_size=batch_size,
        params=params,
    )


def request(num_cells=1):
    question, cells = likely_orbits.find_question(np.tile(RUTILE, num_cells), 136, 0.0)
    # The largest cell that the group allows is taken for the primitive one.
    question = prototype_library.question_of(RUTILE, question.energy, 136)
    return likely_orbits.Request(question, ((0,), (5,)), max(cells, num_cells))


def test_cells_are_primitive_where_they_can_be():
    question, num_cells = likely_orbits.find_question(RUTILE, 136, 0.3)
    assert (question.counts, num_cells) == ((2, 4), 1)
    assert question.energy == 0.3
    # Diamond in a cell of eight: a primitive one of eight could be, so it is.
    question, num_cells = likely_orbits.find_question(np.full(8, 6), 227, 0.0)
    assert (question.counts, num_cells) == ((8,), 1)
    # Conventional rock salt: four of Na and Cl do not fill the group's positions.
    question, num_cells = likely_orbits.find_question(np.array([11, 17] * 3), 225, 0.0)
    assert (question.counts, num_cells) == ((1, 1), 3)


def test_impossible_group_is_named_with_cells_that_could_be():
    with pytest.raises(ValueError, match=r"cannot hold \[1\] sites") as raised:
        likely_orbits.find_question(np.array([6]), 227, 0.0)
    assert "cells of 2, 4" in str(raised.value)


def test_crystals_have_group_formula_and_cells():
    wanted = [request(), request(2)]
    crystals = generator().generate(wanted, jax.random.key(0))
    for crystal, each in zip(crystals, wanted, strict=True):
        numbers = np.tile(RUTILE, each.num_cells)
        assert elements.cell_formula(crystal.atomic_numbers) == elements.cell_formula(
            numbers
        )
        assert symmetry_search.find_space_group(crystal, 1e-3) == 136
        assert crystal.frac_coords.min() >= 0 and crystal.frac_coords.max() < 1


def test_a_crystal_is_the_same_whatever_the_batch():
    wanted = [request(), request(2), request(), request(), request()]
    ours = generator(4).generate(wanted, jax.random.key(3))
    theirs = generator(8).generate(wanted, jax.random.key(3))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.lattice, other.lattice, rtol=1e-4)
        apart = one.frac_coords - other.frac_coords
        np.testing.assert_allclose(apart - np.round(apart), 0, atol=1e-4)
    # The same question twice: another draw.
    assert np.abs(ours[2].lattice - ours[3].lattice).max() > 1e-3


def test_more_sites_or_orbits_than_the_model_holds_are_refused():
    question = prototype_library.question_of(np.full(16, 6), 0.0, 1)
    many = likely_orbits.Request(question, ((0,) * 16,))
    with pytest.raises(ValueError, match="16 sites, but the model holds 12"):
        generator().generate([many], jax.random.key(0))
    question = prototype_library.question_of(np.full(8, 6), 0.0, 1)
    many = likely_orbits.Request(question, ((0,) * 8,))
    with pytest.raises(ValueError, match="8 orbits, but the model holds 5"):
        generator().generate([many], jax.random.key(0))


def test_a_known_prototype_decides_how_many_cells_a_cell_holds():
    # Two of each fill the group's positions too, but rock salt is what is known.
    numbers = np.repeat([11, 17], 4)
    example = (
        prototype_library.question_of(np.array([11, 17]), 0.0, 225),
        ((0,), (1,)),
    )
    library, _ = prototype_library.build_library([example])
    assert likely_orbits.find_question(numbers, 225, 0.0)[1] == 2
    question, num_cells = likely_orbits.find_question(numbers, 225, 0.0, library)
    assert (question.counts, num_cells) == ((1, 1), 4)


def test_what_is_no_conventional_cell_is_primitive_where_it_can_be():
    # Five layers of CdI2 in R3m: of the prototype with one, a cell is three of them.
    numbers = np.repeat([48, 53], [5, 10])
    example = (
        prototype_library.question_of(np.array([48, 53, 53]), 0.0, 160),
        ((0,), (0, 0)),
    )
    library, _ = prototype_library.build_library([example])
    others = np.where(numbers == 48, 12, 17)
    assert likely_orbits.find_question(others, 160, 0.0, library)[1] == 1
    three = np.repeat([12, 17], [3, 6])
    assert likely_orbits.find_question(three, 160, 0.0, library)[1] == 3
    # But of the same elements crystals are known, and none that is like it.
    assert likely_orbits.find_question(numbers, 160, 0.0, library)[1] == 5


def test_energies_of_known_crystals_of_the_elements_decide_how_many_cells_it_is():
    # One cell of eight carbons at one energy, or diamond's two at another.
    examples = [
        (prototype_library.question_of(np.full(8, 6), 0.5, 227), ((0,),)),
        (prototype_library.question_of(np.full(2, 6), 0.1, 227), ((0,),)),
    ]
    library, _ = prototype_library.build_library(examples)
    for energy, num_cells in ((0.1, 4), (0.12, 4), (0.45, 1), (0.5, 1)):
        found = likely_orbits.find_question(np.full(8, 6), 227, energy, library)
        assert found[1] == num_cells
    # Of silicon none is known: their number alone says nothing.
    assert likely_orbits.find_question(np.full(8, 14), 227, 0.1, library)[1] == 1
    # Nor where no energy is requested.
    unknown = likely_orbits.find_question(np.full(8, 6), 227, np.nan, library)
    assert unknown[1] == 1


@functools.cache
def positions():
    examples = [(prototype_library.question_of(RUTILE, 0.0, 136), ((0,), (5,)))] * 4
    examples += [
        (prototype_library.question_of(np.array([22, 8, 8]), 0.0, 225), ((0,), (2,)))
    ] * 4
    return wyckoff_training.train(
        examples, [], wyckoff_training.Settings(num_epochs=2, num_networks=1, width=16)
    )


def test_likely_positions_come_once_each_and_then_as_often_as_they_are_probable():
    asked = [likely_orbits.find_question(RUTILE, 136, 0.0)] * 2
    made = likely_orbits.choose_orbits(positions(), asked, [40, 40], seed=1)
    again = likely_orbits.choose_orbits(positions(), asked, [40, 40], seed=1)
    (likely,) = positions().likely_assignments([asked[0][0]], 16)
    order = [assignment for _, assignment in likely]
    for requests, same in zip(made, again, strict=True):
        assert requests[0].probability == pytest.approx(np.exp(likely[0][0]))
        found = [r.assignment for r in requests]
        distinct = list(dict.fromkeys(found))
        assert distinct == order[: len(distinct)] and len(distinct) > 1
        assert found[: len(distinct)] == distinct
        assert found == [r.assignment for r in same]
    assert [r.assignment for r in made[0]] != [r.assignment for r in made[1]]
    # A single one is the first of many.
    ((single,),) = likely_orbits.choose_orbits(positions(), asked[:1], [1])
    assert single.assignment == order[0]
    assert single.probability == pytest.approx(np.exp(likely[0][0]), rel=0.05)


def test_groups_are_chosen_where_they_are_left_open():
    question = prototype_library.question_of(RUTILE, 0.0)
    (made,) = likely_orbits.choose_orbits(positions(), [(question, 1)], [30])
    groups = {each.question.space_group for each in made}
    assert 0 not in groups and len(groups) > 1
    shares = [each.probability for each in made[: len(groups)]]
    assert shares == sorted(shares, reverse=True)
    # What has more orbits than there is room for is not chosen.
    (made,) = likely_orbits.choose_orbits(
        positions(), [(question, 1)], [30], shape=(2, 6)
    )
    assert all(sum(map(len, each.assignment)) <= 2 for each in made)


def test_positions_are_written_as_tables_have_them():
    rock_salt = likely_orbits.Request(
        prototype_library.question_of(np.array([11, 17]), 0.0, 225), ((0,), (1,))
    )
    assert rock_salt.describe() == "Na:4a Cl:4b"
    assert request().describe() == "Ti:2a O:4f"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Ti:a", "expected those of Ti, O"),
        ("Ti:a O", "cannot read 'O'"),
        ("Ti:a O:?", "cannot read 'O:\\?'"),
        ("Ti:a O:f O:f", "cannot read 'O:f'"),
        ("Ti:f O:f", "Ti cannot fill f of space group 136"),
        ("Ti:a O:a", "O cannot fill a"),
    ],
)
def test_positions_that_do_not_fit_are_refused(text, message):
    question = prototype_library.question_of(RUTILE, 0.0, 136)
    with pytest.raises(errors.UserError, match=message):
        orbit_conditions.parse_positions(text, question)


def test_positions_of_too_few_sites_are_refused():
    question = prototype_library.question_of(np.array([22, 8, 8]), 0.0, 47)
    with pytest.raises(errors.UserError, match="hold fewer sites than"):
        orbit_conditions.parse_positions("Ti:a O:b", question)


def test_positions_that_fit_are_read():
    question = prototype_library.question_of(RUTILE, 0.0, 136)
    for text in ("Ti:a O:f", "O:4f,Ti:2a"):
        assert orbit_conditions.parse_positions(text, question) == ((0,), (5,))


def test_formula_units_are_those_of_known_prototypes_with_like_elements():
    def example(numbers, group, assignment):
        return prototype_library.question_of(np.array(numbers), 0.0, group), assignment

    # Rutile for d elements, fluorite for f elements.
    rutile = [
        example([metal] * 2 + [8] * 4, 136, ((0,), (5,))) for metal in (22, 23, 24)
    ]
    fluorite = [example([metal] + [8] * 2, 225, ((0,), (2,))) for metal in (58, 59, 60)]
    library, _ = prototype_library.build_library(rutile + fluorite)

    def units(metal, groups=(), max_sites=12):
        numbers = np.array([metal, 8, 8])
        return likely_orbits.likely_units(numbers, groups, library, max_sites)

    assert (units(40), units(92)) == (2, 1)
    assert (units(40, (225,)), units(92, (136,))) == (1, 2)
    assert units(40, max_sites=5) == 1
    # Nobody knows a prototype: what the group can hold.
    assert units(40, (227,)) == 2
    model = wyckoff_model.WyckoffModel(library, [], {}, {})
    cells = orbit_conditions.likely_cells(model, ("ZrO2", "Zr1O2", "Zr4O8"), (), 12)
    assert cells == ("O4Zr2", "O4Zr2", "O8Zr4")


def test_what_is_too_large_for_the_model_is_taken_apart_where_it_can_be():
    # The group could hold all sites in one primitive cell, and nothing is known.
    numbers = np.tile([11, 17], 10)
    assert likely_orbits.find_question(numbers, 225, 0.0)[1] == 1
    question, num_cells = likely_orbits.find_question(numbers, 225, 0.0, None, 12)
    assert (sum(question.counts), num_cells) == (4, 5)
    # Positions that the model holds, where all likely ones have too many orbits.
    question = prototype_library.question_of(np.full(16, 22), 0.0, 47)
    asked = [(question, 1)]
    (found,) = likely_orbits.choose_orbits(positions(), asked, [2], shape=(2, 16))
    assert [sum(map(len, each.assignment)) for each in found] == [2, 2]
    assert likely_orbits.choose_orbits(positions(), asked, [2], shape=(1, 16)) == [[]]
