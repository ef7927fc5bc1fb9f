"""The transformer: what it must not depend on, and what it must."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from configs import best
from crystaljax.crystals import elements, sample_tensors, structure
from crystaljax.models import build, initial
from crystaljax.models.networks import transformer

ROWS, NUM_TEMPLATES = 16, 2
SITES = structure.max_sites(ROWS)


@pytest.fixture(scope="module")
def network():
    model = transformer.CrystalTransformer(
        width=16,
        depth=2,
        num_heads=2,
        pair_features=4,
        num_templates=NUM_TEMPLATES,
        max_sites=SITES,
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: np.float32(rng.normal(0, leaf.size**-0.3, leaf.shape)),
        initial.param_shapes(model, ROWS),
    )
    return jax.jit(model.apply), params


def templates(rng, numbers):
    batch, sites = numbers.shape
    shape = (batch, NUM_TEMPLATES)
    own = np.where(numbers[:, None] > 0, rng.integers(1, 90, (*shape, sites)), 0)
    coords = np.where(own[..., None] > 0, rng.random((*shape, sites, 3)), 0)
    return sample_tensors.TemplateBatch(
        atomic_numbers=own.astype(np.uint8),
        frac_coords=coords.astype(np.float32),
        lattice=rng.normal(size=(*shape, 3, 3)).astype(np.float32),
        space_group=rng.integers(1, 231, shape).astype(np.uint8),
        energy=rng.normal(size=shape).astype(np.float32),
    )


def question(seed=0, rows=ROWS):
    rng = np.random.default_rng(seed)
    numbers = np.zeros((3, SITES), np.uint8)
    numbers[0, :5] = [38, 22, 8, 8, 8]
    numbers[1, :2] = [17, 11]
    numbers[2, :SITES] = 14
    x = np.zeros((3, ROWS, 3), np.float32)
    x[:, :SITES] = np.where(numbers[..., None] > 0, rng.random((3, SITES, 3)), 0)
    x[:, -3:] = rng.normal(size=(3, 3, 3))
    t = rng.random(3).astype(np.float32)
    shown = templates(rng, numbers)
    groups = np.array([221, 225, 227], np.uint8)
    return [x, t, numbers, groups, rng.normal(size=3).astype(np.float32), None, shown]


def test_whole_periods_make_no_difference(network):
    apply_fn, params = network
    asked = question()
    moved = list(asked)
    is_site = np.pad(asked[2] > 0, ((0, 0), (0, ROWS - SITES)))
    steps = np.random.default_rng(1).integers(-2, 3, asked[0].shape)
    moved[0] = np.where(is_site[..., None], asked[0] + steps, asked[0])
    moved[0] = moved[0].astype(np.float32)
    np.testing.assert_allclose(
        apply_fn(params, *moved), apply_fn(params, *asked), atol=2e-4
    )


def test_more_rows_make_no_difference(network):
    apply_fn, params = network
    asked = question()
    # The smallest two fit into fewer sites as well.
    sites = SITES - 8
    few = [asked[i][:2] if asked[i] is not None else None for i in range(6)]
    few[0] = np.concatenate([few[0][:, :sites], few[0][:, SITES:]], axis=1)
    few[2] = few[2][:, :sites]
    asked[2][0, 3:] = 0
    asked[0][0, 3:SITES] = 0
    few[2][0, 3:] = 0
    few[0][0, 3:sites] = 0
    shown = jax.tree.map(lambda array: array[:2], asked[6])
    shown = shown.replace(
        atomic_numbers=np.where(asked[2][:2, None] > 0, shown.atomic_numbers, 0),
        frac_coords=np.where(asked[2][:2, None, :, None] > 0, shown.frac_coords, 0),
    )
    whole = [array[:2] if array is not None else None for array in asked[:6]]
    cut = shown.replace(
        atomic_numbers=shown.atomic_numbers[:, :, :sites],
        frac_coords=shown.frac_coords[:, :, :sites],
    )
    wide = np.asarray(apply_fn(params, *whole, shown))
    narrow = np.asarray(apply_fn(params, *few, cut))
    np.testing.assert_allclose(narrow[:, :sites], wide[:, :sites], atol=1e-4)
    np.testing.assert_allclose(narrow[:, -3:], wide[:, -3:], atol=1e-4)


def test_what_stands_in_padding_makes_no_difference(network):
    apply_fn, params = network
    asked = question()
    filled = list(asked)
    is_padding = np.pad(asked[2] == 0, ((0, 0), (0, ROWS - SITES)))
    filled[0] = np.where(is_padding[..., None], np.float32(0.3), asked[0])
    expected, found = apply_fn(params, *asked), apply_fn(params, *filled)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not np.asarray(found)[:, :SITES][asked[2] == 0].any()


@pytest.mark.parametrize("part", [0, 1, 2, 3, 4, 6])
def test_everything_that_is_asked_makes_a_difference(network, part):
    apply_fn, params = network
    asked, other = question(), question(seed=5)
    other[2] = np.where(asked[2] == 8, 16, asked[2]).astype(np.uint8)
    other[3] = np.array([123, 62, 2], np.uint8)
    changed = list(asked)
    changed[part] = other[part]
    difference = apply_fn(params, *changed) - apply_fn(params, *asked)
    assert np.abs(difference)[0].max() > 1e-3


def test_missing_templates_are_named(network):
    apply_fn, params = network
    with pytest.raises(ValueError, match="2 templates"):
        apply_fn(params, *question()[:6])


@pytest.mark.parametrize("chosen", [0, 1, None])
def test_template_can_be_followed_as_it_is(network, chosen):
    """By a network with nothing to say of its own, whose last layer chooses."""
    apply_fn, params = network
    layers = dict(params["params"])
    for name in ("directions", "lattice_rows"):
        layers[name] = jax.tree.map(np.zeros_like, layers[name])
    choice = np.zeros(2 * (NUM_TEMPLATES + 1), np.float32)
    choice[NUM_TEMPLATES if chosen is None else chosen] = 100
    kernel = np.zeros_like(layers["choice"]["kernel"])
    layers["choice"] = {"kernel": kernel, "bias": choice}
    asked = question()
    asked[6] = shown = asked[6].replace(
        space_group=np.where(np.arange(3)[:, None] < 2, asked[6].space_group, 0)
    )
    answer = np.asarray(apply_fn({"params": layers}, *asked))
    # The last question has no templates.
    assert not answer[2].any()
    if chosen is None:
        assert not answer.any()
        return
    for i in range(2):
        sites = asked[2][i] > 0
        angles = 2 * np.pi * shown.frac_coords[i, chosen][sites]
        expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
        np.testing.assert_allclose(answer[i, :SITES][sites], expected, atol=1e-5)
        lattice = shown.lattice[i, chosen]
        np.testing.assert_allclose(answer[i, -3:, :3], lattice, atol=1e-5)


find_places = jax.jit(transformer.formula_places)


@hypothesis.given(st.lists(st.sampled_from([3, 8, 17, 22, 38, 79]), max_size=8))
def test_places_in_the_formula(numbers):
    padded = np.array([numbers + [0] * (8 - len(numbers))], np.uint8)
    species, index, count = jax.device_get(find_places(jnp.asarray(padded)))
    rank = elements.mendeleev_number()
    for i, number in enumerate(numbers):
        lower = {other for other in numbers if rank[other] < rank[number]}
        assert species[0, i] == len(lower)
        assert index[0, i] == numbers[:i].count(number)
        assert count[0, i] == numbers.count(number)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"process.answer": "velocity"}, "directions"),
        ({"process.start": "normal"}, "directions"),
        ({"model.num_heads": 5}, "heads"),
        ({"data.coordinates": "signed"}, "unit"),
        ({"model.network": "unet"}, "templates"),
        ({"model.network": "forest"}, "'forest'"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    config = best.get_config("smoke")
    config.data.num_templates = NUM_TEMPLATES
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        build.build_model(config)
        build.build_process(config)


def test_dropout_is_for_training_only():
    model = transformer.CrystalTransformer(
        width=16, depth=1, num_heads=2, pair_features=4, max_sites=SITES, dropout=0.5
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: np.float32(rng.normal(0, leaf.size**-0.3, leaf.shape)),
        initial.param_shapes(model, ROWS),
    )
    asked = jax.tree.map(jnp.asarray, question()[:6])

    @jax.jit
    def apply(seed=None):
        rngs = {} if seed is None else {"dropout": jax.random.key(seed)}
        return model.apply(params, *asked, rngs=rngs)

    plain = apply()
    np.testing.assert_array_equal(apply(), plain)
    one, again, other = map(apply, (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3
    assert np.abs(one - plain).max() > 1e-3
