"""From questions to crystals by orbits: whole cells, keys, and what cannot be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crystaljax.crystals import elements, orbits, symmetry_search
from crystaljax.models import orbit_flow, wyckoff_model
from crystaljax.models.networks import orbit_transformer
from crystaljax.sampling import orbit_generation
from crystaljax.training import wyckoff_training

RUTILE = np.array([22, 22, 8, 8, 8, 8])


@functools.cache
def generator(batch_size=4):
    model = orbit_transformer.OrbitTransformer(
        width=16, depth=1, num_heads=2, pair_features=4
    )
    tables = orbits.load_tables()
    conditions = orbit_generation.build_conditions([request()], 5, 12)
    x = jnp.zeros((1, 9, 3))
    params = jax.jit(model.init)(jax.random.key(0), x, jnp.zeros(1), conditions, tables)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: np.float32(leaf + rng.normal(0, 0.05, leaf.shape)), params
    )
    units = orbit_flow.OrbitUnits(np.full(104, 15.0), 0.0, 1.0)
    return orbit_generation.OrbitGenerator(
        model,
        params,
        units,
        num_orbits=5,
        num_sites=12,
        num_steps=2,
        batch_size=batch_size,
    )


def request(num_cells=1):
    question, cells = orbit_generation.find_question(
        np.tile(RUTILE, num_cells), 136, 0.0
    )
    # The largest cell that the group allows is taken for the primitive one.
    question = wyckoff_model.question_of(RUTILE, question.energy, 136)
    return orbit_generation.Request(question, ((0,), (5,)), max(cells, num_cells))


def test_cells_are_primitive_where_they_can_be():
    question, num_cells = orbit_generation.find_question(RUTILE, 136, 0.3)
    assert (question.counts, num_cells) == ((2, 4), 1)
    assert question.energy == 0.3
    # Diamond in a cell of eight: a primitive one of eight could be, so it is.
    question, num_cells = orbit_generation.find_question(np.full(8, 6), 227, 0.0)
    assert (question.counts, num_cells) == ((8,), 1)
    # Conventional rock salt: four of Na and Cl do not fill the group's positions.
    question, num_cells = orbit_generation.find_question(
        np.array([11, 17] * 3), 225, 0.0
    )
    assert (question.counts, num_cells) == ((1, 1), 3)


def test_impossible_group_is_named_with_cells_that_could_be():
    with pytest.raises(ValueError, match=r"cannot hold \[1\] sites") as raised:
        orbit_generation.find_question(np.array([6]), 227, 0.0)
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
    question = wyckoff_model.question_of(np.full(16, 6), 0.0, 1)
    many = orbit_generation.Request(question, ((0,) * 16,))
    with pytest.raises(ValueError, match="16 sites, but the model holds 12"):
        generator().generate([many], jax.random.key(0))
    question = wyckoff_model.question_of(np.full(8, 6), 0.0, 1)
    many = orbit_generation.Request(question, ((0,) * 8,))
    with pytest.raises(ValueError, match="8 orbits, more than num_orbits=5"):
        generator().generate([many], jax.random.key(0))


def test_first_positions_are_the_likeliest_and_others_are_drawn():
    question = wyckoff_model.question_of(RUTILE, 0.0, 136)
    examples = [(question, ((0,), (5,)))] * 4
    model = wyckoff_training.train(
        examples, [], wyckoff_training.Settings(num_epochs=2, num_networks=1, width=16)
    )
    asked = [orbit_generation.find_question(RUTILE, 136, 0.0)] * 2
    made = orbit_generation.choose_positions(model, asked, num_samples=40, seed=1)
    again = orbit_generation.choose_positions(model, asked, num_samples=40, seed=1)
    (likely,) = model.likely_assignments([question], 16)
    for requests, same in zip(made, again, strict=True):
        assert requests[0].assignment == likely[0][1]
        assert requests[0].probability == pytest.approx(np.exp(likely[0][0]))
        assert [r.assignment for r in requests] == [r.assignment for r in same]
        assert {r.assignment for r in requests} <= {each for _, each in likely}
        assert len({r.assignment for r in requests}) > 1
    assert [r.assignment for r in made[0]] != [r.assignment for r in made[1]]
