"""From a config to the objects it describes.

Apart from the entry points this is the only module that looks into a ConfigDict. Type
checkers do not know what a ConfigDict holds, so it is annotated as Any.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from crystaljax import processes, samplers, scaling, schedules, structure
from crystaljax.generation import SampleFn
from crystaljax.models import crystal_unet

DTYPES = ("auto", "float32", "bfloat16", "float16")


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


def build_model(config: Any) -> crystal_unet.CrystalUNet:
    """The network.

    Raises:
        ValueError: the element encoder sees fewer sites than a sample can have.
    """
    model = config.model
    sites = structure.max_sites(config.data.rows)
    if model.element_rows < sites:
        raise ValueError(
            f"model.element_rows is {model.element_rows}, but data.rows="
            f"{config.data.rows} holds {sites} sites; raise model.element_rows"
        )
    return crystal_unet.CrystalUNet(
        channels=model.channels,
        channel_multipliers=tuple(model.channel_multipliers),
        num_res_blocks=model.num_res_blocks,
        attention_levels=tuple(model.attention_levels),
        norm_groups=model.norm_groups,
        element_properties=model.element_properties,
        element_rows=model.element_rows,
        element_channels=tuple(model.element_channels),
        site_features=model.site_features,
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


def build_process(config: Any) -> processes.Process:
    """The process that the network is trained on.

    Raises:
        ValueError: an unknown name.
    """
    name = config.process.name
    if name == "diffusion":
        return processes.Diffusion(build_schedule(config))
    raise ValueError(f"unknown process.name {name!r}; expected 'diffusion'")


def override_sampler(config: Any, num_steps: int | None, eta: float | None) -> Any:
    """A copy of a config with other sampler settings; None keeps the config's."""
    config = config.copy_and_resolve_references()
    if num_steps is not None:
        config.sampler.num_steps = num_steps
    if eta is not None:
        config.sampler.eta = eta
    return config


def build_sampler(config: Any) -> SampleFn:
    """The sampler, from the keys of the samples to the samples.

    Raises:
        ValueError: an unknown name, or settings out of range.
    """
    name, num_steps, eta = (
        config.sampler.name,
        config.sampler.num_steps,
        config.sampler.eta,
    )
    if name != "ddim":
        raise ValueError(f"unknown sampler.name {name!r}; expected 'ddim'")
    schedule = build_schedule(config)
    schedules.leading_times(schedule.num_times, num_steps)

    def sample(predict_fn, keys, rows, mask):
        noise = samplers.sample_noise(keys, rows)
        return samplers.sample_ddim(
            predict_fn,
            noise,
            keys,
            schedule=schedule,
            num_steps=num_steps,
            eta=eta,
            mask=mask,
        )

    return sample


def build_scaling(
    config: Any, lattice: np.ndarray, energy: np.ndarray
) -> scaling.Scaling:
    """The scaling, measured on training structures (Å, eV/atom)."""
    return scaling.fit_scaling(
        lattice,
        energy,
        coordinates=config.data.coordinates,
        lattice_units=config.data.lattice,
        energy_units=config.data.energy,
    )


def num_train_steps(config: Any, num_structures: int) -> int:
    """Steps in all, rounded up to whole dispatches.

    Raises:
        ValueError: neither steps nor epochs are given, or an interval is no multiple
            of ``train.steps_per_dispatch``.
    """
    train = config.train
    steps = train.num_steps or -(-train.num_epochs * num_structures // train.batch_size)
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
        parts.insert(0, optax.clip_by_global_norm(optimizer.gradient_clip))
    return optax.chain(*parts)
