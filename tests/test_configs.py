"""Every config loads, builds and fits together; what makes no sense is refused."""

import functools
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from configs import ddim
from crystaljax import defaults
from crystaljax.crystals import sample_tensors, structure
from crystaljax.models import build, initial, scaling
from crystaljax.sampling import build as build_sampling
from crystaljax.sampling import generation
from crystaljax.sampling import options as sampling_options
from crystaljax.sampling.conditions import conditions_of
from crystaljax.system import sharding
from crystaljax.training import batches, train_step
from crystaljax.training import build as build_training

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.py"))
SEVEN = {
    "ddpm",
    "ddim",
    "cfm_normal",
    "cfm_uniform",
    "modify_regression",
    "modify_diffusion",
    "modify_cfm",
}

IDENTITY = scaling.Scaling(0.0, 1.0, np.zeros((3, 3)), np.ones((3, 3)), 0.0, 1.0)


def module_of(name):
    return importlib.import_module(f"configs.{name}")


def load(name, variant="smoke"):
    return module_of(name).get_config(variant)


ALL = [(name, variant) for name in NAMES for variant in module_of(name).VARIANTS]


def test_the_papers_seven_methods_are_there():
    assert set(NAMES) >= SEVEN


def test_a_variant_changes_what_configs_have_and_nothing_else():
    variants = {"": {}, "typo": {"train.ema_decya": 0.9}}
    assert defaults.build_config("x", "generation", variants, "") == (
        defaults.paper("generation")
    )
    with pytest.raises(KeyError, match=r"train\.ema_decya"):
        defaults.build_config("x", "generation", variants, "typo")
    with pytest.raises(ValueError, match=r"variant 'big' of configs/x.py.*'typo'"):
        defaults.build_config("x", "generation", variants, "big")


@pytest.mark.parametrize("name,variant", ALL)
def test_every_config_builds(name, variant):
    config = load(name, variant)
    build.build_model(config)
    build.build_process(config)
    build_sampling.build_sampler(config)
    num_steps = batches.num_train_steps(config, 1000)
    build_training.build_optimizer(config)
    schedule = build_training.build_learning_rate(config, num_steps)
    assert schedule(0) == 0
    assert schedule(num_steps) == pytest.approx(0, abs=1e-9)
    warmup = config.optimizer.warmup_steps
    assert schedule(warmup) == pytest.approx(config.optimizer.learning_rate)


def test_configs_have_the_same_keys():
    """One definition of each key, in crystaljax/defaults.py."""

    def keys(value, prefix=""):
        found = set()
        for key, item in value.items():
            is_section = hasattr(item, "items")
            found |= keys(item, f"{prefix}{key}.") if is_section else {prefix + key}
        return found

    expected = keys(load("ddim"))
    for name, variant in ALL:
        assert keys(load(name, variant)) == expected, name


@pytest.mark.parametrize("name", sorted(SEVEN))
def test_loss_and_samples_of_every_method_fit_together(name):
    """Traced, not compiled: shapes, and which inputs each of them takes.

    The network of each task in its size, which is that of all methods of the task.
    """
    config = load(name)
    if name not in ("ddim", "modify_diffusion"):
        tiny.shrink(config, "unused")
    rows, sites, num = config.data.rows, structure.max_sites(config.data.rows), 3
    cells = sample_tensors.CellBatch(
        jnp.zeros((num, sites, 3)), jnp.broadcast_to(4 * jnp.eye(3), (num, 3, 3))
    )
    batch = sample_tensors.CrystalBatch(
        atomic_numbers=jnp.full((num, sites), 29, jnp.uint8),
        frac_coords=cells.frac_coords,
        lattice=cells.lattice,
        num_sites=jnp.array([1, 4, sites]),
        space_group=jnp.full(num, 221, jnp.uint8),
        energy=jnp.zeros(num),
        source=cells if build.is_modification(config) else None,
    )
    scale = build_training.build_scaling(
        config,
        np.tile(4 * np.eye(3), (2, 1, 1)),
        np.array([-0.1, 0.1]),
        np.full((2, 1), 29),
    )
    trainee = build_training.build_trainee(config, scale, num_steps=10)
    model = trainee.model
    key = jax.random.key(0)
    params = initial.param_shapes(model, rows)
    loss, parts = jax.eval_shape(
        lambda params: train_step.compute_loss(
            trainee, params, batch, jax.random.split(key, num)
        ),
        params,
    )
    assert loss.shape == () and set(parts) == {"loss_coordinates", "loss_lattice"}
    generate_fn = generation.build_generate_fn(
        model, build_sampling.build_sampler(config), sharding.build_mesh()
    )
    coords, lattice = jax.eval_shape(
        generate_fn, params, scale, conditions_of(batch), key, jnp.arange(num)
    )
    assert coords.shape == (num, sites, 3) and lattice.shape == (num, 3, 3)


# --------------------------------------------------------------------- paper's settings
def test_paper_config_has_the_papers_settings():
    config = ddim.get_config()
    model = build.build_model(config)
    assert model == type(model)(dtype=model.dtype)
    assert config.train.batch_size == 256 and config.train.num_epochs == 400
    assert batches.num_train_steps(config, 2560) == 4000


@pytest.mark.parametrize(
    "name,settings",
    [
        ("ddpm", {"sampler.name": "ddpm", "sampler.num_steps": 100}),
        ("ddim", {"sampler.name": "ddim", "sampler.eta": 0}),
        ("cfm_normal", {"process.start": "normal", "sampler.num_steps": 100}),
        ("cfm_uniform", {"process.start": "uniform", "sampler.name": "euler"}),
        (
            "modify_regression",
            {"loss.coordinates": "pbc_l2", "optimizer.gradient_clip": 0},
        ),
        ("modify_diffusion", {"model.source_rows": 64, "sampler.name": "ddpm"}),
        ("modify_cfm", {"process.start": "source", "model.time_scale": 1}),
    ],
)
def test_methods_differ_as_in_the_paper(name, settings):
    config = load(name, "")
    for key, value in settings.items():
        section, field = key.split(".")
        assert config[section][field] == value
    assert config.task == (
        "modification" if name.startswith("modify") else "generation"
    )


def test_ddpm_and_ddim_train_the_same_network():
    one, other = load("ddpm", "").to_dict(), load("ddim", "").to_dict()
    one.pop("sampler"), other.pop("sampler")
    assert one == other


@pytest.mark.parametrize("coordinates,low", [("unit", 0), ("signed", -1)])
def test_uniform_noise_fills_the_cell(coordinates, low):
    config = load("cfm_uniform")
    config.data.coordinates = coordinates
    noise = build.build_noise_fn(config)(jax.random.key(0), (4000, 3))
    assert noise.min() == pytest.approx(low, abs=0.01)
    assert noise.max() == pytest.approx(1, abs=0.01)
    mean, scale = scaling.coordinate_units(coordinates)
    assert np.mean(noise * scale + mean) == pytest.approx(0.5, abs=0.02)


def test_periodic_loss_is_taken_in_the_units_of_the_cell():
    config = load("modify_regression")
    scale = scaling.fit_scaling(
        np.eye(3)[None],
        np.zeros(1),
        np.full((1, 1), 29),
        coordinates="signed",
        lattice_units="angstrom",
        energy_units="ev",
    )
    loss = functools.partial(build_training.build_coordinate_loss(config), scale)
    prediction, target = jnp.zeros((16, 3)), jnp.zeros((16, 3))
    # A whole cell is 2 in signed units, half a cell is 1.
    assert loss(prediction + 2.0, target, jnp.int32(4)) == pytest.approx(0, abs=1e-5)
    moved = target.at[:, 0].set(0.2)
    assert loss(prediction, moved, jnp.int32(4)) == pytest.approx(0.1, rel=1e-4)


# ----------------------------------------------------------------------------- refusals
@pytest.mark.parametrize("name", NAMES)
def test_unknown_variant_is_refused(name):
    with pytest.raises(ValueError, match="unknown variant 'tiny'"):
        load(name, "tiny")


@pytest.mark.parametrize(
    "name,section,key,builder",
    [
        ("ddim", "process", "name", build.build_process),
        ("ddim", "process", "schedule", build.build_schedule),
        ("cfm_normal", "process", "start", build.build_process),
        ("ddim", "sampler", "name", build_sampling.build_sampler),
        ("ddim", "train", "dtype", build.build_model),
        (
            "modify_regression",
            "loss",
            "coordinates",
            build_training.build_coordinate_loss,
        ),
    ],
)
def test_unknown_names_in_configs_are_refused(name, section, key, builder):
    config = load(name)
    config[section][key] = "nonsense"
    with pytest.raises(ValueError, match="nonsense"):
        builder(config)


def test_unknown_task_is_refused():
    config = load("ddim")
    config.task = "translation"
    with pytest.raises(ValueError, match="translation"):
        build.is_modification(config)


@pytest.mark.parametrize(
    "name,changes,builder,message",
    [
        (
            "ddim",
            {"sampler.name": "euler"},
            build_sampling.build_sampler,
            "ddpm or ddim",
        ),
        (
            "cfm_normal",
            {"sampler.name": "ddim"},
            build_sampling.build_sampler,
            "sampled by euler",
        ),
        ("cfm_normal", {"process.start": "source"}, build.build_process, "task='mod"),
        ("ddim", {"process.name": "regression"}, build.build_process, "task='mod"),
        ("ddim", {"model.source_rows": 16}, build.build_model, "source_rows is 16"),
        ("modify_diffusion", {"data.rows": 24}, build.build_model, r"element_rows"),
    ],
)
def test_parts_that_do_not_fit_are_refused(name, changes, builder, message):
    config = load(name)
    for key, value in changes.items():
        section, field = key.split(".")
        config[section][field] = value
    with pytest.raises(ValueError, match=message):
        builder(config)


def test_source_encoder_smaller_than_the_rows_is_refused():
    config = load("modify_diffusion")
    config.data.rows = config.model.element_rows = 24
    with pytest.raises(ValueError, match=r"raise model\.source_rows"):
        build.build_model(config)


def test_periodic_loss_of_noise_is_refused():
    config = load("ddim")
    config.loss.coordinates = "pbc_l1"
    with pytest.raises(ValueError, match="does not answer with coordinates"):
        build_training.build_coordinate_loss(config)


def override(config, **settings):
    settings = sampling_options.SamplerSettings(**settings)
    return build_sampling.override_sampler(config, settings)


@pytest.mark.parametrize(
    "name,settings,message",
    [
        ("ddpm", {"eta": 0.5}, "--sampler=ddim"),
        ("cfm_normal", {"eta": 0.5}, "'euler'"),
        ("modify_regression", {"num_steps": 10}, "one network evaluation"),
        ("modify_regression", {"draws": 8}, "one answer"),
        ("ddim", {"sampler": "euler"}, "ddpm or ddim"),
        ("ddim", {"num_steps": 2000}, "num_steps is 2000; expected 1 to 1000"),
        ("ddim", {"sampler": "dpm_solver", "num_steps": 1000}, "expected 1 to 990"),
    ],
)
def test_sampler_settings_that_it_does_not_have_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        override(load(name), **settings)


def test_sampler_can_be_chosen_after_training():
    config = override(load("ddpm"), num_steps=7, eta=0.3, sampler="ddim")
    assert (config.sampler.name, config.sampler.num_steps) == ("ddim", 7)
    assert config.sampler.eta == 0.3
    config = override(load("ddpm"), draws=5)
    assert config.sampler.draws == 5


@pytest.mark.parametrize("name", sorted(SEVEN))
def test_presets_are_for_every_method_and_flags_change_them(name):
    config = override(load(name, ""), preset="fast")
    assert config.sampler.num_steps <= 10
    build_sampling.build_sampler(config)
    if config.process.name == "diffusion":
        config = override(config, num_steps=7, sampler="ddpm", preset="fast")
        assert (config.sampler.name, config.sampler.num_steps) == ("ddpm", 7)
    with pytest.raises(ValueError, match="unknown preset 'slow'"):
        override(config, preset="slow")


def test_interval_that_is_no_multiple_of_a_dispatch_is_refused():
    config = load("ddim")
    config.train.log_every = 15
    with pytest.raises(ValueError, match=r"train\.log_every is 15"):
        batches.num_train_steps(config, 100)


@pytest.mark.parametrize("name", sorted(SEVEN))
def test_which_methods_have_one_answer(name):
    expected = name in ("modify_regression", "modify_cfm")
    assert build_sampling.is_deterministic(load(name)) == expected


@pytest.mark.parametrize(
    "name,answer",
    [
        ("modify_cfm", lambda x, t: jnp.zeros_like(x)),
        ("modify_regression", lambda x, t: x),
    ],
)
def test_network_that_changes_nothing_leaves_the_source_as_it_is(name, answer):
    sample_fn = build_sampling.build_sampler(load(name))
    source = jax.random.normal(jax.random.key(0), (2, 16, 3))
    mask = sample_tensors.row_mask(jnp.array([3, 12]), 16)
    keys = jax.random.split(jax.random.key(1), 2)
    expected = np.asarray(source) * np.asarray(mask)[..., None]
    x = sample_fn(answer, keys, 16, mask, source)
    np.testing.assert_allclose(x, expected, atol=1e-6)
    with pytest.raises(ValueError, match="source crystal"):
        sample_fn(answer, keys, 16, mask, None)


@pytest.mark.parametrize("name", sorted(SEVEN))
def test_process_of_a_config_is_that_of_its_method(name):
    process = build.build_process(load(name))
    data, source = jax.random.normal(jax.random.key(0), (2, 16, 3))
    x, t, target = process.corrupt(jax.random.key(1), data, source)
    if name == "modify_regression":
        np.testing.assert_array_equal(x, source)
        np.testing.assert_array_equal(target, data)
    elif name in ("ddpm", "ddim", "modify_diffusion"):
        share = process.schedule.alphas_cumprod[int(t)]
        expected = np.sqrt(share) * data + np.sqrt(1 - share) * target
        np.testing.assert_allclose(x, expected, atol=1e-5)
    else:
        # The target is the velocity: straight on, and at t = 1 at the data.
        assert 0 < t < 1
        np.testing.assert_allclose(x + (1 - t) * target, data, atol=1e-5)
        if name == "modify_cfm":
            np.testing.assert_allclose(x - t * target, source, atol=1e-5)
