"""Losses: by hand, against the fixtures and against brute force in float64."""

import functools
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from crystaljax import defaults
from crystaljax.crystals import sample_tensors
from crystaljax.models import losses

REFERENCE = np.load(pathlib.Path(__file__).parent / "data" / "reference_losses.npz")
NORMS = ("l1", "l2")
IMAGES = ("all", "boundary")
HARD = -np.inf
# Sums of a few float32 numbers of order 1.
TOLERANCE = 2e-6
# Neighbours up to three cells away: more than the code looks at.
CELLS = np.array(list(itertools.product(range(-3, 4), repeat=3)))

# Multiples of 1/64 are exact in float32: ties are ties, and shifts lose nothing.
exact_rows = npst.arrays(np.int64, (8, 3), elements=st.integers(-128, 192)).map(
    lambda numbers: (numbers / 64).astype(np.float32)
)
whole_rows = npst.arrays(np.int64, (8, 3), elements=st.integers(-5, 5)).map(
    lambda numbers: numbers.astype(np.float32)
)


def lengths(differences, norm):
    return np.linalg.norm(differences, ord={"l1": 1, "l2": 2}[norm], axis=-1)


def brute_force(prediction, target, norm, order=HARD, cells=CELLS):
    """(Soft) minimum over many images in float64; distances must not be 0 if soft."""
    difference = np.asarray(prediction, np.float64) - np.asarray(target, np.float64)
    distances = lengths((difference - np.round(difference))[..., None, :] + cells, norm)
    nearest = distances.min(-1)
    if order == HARD:
        return nearest
    powers = (distances / nearest[..., None]) ** order
    return nearest * powers.sum(-1) ** (1 / order)


@functools.partial(jax.jit, static_argnames=("order", "norm", "images"))
def distances_of(prediction, target, **options):
    return losses.periodic_distances(prediction, target, **options)


def random_rows(seed=0, rows=64, spread=2.0):
    """Predictions far outside the cell too, and targets in it."""
    rng = np.random.default_rng(seed)
    prediction = rng.uniform(-spread, spread, (rows, 3)).astype(np.float32)
    return prediction, rng.uniform(size=(rows, 3)).astype(np.float32)


# ------------------------------------------------------------------------ plain losses
def test_losses_by_hand():
    prediction, target = np.zeros((2, 16, 3), np.float32)
    target[0] = [1, -2, 3]
    target[1] = [0.5, 0, 0]
    target[5] = 100  # padding: must not count
    target[13:] = 2
    prediction, target = jnp.asarray(prediction), jnp.asarray(target)
    assert losses.site_l1(prediction, target, jnp.int32(2)) == pytest.approx(6.5 / 2)
    assert losses.lattice_l1(prediction, target) == pytest.approx(6.0)


def test_losses_vmapped_are_the_losses_of_each_sample():
    rng = np.random.default_rng(0)
    prediction, target = rng.normal(size=(2, 4, 16, 3)).astype(np.float32)
    num_sites = jnp.array([1, 3, 7, 12])
    batched = jax.vmap(losses.site_l1)(prediction, target, num_sites)
    for i in range(4):
        expected = np.abs(prediction - target)[i, : num_sites[i]].sum() / num_sites[i]
        assert batched[i] == pytest.approx(float(expected), rel=1e-5)


def test_site_l1_is_that_of_the_reference_where_padding_is_equal():
    prediction, target = REFERENCE["prediction"], REFERENCE["target"]
    num_sites = REFERENCE["num_sites"].astype(np.int32)
    # The reference counts every row, then divides by the number of sites.
    rows = np.abs(prediction - target).sum(-1)
    assert (rows.sum(-1) / num_sites).sum() == pytest.approx(float(REFERENCE["l1"]))
    padding = ~np.asarray(sample_tensors.site_mask(num_sites, 8))
    excess = ((rows * padding).sum(-1) / num_sites).sum()
    ours = jax.vmap(losses.site_l1)(prediction, target, num_sites).sum()
    assert excess > 0.1
    assert float(ours) == pytest.approx(float(REFERENCE["l1"]) - excess, rel=1e-6)


# ------------------------------------------------------------------------ soft minimum
def test_soft_min_is_its_formula():
    distances = np.random.default_rng(0).uniform(0.2, 2, (5, 4))
    for order in (-1, -2.5, -16):
        np.testing.assert_allclose(
            losses.soft_min(jnp.asarray(distances, jnp.float32), order, axis=0),
            (distances**order).sum(0) ** (1 / order),
            rtol=1e-5,
        )


def test_soft_min_of_n_equal_distances_is_known():
    for n in (1, 2, 8):
        value = losses.soft_min(jnp.full(n, 0.3), defaults.IMAGE_ORDER)
        assert value == pytest.approx(0.3 * n ** (1 / defaults.IMAGE_ORDER))


@pytest.mark.parametrize("order", [-0.5, -1, -16, -16.5, -1e4, -1e30, HARD])
@pytest.mark.parametrize("smallest", [0.0, 1e-30, 1e-6, 1.0, 1e15])
def test_soft_min_is_finite_at_any_size(order, smallest):
    distances = jnp.array([smallest, 2 * smallest, smallest, 1e15])
    value, grad = jax.value_and_grad(losses.soft_min)(distances, order)
    assert np.isfinite(value) and np.all(np.isfinite(grad))
    assert value <= np.maximum(smallest, losses.TINY) * 1.000001


@pytest.mark.parametrize("order", [-1.5, -16, HARD])
def test_distances_left_out_of_a_soft_min_change_nothing(order):
    where = jnp.array([True, False, True, False])
    loss_fn = jax.value_and_grad(losses.soft_min)
    value, grad = loss_fn(jnp.array([0.5, 0.0, 0.4, 9.0]), order, where=where)
    expected, expected_grad = loss_fn(jnp.array([0.5, 0.4]), order)
    assert value == pytest.approx(float(expected))
    np.testing.assert_allclose(grad[::2], expected_grad, rtol=1e-6)
    np.testing.assert_array_equal(grad[1::2], 0)


# ------------------------------------------------------------------- periodic distance
@pytest.mark.parametrize("order", [HARD, -2000.0])
@pytest.mark.parametrize("norm", NORMS)
def test_boundary_distance_is_that_of_the_reference(norm, order):
    ours = jax.vmap(
        lambda p, t: losses.periodic_distances(
            p, t, order=order, norm=norm, images="boundary"
        )
    )(REFERENCE["prediction"], REFERENCE["target"])
    # 8 images as near as each other would be 8^(1/order) = 0.1 % too near at -2000.
    tolerance = TOLERANCE if order == HARD else 1.1e-3
    expected = REFERENCE[f"boundary_distance_{norm}"]
    np.testing.assert_allclose(ours, expected, rtol=tolerance)


@settings(max_examples=50)
@given(exact_rows, exact_rows)
def test_hard_distance_is_that_of_the_nearest_of_all_images(prediction, target):
    for norm in NORMS:
        np.testing.assert_allclose(
            distances_of(prediction, target, norm=norm, order=HARD),
            brute_force(prediction, target, norm),
            atol=TOLERANCE,
        )


@settings(max_examples=50)
@given(exact_rows, exact_rows)
def test_soft_distance_rises_to_the_hard_one_with_the_order(prediction, target):
    for norm in NORMS:
        previous = 0
        for order in (-2, -8, -16, -64, -512):
            soft = distances_of(prediction, target, norm=norm, order=order)
            assert np.all(soft >= np.asarray(previous) - TOLERANCE)
            previous = soft
        hard = brute_force(prediction, target, norm)
        assert np.all(soft <= hard + TOLERANCE)
        # At most 8 images of the 27 are nearest at once.
        assert np.all(soft >= hard * 8 ** (1 / order) - TOLERANCE)


@pytest.mark.parametrize("norm", NORMS)
def test_soft_distance_is_the_sum_over_27_images(norm):
    prediction, target = random_rows()
    near = CELLS[np.abs(CELLS).max(-1) <= 1]
    for order in (-4, defaults.IMAGE_ORDER):
        np.testing.assert_allclose(
            distances_of(prediction, target, norm=norm, order=order),
            brute_force(prediction, target, norm, order, near),
            rtol=1e-5,
        )


@settings(max_examples=50)
@given(exact_rows, exact_rows, whole_rows)
def test_whole_periods_change_nothing(prediction, target, shift):
    for norm in NORMS:
        expected = distances_of(prediction, target, norm=norm)
        for moved in (
            distances_of(prediction + shift, target, norm=norm),
            distances_of(prediction, target + shift, norm=norm),
            distances_of(
                sample_tensors.wrap(jnp.asarray(prediction)), target, norm=norm
            ),
        ):
            np.testing.assert_allclose(moved, expected, atol=TOLERANCE)


@pytest.mark.parametrize("order", [defaults.IMAGE_ORDER, HARD])
@pytest.mark.parametrize("norm", NORMS)
def test_zero_and_one_are_the_same_boundary(norm, order):
    prediction, target = REFERENCE["prediction"][0], REFERENCE["target"][0]
    swapped = np.where(target % 1 == 0, 1 - target, target)
    assert np.any(swapped != target)
    options = {"norm": norm, "order": order, "images": "boundary"}
    np.testing.assert_array_equal(
        distances_of(prediction, target, **options),
        distances_of(prediction, swapped, **options),
    )


@pytest.mark.parametrize("norm", NORMS)
def test_soft_boundary_distance_counts_8_4_2_or_1_points(norm):
    target = np.array([[0, 1, 0], [0.5, 0, 1], [0, 0.5, 0.3], [0.3, 0.4, 0.6]])
    prediction = np.array([[0.5] * 3, [0.2, 0.5, 0.5], [0.5] * 3, [0.9] * 3])
    candidates = [
        [[0, 1]] * 3,
        [[0.5], [0, 1], [0, 1]],
        [[0, 1], [0.5], [0.3]],
        [[0.3], [0.4], [0.6]],
    ]
    expected = []
    for row, axes in zip(prediction, candidates, strict=True):
        points = np.array(list(itertools.product(*axes)))
        expected.append((lengths(row - points, norm) ** -16.0).sum() ** (-1 / 16))
    np.testing.assert_allclose(
        distances_of(
            prediction.astype(np.float32),
            target.astype(np.float32),
            norm=norm,
            order=-16,
            images="boundary",
        ),
        expected,
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    "options", [{"norm": "l3"}, {"images": "some"}, {"order": 0}, {"order": 2.0}]
)
def test_unknown_options_are_refused_by_their_value(options):
    prediction, target = random_rows(rows=8)
    (value,) = options.values()
    with pytest.raises(ValueError, match=str(value)):
        distances_of(prediction, target, **options)


# --------------------------------------------------------------------------- gradients
@functools.partial(jax.jit, static_argnames=("order", "norm", "images"))
def values_and_gradient(prediction, target, **options):
    """Distances, and the gradient of their sum by the prediction."""

    def total(prediction):
        distances = losses.periodic_distances(prediction, target, **options)
        return distances.sum(), distances

    (_, distances), grad = jax.value_and_grad(total, has_aux=True)(prediction)
    return distances, grad


def gradient(prediction, target, **options):
    return values_and_gradient(prediction, target, **options)[1]


HALVES = np.array([c for c in itertools.product([-0.5, 0, 0.5], repeat=3)], np.float32)


@pytest.mark.parametrize(
    "dtype, order",
    [
        (jnp.float32, -1),
        (jnp.float32, -1e4),
        (jnp.float32, HARD),
        (jnp.float32, defaults.IMAGE_ORDER),
        (jnp.bfloat16, defaults.IMAGE_ORDER),
        (jnp.float16, defaults.IMAGE_ORDER),
    ],
)
@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("norm", NORMS)
def test_value_and_gradient_are_finite_everywhere(norm, images, order, dtype):
    # At the target, at ties on 1, 2 and 3 axes, next to both, and 60,000 periods away.
    offsets = np.concatenate([HALVES, HALVES + 1e-4, HALVES * 1e-7, HALVES * 1.2e5])
    targets = np.repeat([[0], [1], [0.25]], 3, -1)
    rows = (offsets + targets[:, None]).reshape(-1, 3)
    prediction = jnp.asarray(rows, dtype)
    target = jnp.asarray(np.repeat(targets, len(offsets), 0), dtype)
    options = {"norm": norm, "images": images, "order": order}
    values, grad = values_and_gradient(prediction, target, **options)
    assert values.dtype == jnp.float32
    assert np.all(np.isfinite(values))
    assert grad.dtype == dtype
    assert np.all(np.isfinite(grad.astype(jnp.float32)))


@pytest.mark.parametrize("order", [defaults.IMAGE_ORDER, HARD])
@pytest.mark.parametrize("norm", NORMS)
def test_nothing_pulls_at_the_target_or_along_a_tie(norm, order):
    target = np.full_like(HALVES, 0.25)
    for shift in (0, 3):
        grad = gradient(target + HALVES + shift, target, norm=norm, order=order)
        # Here and from the next but one image, at most (3/5)^17 of 1.
        np.testing.assert_allclose(grad, 0, atol=5e-4)
    assert distances_of(target, target, norm=norm, order=order) == pytest.approx(
        0, abs=1e-9
    )


@pytest.mark.parametrize("order", [defaults.IMAGE_ORDER, HARD])
@pytest.mark.parametrize("norm", NORMS)
def test_gradient_points_away_from_the_nearest_image(norm, order):
    prediction, target = random_rows()
    difference = prediction - target
    difference -= np.round(difference)
    clear = np.abs(difference).max(-1) < 0.3
    assert clear.sum() > 10
    length = {"l1": np.abs(difference), "l2": lengths(difference, "l2")[:, None]}
    np.testing.assert_allclose(
        gradient(prediction, target, norm=norm, order=order)[clear],
        (difference / length[norm])[clear],
        atol=2e-3,
    )


@pytest.mark.parametrize("norm", NORMS)
def test_gradient_is_that_of_finite_differences(norm):
    prediction, target = random_rows()
    near = CELLS[np.abs(CELLS).max(-1) <= 1]
    difference = prediction.astype(np.float64) - target
    difference -= np.round(difference)
    # Not across a kink of |δ|, nor where the 27 images become another 27.
    smooth = np.all((np.abs(difference) > 1e-3) & (np.abs(difference) < 0.499), -1)
    step, expected = 1e-5, np.zeros((64, 3))
    for axis in range(3):
        move = step * np.eye(3)[axis]
        above, below = (
            brute_force(prediction + sign * move, target, norm, -16.0, near)
            for sign in (1, -1)
        )
        expected[:, axis] = (above - below) / (2 * step)
    np.testing.assert_allclose(
        gradient(prediction, target, norm=norm, order=-16)[smooth],
        expected[smooth],
        atol=2e-5,
    )


# -------------------------------------------------------------- distance of a structure
@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("norm", NORMS)
def test_structure_distance_vmapped_is_the_mean_over_each_ones_sites(norm, images):
    prediction, target = random_rows(rows=64)
    prediction, target = prediction.reshape(4, 16, 3), target.reshape(4, 16, 3)
    num_sites = np.array([1, 3, 7, 12])
    batched = jax.jit(
        jax.vmap(lambda p, t, n: losses.pbc_distance(p, t, n, norm=norm, images=images))
    )(prediction, target, num_sites)
    for i, n in enumerate(num_sites):
        rows = distances_of(prediction[i, :n], target[i, :n], norm=norm, images=images)
        assert batched[i] == pytest.approx(float(rows.sum()) / n, rel=1e-5)


def test_structure_distance_is_the_same_with_every_site_twice():
    prediction, target = map(jnp.asarray, random_rows(rows=16))
    twice = [jnp.concatenate([x[:5], x[:5], x[10:]]) for x in (prediction, target)]
    once = losses.pbc_distance(prediction, target, jnp.int32(5))
    assert losses.pbc_distance(*twice, jnp.int32(10)) == pytest.approx(float(once))


@pytest.mark.parametrize("order", [defaults.IMAGE_ORDER, HARD])
@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("norm", NORMS)
def test_padding_and_lattice_rows_change_nothing(norm, images, order):
    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def loss_fn(prediction, target):
        return losses.pbc_distance(
            prediction, target, jnp.int32(5), norm=norm, images=images, order=order
        )

    prediction, target = map(jnp.asarray, random_rows(rows=16))
    expected, expected_grads = loss_fn(prediction, target)
    for garbage in (7.0, 1e30, 3e38, np.inf, np.nan):
        value, grads = loss_fn(
            prediction.at[5:].set(garbage), target.at[5:].set(-garbage)
        )
        assert value == expected
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            np.testing.assert_array_equal(grad, expected_grad)
            np.testing.assert_array_equal(grad[5:], 0)
            assert np.all(np.abs(grad[:5]).sum(-1) > 0)


def test_squares_are_those_of_the_sites_alone():
    rng = np.random.default_rng(0)
    prediction, target = rng.normal(0, 1, (2, 16, 6)).astype(np.float32)
    found = losses.site_squares(
        jnp.asarray(prediction), jnp.asarray(target), jnp.int32(5)
    )
    expected = np.square(prediction - target)[:5].sum(-1).mean()
    assert float(found) == pytest.approx(expected, rel=1e-5)
