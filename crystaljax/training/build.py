"""From a config to what a training step works with: loss, optimiser, units."""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from crystaljax.models import build, losses, scaling
from crystaljax.system import errors
from crystaljax.training import train_step

COORDINATE_LOSSES = ("l1", "squares", "pbc_l1", "pbc_l2", "boundary_l1", "boundary_l2")


def build_coordinate_loss(config: Any) -> train_step.CoordinateLoss:
    """The loss of one sample's coordinates.

    Raises:
        ValueError: an unknown name, or periodic images where the network does not
            answer with coordinates.
    """
    name = config.loss.coordinates
    if name == "l1":
        return _site_l1
    if name == "squares":
        return _site_squares
    if name not in COORDINATE_LOSSES:
        raise errors.UserError(
            f"unknown loss.coordinates {name!r}; expected one of {COORDINATE_LOSSES}"
        )
    if config.process.name != "regression":
        raise errors.UserError(
            f"loss.coordinates is {name!r}, but with process.name="
            f"{config.process.name!r} the network does not answer with coordinates, "
            "which alone have periodic images; set loss.coordinates='l1'"
        )
    return _periodic_loss(name, float(config.loss.image_order))


def _site_l1(scale, *sample):
    del scale
    return losses.site_l1(*sample)


def _site_squares(scale, *sample):
    del scale
    return losses.site_squares(*sample)


@functools.lru_cache(maxsize=16)
def _periodic_loss(name: str, order: float) -> train_step.CoordinateLoss:
    images, norm = name.split("_")
    distance = functools.partial(
        losses.pbc_distance,
        order=order,
        norm=norm,
        images="all" if images == "pbc" else "boundary",
    )

    def loss(scale, prediction, target, num_sites):
        # In the units of the cell, where a period is 1.
        return distance(
            scale.fractional(prediction), scale.fractional(target), num_sites
        )

    return loss


def build_scaling(
    config: Any, lattice: np.ndarray, energy: np.ndarray, atomic_numbers: np.ndarray
) -> scaling.Scaling:
    """The scaling, measured on training structures.

    Args:
        config: names the units.
        lattice: of the training structures, Å.
        energy: as the network is conditioned on it: formation energies, or differences
            over pairs, eV/atom.
        atomic_numbers: of the training structures, 0 beyond their sites.
    """
    return scaling.fit_scaling(
        lattice,
        energy,
        atomic_numbers,
        coordinates=config.data.coordinates,
        lattice_units=config.data.lattice,
        energy_units=config.data.energy,
    )


@flax.struct.dataclass
class LearningRate:
    """Linear warm-up, then a cosine to 0 at the last step (paper A.3).

    The same as `optax.warmup_cosine_decay_schedule`, whose settings are constants of
    compiled programs: these are arguments.

    Attributes:
        peak: at the end of the warm-up.
        warmup_steps: until then.
        decay_steps: from then to the last step.
    """

    peak: Any
    warmup_steps: Any
    decay_steps: Any

    def __call__(self, step: Any) -> Array:
        """The rate after so many steps."""
        # By reciprocals, as XLA does with constants.
        per_step = 1 / jnp.maximum(self.warmup_steps, 1)
        warmed = jnp.clip(step, 0, self.warmup_steps) * per_step
        rising = self.peak - self.peak * (1 - warmed)
        past = jnp.minimum(step - self.warmup_steps, self.decay_steps)
        angle = past * (jnp.pi * (1 / self.decay_steps))
        falling = self.peak * (0.5 * (1 + jnp.cos(angle)))
        return jnp.where(step < self.warmup_steps, rising, falling)


def build_learning_rate(config: Any, num_steps: int) -> LearningRate:
    """The learning rate of a training of so many steps."""
    warmup = min(config.optimizer.warmup_steps, num_steps // 2)
    numbers = (config.optimizer.learning_rate, warmup, num_steps - warmup)
    return LearningRate(*map(np.float32, numbers))


def scale_by_learning_rate() -> optax.GradientTransformationExtraArgs:
    """`optax.scale_by_learning_rate`, with the rate as an argument of the update.

    It is a function of the updates made. The state is that of Optax, so that
    checkpoints are the same.
    """

    def init(params):
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

    def update(updates, state, params=None, **extra_args):
        del params
        step_size = -extra_args["learning_rate"](state.count)
        scaled = jax.tree.map(
            lambda leaf: jnp.asarray(step_size, leaf.dtype) * leaf, updates
        )
        count = optax.safe_increment(state.count)
        return scaled, optax.ScaleByScheduleState(count=count)

    return optax.GradientTransformationExtraArgs(init, update)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm` with `train_step.global_norm`."""

    def update(updates, state, params=None):
        del params
        # A norm that is not finite leaves nothing finite, which stops the run.
        factor = jnp.minimum(1.0, max_norm / train_step.global_norm(updates))
        # One number for all arrays, not computed again for each of them.
        factor = jax.lax.optimization_barrier(factor)
        return jax.tree.map(lambda leaf: factor * leaf, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def build_optimizer(config: Any) -> optax.GradientTransformationExtraArgs:
    """Adam with clipping by the global norm (paper A.3); AdamW if there is a decay.

    Updates need a ``learning_rate``, see `scale_by_learning_rate`.
    """
    names = ("b1", "b2", "eps", "weight_decay", "gradient_clip")
    return _optimizer(*(config.optimizer[name] for name in names))


@functools.lru_cache(maxsize=16)
def _optimizer(
    b1: float, b2: float, eps: float, weight_decay: float, gradient_clip: float
) -> optax.GradientTransformationExtraArgs:
    """The same object for the same numbers: compiled steps are found again by it."""
    adam: list[optax.GradientTransformation] = [
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps)
    ]
    if weight_decay:
        adam.append(optax.add_decayed_weights(weight_decay, _has_axes))
    adam.append(scale_by_learning_rate())
    # Within one another as in `optax.adam`, on which the tree of the state depends.
    parts: list[optax.GradientTransformation] = [optax.chain(*adam)]
    if gradient_clip:
        parts.insert(0, clip_by_global_norm(gradient_clip))
    return optax.chain(*parts)


def _has_axes(params: Any) -> Any:
    """Which parameters are no biases or scales."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def require_accumulation(config: Any) -> None:
    """Raises UserError if a batch cannot be cut into as many parts as it shall be."""
    batch_size, parts = config.train.batch_size, config.train.accumulation_steps
    if parts < 1 or batch_size % parts:
        raise errors.UserError(
            f"train.accumulation_steps is {parts}, which does not divide "
            f"train.batch_size, {batch_size}; use one of its divisors"
        )


def build_trainee(
    config: Any, scale: scaling.Scaling, num_steps: int
) -> train_step.Trainee:
    """All that a training step works with.

    Args:
        config: of the run.
        scale: units of the network.
        num_steps: steps in all.

    Raises:
        ValueError: one of the parts that the config names is unknown or does not fit.
    """
    require_accumulation(config)
    model = build.build_model(config)
    return train_step.Trainee(
        scale=scale,
        learning_rate=build_learning_rate(config, num_steps),
        tables=model.tables(),
        model=model,
        process=build.build_process(config),
        optimizer=build_optimizer(config),
        rows=config.data.rows,
        coordinate_loss=build_coordinate_loss(config),
        coordinate_weight=config.loss.coordinate_weight,
        lattice_weight=config.loss.lattice_weight,
        energy_weight=config.loss.energy_weight,
        ema_decay=config.train.ema_decay,
        accumulation_steps=config.train.accumulation_steps,
        template_dropout=config.data.template_dropout,
    )
