"""The network against the paper's PyTorch code, and against itself."""

import functools
import json
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crystaljax import defaults
from crystaljax.crystals import structure
from crystaljax.models import build, initial, torch_weights
from crystaljax.models.networks import crystal_unet, encoders, layers

DATA = pathlib.Path(__file__).parent / "data"
# Of float32 arithmetic in another order.
PARITY_TOLERANCE = 1e-4


def num_params(tree):
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def shapes_of(model, rows):
    return initial.param_shapes(model, rows)


def random_params(model):
    """Parameters without the zeros of the output layers, which hide any difference."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape)
        if len(leaf.shape) > 1:
            values /= np.sqrt(np.prod(leaf.shape[:-1]))
        else:
            values = 0.1 * values + (path[-1].key == "scale")
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(model, 16))


def load_reference(name):
    """Inputs and outputs of the paper's own code, and its weights by their recipe."""
    shapes = json.loads((DATA / f"reference_{name}_ch32_res1_shapes.json").read_text())
    weights = {}
    for array, shape in shapes.items():
        seed = (zlib.crc32(array.encode()) ^ 2024) & 0xFFFFFFFF
        values = np.random.RandomState(seed).standard_normal(shape)
        if array.endswith(".bias"):
            values = 0.02 * values
        elif len(shape) == 1:
            values = 1 + 0.1 * values
        else:
            values = values / np.sqrt(np.prod(shape[1:]))
        weights[array] = values.astype(np.float32)
    return weights, dict(np.load(DATA / f"reference_{name}_ch32_res1.npz"))


def use_reference_features(monkeypatch, arrays):
    """Atomic numbers and space groups that stand for the features of a fixture.

    The fixture has features, not numbers: the tables are made to hold exactly these.
    """
    features = arrays["input_elements"]
    numbers = np.arange(features.shape[0] * features.shape[1])
    operations = arrays["input_space_group_operations"]
    monkeypatch.setattr(
        encoders, "element_features", lambda _: features.reshape(-1, 125)
    )
    monkeypatch.setattr(
        encoders.space_groups, "load_space_group_operations", lambda _: operations
    )
    return jnp.asarray(numbers.reshape(features.shape[:2])), jnp.arange(2)


@pytest.fixture(scope="module")
def reference():
    return load_reference("generation")


@pytest.fixture(scope="module")
def modification_reference():
    return load_reference("modification_diffusion")


@pytest.fixture(scope="module")
def small_model():
    return crystal_unet.CrystalUNet(channels=32, num_res_blocks=1)


def test_paper_network_has_the_papers_number_of_parameters():
    assert num_params(shapes_of(crystal_unet.CrystalUNet(), 64)) == 304_781_763


@pytest.mark.parametrize(
    "name,source_rows", [("generation", 0), ("modification_diffusion", 64)]
)
def test_network_reproduces_the_papers_code(
    name, source_rows, small_model, monkeypatch
):
    weights, arrays = load_reference(name)
    model = small_model.clone(
        source_rows=source_rows, space_group_operations="reference"
    )
    params = torch_weights.convert(weights, model)
    numbers, groups = use_reference_features(monkeypatch, arrays)
    # The network without source encoder is given a source too, and ignores it.
    source = jnp.asarray(arrays.get("input_source", arrays["input_x"]))

    tables = {"space_group": "operations", "element": "elements"}

    def encode(kind, value):
        table = [jnp.asarray(model.tables()[tables[kind]])] if kind in tables else []
        return jax.jit(
            lambda *inputs: model.apply(
                params, method=lambda m: getattr(m, f"{kind}_encoder")(*inputs)
            )
        )(value, *table)

    embedded = {"space_group": groups, "element": numbers}
    if source_rows:
        embedded["source"] = source
    for kind, value in embedded.items():
        np.testing.assert_allclose(
            encode(kind, value),
            arrays[f"{kind}_embedding"],
            atol=PARITY_TOLERANCE,
            err_msg=kind,
        )
    times = {
        "output_unit": arrays["input_time_unit"],
        "output_integer": arrays["input_time_integer"],
        "output_no_time": np.zeros(2, np.float32),
    }
    apply = jax.jit(model.apply)
    for output, t in times.items():
        ours = apply(
            params,
            jnp.asarray(arrays["input_x"]),
            jnp.asarray(t),
            numbers,
            groups,
            jnp.asarray(arrays["input_energy"]),
            source,
        )
        np.testing.assert_allclose(
            ours, arrays[output], atol=PARITY_TOLERANCE, err_msg=output
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
    broken["model.label_emb.bias"] = np.zeros(64, np.float32)
    with pytest.raises(
        ValueError,
        match=r"1 missing \(model\.out\.2\.weight\), "
        r"1 left over \(model\.extra\.weight\), "
        r"1 of another shape \(model\.label_emb\.bias \(64,\) instead of \(128,\)\)",
    ):
        torch_weights.convert(broken, small_model)


def test_many_wrong_names_are_counted_and_the_first_printed(reference, small_model):
    weights, _ = reference
    broken = {f"{name}s": array for name, array in weights.items()}
    with pytest.raises(ValueError) as error:
        torch_weights.convert(broken, small_model)
    assert f"{len(weights)} missing (model.time_embed.0" in str(error.value)
    assert str(error.value).count(", …") == 2


def test_source_encoder_too_many_and_too_few_are_said_in_words(
    reference, modification_reference, small_model
):
    with pytest.raises(ValueError, match="modification-diffusion network"):
        torch_weights.convert(modification_reference[0], small_model)
    with pytest.raises(ValueError, match="network without source encoder"):
        torch_weights.convert(reference[0], small_model.clone(source_rows=64))


@pytest.mark.parametrize(
    "name,source_rows", [("generation", 0), ("modification_diffusion", 64)]
)
def test_settings_and_shapes_are_read_from_a_state_dict(name, source_rows, small_model):
    weights, _ = load_reference(name)
    settings = torch_weights.infer_settings(weights)
    model = crystal_unet.CrystalUNet(**settings)
    assert model == small_model.clone(
        source_rows=source_rows, space_group_operations="reference"
    )
    params = torch_weights.convert(weights, model)
    ours = jax.tree.map(lambda leaf: leaf.shape, shapes_of(model, 64))
    assert jax.tree.map(lambda leaf: leaf.shape, params) == ours


def test_settings_of_unequal_levels_are_read(reference):
    shallow = {
        name: array
        for name, array in reference[0].items()
        if not name.startswith(("model.input_blocks.7.", "model.input_blocks.6."))
        and ".5.1." not in name
    }
    settings = torch_weights.infer_settings(shallow)
    assert settings["channel_multipliers"] == (1, 2, 4)
    assert settings["attention_levels"] == (1, 2)


@pytest.mark.parametrize(
    "change,message",
    [
        ({}, r"input_blocks\.0\.0\.weight is missing \(empty\)"),
        ({"layer1.0.conv1.weight": (64, 64, 3, 3)}, "its 1 arrays are layer1"),
        ({"model.input_blocks.3.0.out_layers.3.weight": None}, r"blocks\.3.* missing"),
        ({"model.input_blocks.9.0.out_layers.3.weight": (256, 256, 3)}, r"blocks\.8"),
        ({"model.input_blocks.8.0.out_layers.3.weight": (99, 99, 3)}, "level 3"),
        ({"model.input_blocks.0.0.weight": (24, 3, 3)}, "24 channels"),
        ({"model.input_blocks.0.0.weight": (32, 3)}, "expected 3 axes"),
        ({"element_condition.7.weight": (256, 1000)}, "multiple of the 256"),
        ({"coords_condition.5.bias": (256,)}, r"coords_condition\.0.* missing"),
    ],
)
def test_state_dict_that_is_not_understood_is_refused(reference, change, message):
    shapes = {name: array.shape for name, array in reference[0].items()}
    if not change or "layer1.0.conv1.weight" in change:
        shapes = {}
    shapes = {n: shape for n, shape in (shapes | change).items() if shape is not None}
    state = {name: np.broadcast_to(0.0, shape) for name, shape in shapes.items()}
    with pytest.raises(ValueError, match=message):
        torch_weights.infer_settings(state)


@pytest.mark.parametrize("formulation", layers.CONVOLUTIONS)
@pytest.mark.parametrize("width,stride,padding", [(3, 1, 1), (3, 2, 1), (3, 1, 0)])
def test_convolution_is_xlas_convolution(width, stride, padding, formulation):
    conv = layers.Conv1d(
        5, width=width, stride=stride, padding=padding, formulation=formulation
    )
    x = jax.random.normal(jax.random.key(0), (2, 8, 4))
    shapes = jax.eval_shape(conv.init, jax.random.key(1), x)
    rng = np.random.default_rng(2)
    params = jax.tree.map(
        lambda leaf: np.float32(rng.normal(size=leaf.shape) / 4), shapes
    )

    def xlas(params, x):
        convolved = jax.lax.conv_general_dilated(
            x,
            params["params"]["kernel"],
            (stride,),
            [(padding, padding)],
            dimension_numbers=("NWC", "WIO", "NWC"),
        )
        return convolved + params["params"]["bias"]

    def with_gradients(apply):
        def loss(params, x):
            answer = apply(params, x)
            return jnp.sum(answer**2), answer

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, x)

    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4),
        with_gradients(conv.apply),
        with_gradients(xlas),
    )


# cuDNN itself runs on GPUs alone, but heads too wide for it are for everyone.
@pytest.mark.parametrize(
    "formulation,channels", [("auto", 8), ("xla", 8), ("xla", 136), ("cudnn", 136)]
)
def test_formulations_of_attention_agree(formulation, channels):
    def gradient_of(formulation):
        attention = layers.Attention(2, formulation=formulation)

        def loss(params):
            return jnp.sum(attention.apply(params, x) ** 2)

        return jax.jit(jax.value_and_grad(loss))(params)

    x = jax.random.normal(jax.random.key(0), (2, 5, channels))
    params = jax.eval_shape(layers.Attention(2).init, jax.random.key(1), x)
    # The projection starts at zero, and with it the gradient of all before it.
    rng = np.random.default_rng(2)
    params = jax.tree.map(
        lambda leaf: np.float32(rng.normal(size=leaf.shape) / 10), params
    )
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3),
        gradient_of(formulation),
        gradient_of("einsum"),
    )


def test_attention_that_the_devices_cannot_compute_is_refused():
    config = defaults.paper("generation")
    config.model.attention = "flash"
    with pytest.raises(ValueError, match=r"'flash'; expected one of .*'cudnn'"):
        build.build_model(config)
    config.model.attention = "cudnn"
    with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
        build.build_model(config)


@pytest.mark.parametrize("part", ["convolution", "attention"])
def test_auto_is_chosen_by_the_devices(part, monkeypatch):
    choices = {"cpu": {part: "of-cpus"}, "gpu": {part: "of-gpus"}}
    monkeypatch.setattr(layers, "AUTO", choices)
    assert layers.resolve_auto(part, "xla") == "xla"
    expected_of = {"cpu": "of-cpus", "gpu": "of-gpus", "tpu": "of-cpus"}
    for backend, expected in expected_of.items():
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert layers.resolve_auto(part, "auto") == expected


@pytest.fixture(scope="module")
def tiny():
    """With every kind of layer, each few times: compilation is what takes long."""
    model = crystal_unet.CrystalUNet(
        channels=8,
        channel_multipliers=(1, 2),
        num_res_blocks=0,
        attention_levels=(1, 2),
        norm_groups=2,
        element_properties="scaled",
        element_channels=(4, 4, 4),
        site_features=8,
    )
    return model, random_params(model)


@functools.cache
def compiled(model):
    """`model.apply`, traced once for all tests."""
    return jax.jit(model.apply)


def test_initial_values_are_those_of_the_networks_own_initialisers(tiny_with_source):
    model, _ = tiny_with_source
    drawn = initial.init_params(model, 16, seed=0)
    own = jax.device_get(
        jax.jit(model.init)(
            jax.random.key(0),
            jnp.zeros((1, 16, 3)),
            jnp.zeros(1),
            jnp.ones((1, 12), jnp.uint8),
            jnp.ones(1, jnp.uint8),
            jnp.zeros(1),
            jnp.zeros((1, 16, 3)),
        )
    )

    def compare(path, one, other):
        name = jax.tree_util.keystr(path)
        assert one.shape == other.shape and one.dtype == other.dtype, name
        if one.size < 100 or not np.any(other):
            # Zeros, ones, or too few to compare but by their range.
            assert np.any(one) == np.any(other), name
        else:
            np.testing.assert_allclose(one.std(), other.std(), rtol=0.2, err_msg=name)
            np.testing.assert_allclose(np.ptp(one), np.ptp(other), rtol=0.2)
        if path[-1].key != "kernel":
            np.testing.assert_array_equal(one, other)

    jax.tree_util.tree_map_with_path(compare, drawn, own)
    again = initial.init_params(model, 16, seed=0)
    jax.tree.map(np.testing.assert_array_equal, drawn, again)


def gradient_of(model, params):
    """A loss and its gradient."""

    def loss(params):
        x = jnp.linspace(0, 1, 2 * 16 * 3).reshape(2, 16, 3)
        numbers = jnp.array([[29, 79], [47, 0]], jnp.uint8)
        t, groups = jnp.array([3.0, 500.0]), jnp.array([221, 62], jnp.uint8)
        return jnp.sum(model.apply(params, x, t, numbers, groups, t / 1000) ** 2)

    return jax.jit(jax.value_and_grad(loss))(params)


def test_rematerialization_changes_neither_result_nor_gradient(tiny):
    # One level has all that is computed anew.
    model = tiny[0].clone(channel_multipliers=(1,), attention_levels=(1,))
    params = random_params(model)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3),
        gradient_of(model, params),
        gradient_of(model.clone(rematerialize=True), params),
    )


@pytest.mark.parametrize("formulation", ["shift", "xla"])
def test_formulation_of_convolutions_changes_no_result(tiny, formulation):
    """Of the whole network; `test_convolution_is_xlas_convolution` has gradients."""
    model, params = tiny
    inputs = (
        jnp.linspace(0, 1, 2 * 16 * 3).reshape(2, 16, 3),
        jnp.array([3.0, 500.0]),
        jnp.array([[29, 79], [47, 0]], jnp.uint8),
        jnp.array([221, 62], jnp.uint8),
        jnp.array([0.003, 0.5]),
    )
    np.testing.assert_allclose(
        compiled(model.clone(convolution=formulation))(params, *inputs),
        compiled(model)(params, *inputs),
        rtol=1e-3,
        atol=1e-3,
    )


def test_conditions_change_the_prediction(tiny):
    model, params = tiny
    x = jax.random.normal(jax.random.key(2), (1, 16, 3))
    numbers = np.zeros((1, 12), np.uint8)
    numbers[0, :4] = [29, 29, 29, 79]

    apply = compiled(model)

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


def test_times_are_scaled_before_the_sinusoids(tiny):
    model, params = tiny
    conditions = (
        jnp.full((1, 12), 29, jnp.uint8),
        jnp.array([225], jnp.uint8),
        jnp.array([0.1]),
    )
    x = jax.random.normal(jax.random.key(2), (1, 16, 3))
    scaled = compiled(model.clone(time_scale=1000.0))
    np.testing.assert_allclose(
        scaled(params, x, jnp.array([0.25]), *conditions),
        compiled(model)(params, x, jnp.array([250.0]), *conditions),
        atol=1e-5,
    )


# ------------------------------------------------------------------------------ source
@pytest.fixture(scope="module")
def tiny_with_source(tiny):
    model = tiny[0].clone(source_rows=24)
    return model, random_params(model)


def predict_with_source(model, params, source):
    return compiled(model)(
        params,
        jax.random.normal(jax.random.key(2), (1, 16, 3)),
        jnp.array([10.0]),
        jnp.full((1, 12), 29, jnp.uint8),
        jnp.array([225], jnp.uint8),
        jnp.array([0.1]),
        source,
    )


def test_source_changes_the_prediction_of_a_network_that_encodes_it(
    tiny, tiny_with_source
):
    one, other = jax.random.normal(jax.random.key(3), (2, 1, 16, 3))
    changes = [
        np.abs(
            predict_with_source(*network, one) - predict_with_source(*network, other)
        ).max()
        for network in (tiny, tiny_with_source)
    ]
    assert changes[0] == 0 and changes[1] > 1e-3


def test_network_with_source_encoder_wants_a_source(tiny_with_source):
    with pytest.raises(ValueError, match=r"no source crystals.*model\.source_rows=0"):
        predict_with_source(*tiny_with_source, None)


@pytest.mark.parametrize("rows", [16, 24])
def test_source_encoder_pads_between_sites_and_lattice(rows):
    source = jax.random.normal(jax.random.key(0), (2, 16, 3))
    wide = encoders.SourceEncoder(rows=rows)
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: np.float32(rng.normal(size=leaf.shape) / 10),
        jax.eval_shape(wide.init, jax.random.key(1), source),
    )
    padding = jnp.zeros((2, rows - 16, 3))
    padded = jnp.concatenate([source[:, :13], padding, source[:, 13:]], axis=1)
    encode = jax.jit(wide.apply)
    np.testing.assert_array_equal(encode(params, source), encode(params, padded))
    # The rows are the channels of the convolution.
    assert params["params"]["conv_0"]["kernel"].shape == (2, rows, 128)


def test_source_of_more_rows_than_its_encoder_sees_is_refused():
    encoder = encoders.SourceEncoder(rows=16)
    with pytest.raises(ValueError, match=r"24 rows.*model\.source_rows"):
        encoder.init(jax.random.key(0), jnp.zeros((1, 24, 3)))


def test_more_sites_than_the_element_encoder_sees_are_refused(tiny):
    model, params = tiny
    with pytest.raises(ValueError, match=r"model\.element_rows"):
        jax.eval_shape(
            model.apply,
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
    exact = compiled(model)(params, *args)
    low = compiled(model.clone(dtype=dtype))(params, *args)
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, exact, atol=0.1 * np.abs(exact).max())
