"""From a config to the objects it describes.

Apart from the entry points this is the only module that looks into a ConfigDict. Type
checkers do not know what a ConfigDict holds, so it is annotated as Any.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from crystaljax import (
    defaults,
    losses,
    processes,
    samplers,
    scaling,
    schedules,
    structure,
    training,
)
from crystaljax.generation import SampleFn
from crystaljax.models import crystal_unet, layers

DTYPES = ("auto", "float32", "bfloat16", "float16")
STARTS = ("normal", "uniform", "source")
COORDINATE_LOSSES = ("l1", "pbc_l1", "pbc_l2", "boundary_l1", "boundary_l2")


def is_modification(config: Any) -> bool:
    """Whether a config is for the modification task, not generation.

    Raises:
        ValueError: an unknown task.
    """
    if config.task not in defaults.TASKS:
        raise ValueError(
            f"unknown task {config.task!r}; expected one of {defaults.TASKS}"
        )
    return config.task == "modification"


def resolve_dtype(name: str) -> Any:
    """Name of an arithmetic → dtype; "auto" asks what the devices are.

    Raises:
        ValueError: an unknown name.
    """
    if name not in DTYPES:
        raise ValueError(f"train.dtype is {name!r}; expected one of {DTYPES}")
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def row_buckets(config: Any) -> tuple[int, ...]:
    """Rows that sample tensors can have, ascending; the last is ``data.rows``.

    Raises:
        ValueError: a bucket is no positive multiple of 8, or not below ``data.rows``.
    """
    rows = config.data.rows
    buckets = sorted(set(config.data.row_buckets))
    for bucket in buckets:
        structure.max_sites(bucket)
        if bucket >= rows:
            raise ValueError(
                f"data.row_buckets has {bucket}, but data.rows is {rows}; expected "
                "fewer rows than data.rows, which need not be repeated"
            )
    return (*buckets, rows)


def build_model(config: Any) -> crystal_unet.CrystalUNet:
    """The network.

    Raises:
        ValueError: the element encoder sees fewer sites than a sample can have, or an
            unknown formulation of the convolutions.
    """
    model = config.model
    if model.convolution not in layers.CONVOLUTIONS:
        raise ValueError(
            f"model.convolution is {model.convolution!r}; expected one of "
            f"{layers.CONVOLUTIONS}"
        )
    sites = structure.max_sites(config.data.rows)
    if model.element_rows < sites:
        raise ValueError(
            f"model.element_rows is {model.element_rows}, but data.rows="
            f"{config.data.rows} holds {sites} sites; raise model.element_rows"
        )
    if model.source_rows and not is_modification(config):
        raise ValueError(
            f"model.source_rows is {model.source_rows}, but the task is generation, "
            "which has no source crystals; set model.source_rows=0"
        )
    if 0 < model.source_rows < config.data.rows:
        raise ValueError(
            f"model.source_rows is {model.source_rows}, but data.rows is "
            f"{config.data.rows}; raise model.source_rows to it"
        )
    return crystal_unet.CrystalUNet(
        channels=model.channels,
        channel_multipliers=tuple(model.channel_multipliers),
        num_res_blocks=model.num_res_blocks,
        attention_levels=tuple(model.attention_levels),
        norm_groups=model.norm_groups,
        space_group_operations=model.space_group_operations,
        element_properties=model.element_properties,
        element_rows=model.element_rows,
        element_channels=tuple(model.element_channels),
        site_features=model.site_features,
        source_rows=model.source_rows,
        time_scale=model.time_scale,
        convolution=model.convolution,
        rematerialize=model.rematerialize,
        dtype=resolve_dtype(config.train.dtype),
    )


def build_schedule(config: Any) -> schedules.NoiseSchedule:
    """The noise schedule of a diffusion.

    Raises:
        ValueError: an unknown name.
    """
    name = config.process.schedule
    if name == "cosine":
        return schedules.build_cosine_schedule(config.process.num_times)
    raise ValueError(f"unknown process.schedule {name!r}; expected 'cosine'")


def build_noise_fn(config: Any) -> processes.NoiseFn | None:
    """Where the paths of flow matching start; None: at the source crystal.

    Raises:
        ValueError: an unknown name, or a source where the task has none.
    """
    start = config.process.start
    match start:
        case "normal":
            return jax.random.normal
        case "uniform":
            mean, scale = scaling.coordinate_units(config.data.coordinates)
            return functools.partial(
                jax.random.uniform, minval=-mean / scale, maxval=(1 - mean) / scale
            )
        case "source":
            _require_modification(config, "process.start='source'")
            return None
        case _:
            raise ValueError(
                f"unknown process.start {start!r}; expected one of {STARTS}"
            )


def build_process(config: Any) -> processes.Process:
    """The process that the network is trained on.

    Raises:
        ValueError: an unknown name, or a process that the task cannot have.
    """
    name = config.process.name
    match name:
        case "diffusion":
            return processes.Diffusion(build_schedule(config))
        case "flow_matching":
            return processes.FlowMatching(build_noise_fn(config))
        case "regression":
            _require_modification(config, "process.name='regression'")
            return processes.Regression()
        case _:
            raise ValueError(
                f"unknown process.name {name!r}; expected one of "
                f"{tuple(defaults.SAMPLERS)}"
            )


def _require_modification(config: Any, setting: str) -> None:
    if not is_modification(config):
        raise ValueError(
            f"{setting} needs a source crystal, which task={config.task!r} does not "
            "have; set task='modification'"
        )


def override_sampler(
    config: Any,
    num_steps: int | None = None,
    eta: float | None = None,
    name: str | None = None,
    preset: str | None = None,
) -> Any:
    """A copy of a config with other sampler settings; None keeps the config's.

    Args:
        config: of the run.
        num_steps: network evaluations.
        eta: of DDIM.
        name: of the sampler.
        preset: one of `defaults.PRESETS`; the other arguments change it.

    Raises:
        ValueError: a setting that the sampler does not have, or an unknown preset.
    """
    config = config.copy_and_resolve_references()
    if preset is not None:
        if preset not in defaults.PRESETS:
            raise ValueError(
                f"unknown preset {preset!r}; expected one of {tuple(defaults.PRESETS)}"
            )
        # A process that is unknown is refused below.
        config.sampler.name, config.sampler.num_steps = defaults.PRESETS[preset].get(
            config.process.name, (config.sampler.name, config.sampler.num_steps)
        )
        config.sampler.eta = 0.0
    if name is not None:
        config.sampler.name = name
    _require_fitting_sampler(config)
    name = config.sampler.name
    if num_steps is not None:
        if name == "regression" and num_steps != 1:
            raise ValueError(
                f"num_steps is {num_steps}, but regression answers in one network "
                "evaluation; leave --num_steps out"
            )
        config.sampler.num_steps = num_steps
    if eta is not None:
        if name != "ddim":
            raise ValueError(
                f"eta is {eta}, but it belongs to DDIM, and the sampler is {name!r}; "
                "leave --eta out" + (" or set --sampler=ddim" if name == "ddpm" else "")
            )
        config.sampler.eta = eta
    return config


def _require_fitting_sampler(config: Any) -> None:
    process, sampler = config.process.name, config.sampler.name
    if process not in defaults.SAMPLERS:
        raise ValueError(
            f"unknown process.name {process!r}; expected one of "
            f"{tuple(defaults.SAMPLERS)}"
        )
    if sampler not in defaults.SAMPLERS[process]:
        raise ValueError(
            f"sampler.name is {sampler!r}, but a network trained with process.name="
            f"{process!r} is sampled by {' or '.join(defaults.SAMPLERS[process])}"
        )


def is_deterministic(config: Any) -> bool:
    """Whether the same conditions always lead to the same sample, whatever the key."""
    if config.process.name == "flow_matching":
        return config.process.start == "source"
    return config.process.name == "regression"


def build_sampler(config: Any) -> SampleFn:
    """The sampler, from the keys of the samples to the samples.

    Raises:
        ValueError: an unknown name, one that does not fit the process, or settings out
            of range.
    """
    _require_fitting_sampler(config)
    name, num_steps, eta = (
        config.sampler.name,
        config.sampler.num_steps,
        config.sampler.eta,
    )
    if config.process.name == "diffusion":
        schedule = build_schedule(config)
        # Raises where the number of steps is out of range.
        if name == "dpm_solver":
            schedules.log_snr_times(schedule, num_steps)
        else:
            schedules.leading_times(schedule.num_times, num_steps)

        def sample(predict_fn, keys, rows, mask, source):
            noise = samplers.sample_noise(keys, rows)
            settings = {"schedule": schedule, "num_steps": num_steps, "mask": mask}
            if name == "dpm_solver":
                return samplers.sample_dpm_solver(predict_fn, noise, **settings)
            if name == "ddpm":
                return samplers.sample_ddpm(predict_fn, noise, keys, **settings)
            return samplers.sample_ddim(predict_fn, noise, keys, eta=eta, **settings)

    elif config.process.name == "flow_matching":
        sampler = samplers.sample_heun if name == "heun" else samplers.sample_euler
        noise_fn = build_noise_fn(config)

        def sample(predict_fn, keys, rows, mask, source):
            if noise_fn is None:
                start = processes.require_source(source)
            else:
                start = samplers.sample_noise(keys, rows, noise_fn)
            return sampler(predict_fn, start, num_steps=num_steps, mask=mask)

    else:

        def sample(predict_fn, keys, rows, mask, source):
            start = processes.require_source(source)
            return samplers.sample_regression(predict_fn, start, mask=mask)

    return sample


def build_coordinate_loss(
    config: Any, scale: scaling.Scaling
) -> training.CoordinateLoss:
    """The loss of one sample's coordinates.

    Raises:
        ValueError: an unknown name, or periodic images where the network does not
            answer with coordinates.
    """
    name = config.loss.coordinates
    if name == "l1":
        return losses.site_l1
    if name not in COORDINATE_LOSSES:
        raise ValueError(
            f"unknown loss.coordinates {name!r}; expected one of {COORDINATE_LOSSES}"
        )
    if config.process.name != "regression":
        raise ValueError(
            f"loss.coordinates is {name!r}, but with process.name="
            f"{config.process.name!r} the network does not answer with coordinates, "
            "which alone have periodic images; set loss.coordinates='l1'"
        )
    images, norm = name.split("_")
    distance = functools.partial(
        losses.pbc_distance,
        order=float(config.loss.image_order),
        norm=norm,
        images="all" if images == "pbc" else "boundary",
    )

    def loss(prediction, target, num_sites):
        # In the units of the cell, where a period is 1.
        return distance(
            scale.fractional(prediction), scale.fractional(target), num_sites
        )

    return loss


def build_scaling(
    config: Any, lattice: np.ndarray, energy: np.ndarray
) -> scaling.Scaling:
    """The scaling, measured on training structures.

    Args:
        config: names the units.
        lattice: of the training structures, Å.
        energy: as the network is conditioned on it: formation energies, or differences
            over pairs, eV/atom.
    """
    return scaling.fit_scaling(
        lattice,
        energy,
        coordinates=config.data.coordinates,
        lattice_units=config.data.lattice,
        energy_units=config.data.energy,
    )


def num_train_steps(config: Any, epoch_size: int) -> int:
    """Steps in all, rounded up to whole dispatches.

    Args:
        config: gives steps or epochs.
        epoch_size: structures, or pairs, of an epoch.

    Raises:
        ValueError: neither steps nor epochs are given, or an interval is no multiple
            of ``train.steps_per_dispatch``.
    """
    train = config.train
    steps = train.num_steps or -(-train.num_epochs * epoch_size // train.batch_size)
    if steps <= 0:
        raise ValueError(
            f"train.num_steps is {train.num_steps} and train.num_epochs is "
            f"{train.num_epochs}; expected one of them to be positive"
        )
    for name in ("log_every", "checkpoint_every", "validate_every"):
        if train[name] % train.steps_per_dispatch:
            raise ValueError(
                f"train.{name} is {train[name]}; expected a multiple of "
                f"train.steps_per_dispatch, {train.steps_per_dispatch}"
            )
    return -(-steps // train.steps_per_dispatch) * train.steps_per_dispatch


def build_learning_rate(config: Any, num_steps: int) -> optax.Schedule:
    """Linear warm-up, then a cosine to 0 at the last step (paper A.3)."""
    warmup = min(config.optimizer.warmup_steps, num_steps // 2)
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.optimizer.learning_rate,
        warmup_steps=warmup,
        decay_steps=num_steps,
    )


def build_optimizer(config: Any, num_steps: int) -> optax.GradientTransformation:
    """Adam with clipping by the global norm (paper A.3)."""
    optimizer = config.optimizer
    parts: list[optax.GradientTransformation] = [
        optax.adam(
            build_learning_rate(config, num_steps),
            b1=optimizer.b1,
            b2=optimizer.b2,
            eps=optimizer.eps,
        )
    ]
    if optimizer.gradient_clip:
        parts.insert(0, training.clip_by_global_norm(optimizer.gradient_clip))
    return optax.chain(*parts)


def build_trainee(
    config: Any, scale: scaling.Scaling, num_steps: int
) -> training.Trainee:
    """All that a training step works with.

    Args:
        config: of the run.
        scale: units of the network.
        num_steps: steps in all.

    Raises:
        ValueError: one of the parts that the config names is unknown or does not fit.
    """
    batch_size, parts = config.train.batch_size, config.train.accumulation_steps
    if parts < 1 or batch_size % parts:
        raise ValueError(
            f"train.accumulation_steps is {parts}, which does not divide "
            f"train.batch_size, {batch_size}; use one of its divisors"
        )
    return training.Trainee(
        model=build_model(config),
        process=build_process(config),
        optimizer=build_optimizer(config, num_steps),
        scale=scale,
        rows=config.data.rows,
        coordinate_loss=build_coordinate_loss(config, scale),
        coordinate_weight=config.loss.coordinate_weight,
        lattice_weight=config.loss.lattice_weight,
        ema_decay=config.train.ema_decay,
        accumulation_steps=config.train.accumulation_steps,
    )
