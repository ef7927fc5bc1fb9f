"""The flow on orbits: exact symmetry, units, padding, learning, draws from keys."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from crystaljax.crystals import (
    elements,
    orbits,
    standard_choice,
    structure,
    symmetry_search,
)
from crystaljax.models import initial, orbit_flow, processes, scaling
from crystaljax.models.networks import orbit_transformer
from crystaljax.training import orbit_training

PROCESS = processes.FlowMatching(processes.sample_torus, 1.0, "direction", 2.0)
UNITS = scaling.Scaling(0.0, 1.0, 0.0, 1.0, -0.5, 1.5, np.full(104, 15.0))


def crystals():
    """Rutile, a polar wurtzite, an orthorhombic and a triclinic crystal."""

    def make(group, numbers, positions, parameters, strain):
        made = orbits.OrbitCrystal(
            group,
            np.array(numbers),
            np.array(positions),
            np.array(parameters, float),
            np.array([*strain, *[0.0] * (6 - len(strain))]),
        )
        return standard_choice.choose(made)

    return [
        make(136, [22, 8], [0, 5], [[0, 0, 0], [0.305, 0, 0]], [4.77, 0.2]),
        make(186, [30, 16], [1, 1], [[0, 0, 0], [0.375, 0, 0]], [5.06, 0.3]),
        make(62, [26, 5], [2, 2], [[0.18, 0.12, 0], [0.04, 0.61, 0]], [4.6, 0.1, 0.3]),
        make(2, [29, 8], [8, 8], [[0.1, 0.2, 0.3], [0.4, 0.3, 0.15]], [4.8, 0, 0.1]),
    ]


def batch_of(made, num_orbits=3, num_sites=12):
    batch = orbits.encode(made, num_orbits)
    anchors = np.array([standard_choice.anchor_of(each) for each in made])
    energy = UNITS.scale_energy(np.linspace(-1, 0, len(made)))
    conditions = orbit_transformer.OrbitConditions(
        batch.space_group,
        batch.atomic_numbers,
        batch.positions,
        anchors,
        energy,
        np.arange(num_sites) < np.array([each.num_sites for each in made])[:, None],
    )
    return batch, conditions


@jax.jit
def encode(tables, conditions, parameters, strain):
    return orbit_flow.encode(UNITS, tables, conditions, parameters, strain)


@functools.cache
def network():
    model = orbit_transformer.OrbitTransformer(
        width=32, depth=1, num_heads=2, pair_features=8
    )
    params = initial.init_params(model, 0, 0)
    rng = np.random.default_rng(0)
    # No modulation starts at zero here: all parts have a say.
    params = jax.tree.map(
        lambda leaf: np.float32(leaf + rng.normal(0, 0.05, leaf.shape)), params
    )
    return model, params, orbits.load_tables()


@functools.cache
def sampler():
    model, _, tables = network()
    return jax.jit(
        lambda params, conditions, keys: orbit_flow.sample(
            model, PROCESS, params, tables, UNITS, conditions, keys, num_steps=5
        )
    )


def keys_of(count):
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(1), jnp.arange(count))


def test_units_there_and_back():
    batch, conditions = batch_of(crystals())
    tables = orbits.load_tables()
    data = encode(tables, conditions, batch.parameters, batch.strain)
    decode = jax.jit(functools.partial(orbit_flow.decode, UNITS))
    parameters, strain = decode(tables, conditions, data)
    np.testing.assert_allclose(parameters, batch.parameters, atol=1e-6)
    np.testing.assert_allclose(strain, batch.strain, atol=1e-5)
    # A cell of the volume that its atoms would fill has a first strain of 0.
    made = crystals()[0]
    made.strain[0] = 2 / 3**0.5 * np.log(15.0 * made.num_sites)
    batch, conditions = batch_of([made])
    data = encode(tables, conditions, batch.parameters, batch.strain)
    assert orbit_transformer.unpack(data)[1][0, 0] == pytest.approx(0, abs=1e-5)


def test_free_components_are_those_of_the_chosen_description():
    made = crystals()
    _, conditions = batch_of(made)
    free = jax.jit(orbit_transformer.free_components)(orbits.load_tables(), conditions)
    for row, crystal in enumerate(made):
        expected = standard_choice.free_parameters(crystal)
        np.testing.assert_array_equal(free[row, : crystal.num_orbits], expected)
        assert not free[row, crystal.num_orbits : -3].any()
    lattices = np.asarray(free)[:, -3:].reshape(len(made), 9).sum(axis=1)
    np.testing.assert_array_equal(lattices, [2, 2, 3, 6])


def test_samples_have_the_group_whatever_the_network_says():
    made = crystals()
    _, conditions = batch_of(made)
    _, params, _ = network()
    _, _, numbers, coords, lattice = sampler()(params, conditions, keys_of(len(made)))
    for row, crystal in enumerate(made):
        exists = np.asarray(numbers[row]) > 0
        assert exists.sum() == crystal.num_sites
        sample = structure.Crystal(
            np.asarray(numbers[row])[exists],
            np.asarray(coords[row], float)[exists],
            np.asarray(lattice[row], float),
        )
        assert symmetry_search.find_space_group(sample, 1e-3) == crystal.space_group


def test_a_sample_depends_on_its_own_key_and_conditions_alone():
    _, conditions = batch_of(crystals())
    _, params, _ = network()
    keys = keys_of(4)
    whole = sampler()(params, conditions, keys)
    order = np.array([2, 0, 3, 1])
    permuted = sampler()(
        params, jax.tree.map(lambda a: a[order], conditions), keys[order]
    )
    for ours, theirs in zip(whole, permuted, strict=True):
        np.testing.assert_allclose(ours[order], theirs, atol=2e-5)
    other = sampler()(params, conditions, keys[::-1])
    assert np.abs(np.asarray(other[0]) - np.asarray(whole[0])).max() > 0.01


def test_padding_changes_nothing():
    made = crystals()
    model, params, tables = network()
    results = []
    for num_orbits, num_sites in ((2, 12), (5, 16)):
        batch, conditions = batch_of(made, num_orbits, num_sites)
        data = encode(tables, conditions, batch.parameters, batch.strain)
        times = jnp.full(len(made), 0.3)
        answer = jax.jit(model.apply)(params, data, times, conditions, tables)
        results.append((answer[:, :2], answer[:, -3:]))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_crystals_are_learned_by_heart():
    """A few crystals, one formula each: samples become these crystals."""
    made = crystals()
    model, params, tables = network()
    batch, conditions = batch_of(made)
    data = encode(tables, conditions, batch.parameters, batch.strain)
    optimizer = optax.adam(3e-3)
    repeated = jax.tree.map(
        lambda a: jnp.tile(a, (8,) + (1,) * (a.ndim - 1)),
        (jax.tree.map(jnp.asarray, conditions), data),
    )

    @jax.jit
    def gradients(params, key):
        keys = jax.random.split(key, len(repeated[1]))
        return jax.value_and_grad(
            lambda p: orbit_flow.compute_loss(
                model, PROCESS, p, tables, *repeated, keys
            ),
            has_aux=True,
        )(params)

    @jax.jit
    def apply(params, state, grads):
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state

    state, losses = jax.jit(optimizer.init)(params), []
    for step in range(300):
        (loss, _), grads = gradients(params, jax.random.key(step))
        params, state = apply(params, state, grads)
        losses.append(float(loss))
    assert np.mean(losses[-20:]) < 0.1 * np.mean(losses[:5])

    parameters, strain, *_ = sampler()(params, conditions, keys_of(4))
    apart = np.asarray(parameters) - batch.parameters
    assert np.abs(apart - np.round(apart)).max() < 0.03
    assert np.abs(np.asarray(strain) - batch.strain).max() < 0.1


def test_species_are_varied_among_neighbours_and_stay_apart():
    numbers = np.tile(np.array([[22, 8, 8, 0], [11, 17, 53, 35]], np.uint8), (300, 1))
    count = len(numbers)
    conditions = orbit_transformer.OrbitConditions(
        np.full(count, 1, np.uint8),
        numbers,
        np.minimum(numbers, 1),
        np.zeros(count, np.int32),
        jnp.zeros(count),
        np.ones((count, 4), bool),
    )
    keys = jax.random.split(jax.random.key(0), count)
    same = orbit_training.vary_conditions(conditions, keys, 0.0, 0.0)
    assert same is conditions
    vary = jax.jit(lambda *args: orbit_training.vary_conditions(*args, 0.25, 0.1))
    varied = vary(conditions, keys)
    others = np.asarray(varied.atomic_numbers)
    ranks = elements.mendeleev_number()
    order = np.argsort(np.argsort(ranks))
    steps = order[others] - order[numbers]
    assert np.abs(steps).max() == 2 and (others[numbers == 0] == 0).all()
    changed = steps[numbers > 0] != 0
    # Some would be two species of one element, and stay.
    assert 0.15 < changed.mean() < 0.27
    # One species moves as a whole, and two never meet.
    before, after = (each[:, :, None] == each[:, None] for each in (numbers, others))
    np.testing.assert_array_equal(before, after)
    assert float(np.std(varied.energy)) == pytest.approx(0.1, rel=0.1)
    again = vary(conditions, keys)
    np.testing.assert_array_equal(again.atomic_numbers, others)
