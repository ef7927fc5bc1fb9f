"""The network against the paper's PyTorch code, and against itself."""

import json
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crystaljax import structure, training
from crystaljax.models import crystal_unet, encoders, layers, torch_weights

DATA = pathlib.Path(__file__).parent / "data"
# Of float32 arithmetic in another order.
PARITY_TOLERANCE = 1e-4


def num_params(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def shapes_of(model, rows):
    return jax.eval_shape(lambda: training.init_params(model, rows, jax.random.key(0)))


@pytest.fixture(scope="module")
def reference():
    """Inputs and outputs of the paper's own code, and its weights by their recipe."""
    shapes = json.loads(
        (DATA / "reference_generation_ch32_res1_shapes.json").read_text()
    )
    weights = {}
    for name, shape in shapes.items():
        seed = (zlib.crc32(name.encode()) ^ 2024) & 0xFFFFFFFF
        values = np.random.RandomState(seed).standard_normal(shape)
        if name.endswith(".bias"):
            values = 0.02 * values
        elif len(shape) == 1:
            values = 1 + 0.1 * values
        else:
            values = values / np.sqrt(np.prod(shape[1:]))
        weights[name] = values.astype(np.float32)
    return weights, dict(np.load(DATA / "reference_generation_ch32_res1.npz"))


@pytest.fixture(scope="module")
def small_model():
    return crystal_unet.CrystalUNet(channels=32, num_res_blocks=1)


def test_paper_network_has_the_papers_number_of_parameters():
    assert num_params(shapes_of(crystal_unet.CrystalUNet(), 64)) == 304_781_763


def test_network_reproduces_the_papers_code(reference, small_model, monkeypatch):
    weights, arrays = reference
    params = torch_weights.convert(weights, small_model)
    # The fixture has features, not numbers: let the tables hold exactly these.
    elements = arrays["input_elements"]
    operations = arrays["input_space_group_operations"]
    rows = np.arange(elements.shape[0] * elements.shape[1]).reshape(elements.shape[:2])
    monkeypatch.setattr(
        encoders, "element_features", lambda _: elements.reshape(-1, 125)
    )
    monkeypatch.setattr(
        encoders.symmetry, "load_space_group_operations", lambda: operations
    )

    def encode(name):
        return small_model.apply(
            params, method=lambda m: getattr(m, name)(inputs[name])
        )

    inputs = {
        "space_group_encoder": jnp.arange(2),
        "element_encoder": jnp.asarray(rows),
    }
    np.testing.assert_allclose(
        encode("space_group_encoder"),
        arrays["space_group_embedding"],
        atol=PARITY_TOLERANCE,
    )
    np.testing.assert_allclose(
        encode("element_encoder"), arrays["element_embedding"], atol=PARITY_TOLERANCE
    )
    times = {
        "output_unit": arrays["input_time_unit"],
        "output_integer": arrays["input_time_integer"],
        "output_no_time": np.zeros(2, np.float32),
    }
    for name, t in times.items():
        output = jax.jit(small_model.apply)(
            params,
            jnp.asarray(arrays["input_x"]),
            jnp.asarray(t),
            jnp.asarray(rows),
            jnp.arange(2),
            jnp.asarray(arrays["input_energy"]),
        )
        np.testing.assert_allclose(
            output, arrays[name], atol=PARITY_TOLERANCE, err_msg=name
        )


def test_time_embedding_is_the_papers(reference):
    _, arrays = reference
    for kind in ("unit", "integer"):
        np.testing.assert_allclose(
            layers.time_embedding(jnp.asarray(arrays[f"input_time_{kind}"]), 32),
            arrays[f"time_embedding_{kind}"],
            atol=PARITY_TOLERANCE,
        )


def test_state_dict_of_another_network_is_refused(reference, small_model):
    weights, _ = reference
    broken = dict(weights)
    broken["model.extra.weight"] = broken.pop("model.out.2.weight")
    with pytest.raises(
        ValueError, match=r"model\.out\.2\.weight.*model\.extra\.weight"
    ):
        torch_weights.convert(broken, small_model)


def test_converted_weights_have_the_shapes_of_the_network(reference, small_model):
    params = torch_weights.convert(reference[0], small_model)
    ours = jax.tree.map(lambda leaf: leaf.shape, shapes_of(small_model, 64))
    assert jax.tree.map(lambda leaf: leaf.shape, params) == ours


@pytest.mark.parametrize("width,stride,padding", [(3, 1, 1), (3, 2, 1), (3, 1, 0)])
def test_convolution_is_xlas_convolution(width, stride, padding):
    conv = layers.Conv1d(5, width=width, stride=stride, padding=padding)
    x = jax.random.normal(jax.random.key(0), (2, 8, 4))
    params = conv.init(jax.random.key(1), x)
    expected = jax.lax.conv_general_dilated(
        x,
        params["params"]["kernel"],
        (stride,),
        [(padding, padding)],
        dimension_numbers=("NWC", "WIO", "NWC"),
    )
    np.testing.assert_allclose(
        conv.apply(params, x), expected + params["params"]["bias"], atol=1e-5
    )


@pytest.fixture(scope="module")
def tiny():
    model = crystal_unet.CrystalUNet(
        channels=8,
        channel_multipliers=(1, 2),
        num_res_blocks=1,
        attention_levels=(1, 2),
        norm_groups=2,
        element_properties="scaled",
        element_channels=(4, 4, 4),
        site_features=8,
    )
    params = jax.jit(lambda key: training.init_params(model, 16, key))(
        jax.random.key(0, impl="rbg")
    )
    # Output layers start at zero, which would hide any difference.
    rng = np.random.default_rng(1)
    noisy = jax.tree.map(
        lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), params
    )
    return model, noisy


def test_conditions_change_the_prediction(tiny):
    model, params = tiny
    x = jax.random.normal(jax.random.key(2), (1, 16, 3))
    numbers = np.zeros((1, 12), np.uint8)
    numbers[0, :4] = [29, 29, 29, 79]

    apply = jax.jit(model.apply)

    def predict(t=10.0, numbers=numbers, group=221, energy=0.1):
        return apply(
            params,
            x,
            jnp.array([t]),
            jnp.asarray(numbers),
            jnp.array([group], jnp.uint8),
            jnp.array([energy]),
        )

    swapped = numbers.copy()
    swapped[0, :4] = [79, 29, 29, 29]
    base = predict()
    for change in (
        {"t": 500.0},
        {"numbers": swapped},
        {"group": 225},
        {"energy": -0.3},
    ):
        assert np.abs(predict(**change) - base).max() > 1e-3, change


def test_more_sites_than_the_element_encoder_sees_are_refused(tiny):
    model, params = tiny
    with pytest.raises(ValueError, match=r"model\.element_rows"):
        model.apply(
            params,
            jnp.zeros((1, 72, 3)),
            jnp.zeros(1),
            jnp.ones((1, 68), jnp.uint8),
            jnp.ones(1, jnp.uint8),
            jnp.zeros(1),
        )


def test_rows_that_cannot_be_halved_are_refused(small_model):
    with pytest.raises(ValueError, match="cannot be halved"):
        shapes_of(crystal_unet.CrystalUNet(channel_multipliers=(1,) * 6), 16)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_stays_close_and_answers_in_float32(tiny, dtype):
    model, params = tiny
    args = (
        jax.random.normal(jax.random.key(2), (2, 16, 3)),
        jnp.array([1.0, 900.0]),
        jnp.full((2, structure.max_sites(16)), 29, jnp.uint8),
        jnp.array([1, 225], jnp.uint8),
        jnp.array([0.0, 0.1]),
    )
    exact = jax.jit(model.apply)(params, *args)
    low = jax.jit(model.clone(dtype=dtype).apply)(params, *args)
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, exact, atol=0.1 * np.abs(exact).max())
