"""From a config to what a training step works with: losses, optimiser, units."""

import functools
from typing import Any

import jax
import numpy as np
import optax

from crystaljax.models import build, losses, scaling
from crystaljax.system import errors
from crystaljax.training import train_step

COORDINATE_LOSSES = ("l1", "squares", "pbc_l1", "pbc_l2", "boundary_l1", "boundary_l2")


def build_coordinate_loss(
    config: Any, scale: scaling.Scaling
) -> train_step.CoordinateLoss:
    """The loss of one sample's coordinates.

    Raises:
        ValueError: an unknown name, or periodic images where the network does not
            answer with coordinates.
    """
    name = config.loss.coordinates
    if name == "l1":
        return losses.site_l1
    if name == "squares":
        return losses.site_squares
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
        raise errors.UserError(
            f"train.num_steps is {train.num_steps} and train.num_epochs is "
            f"{train.num_epochs}; expected one of them to be positive"
        )
    for name in ("log_every", "checkpoint_every", "validate_every"):
        if train[name] % train.steps_per_dispatch:
            raise errors.UserError(
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
    """Adam with clipping by the global norm (paper A.3); AdamW if there is a decay."""
    optimizer = config.optimizer
    settings = {
        "learning_rate": build_learning_rate(config, num_steps),
        "b1": optimizer.b1,
        "b2": optimizer.b2,
        "eps": optimizer.eps,
    }
    if optimizer.weight_decay:
        adam = optax.adamw(
            **settings, weight_decay=optimizer.weight_decay, mask=_has_axes
        )
    else:
        adam = optax.adam(**settings)
    parts: list[optax.GradientTransformation] = [adam]
    if optimizer.gradient_clip:
        parts.insert(0, train_step.clip_by_global_norm(optimizer.gradient_clip))
    return optax.chain(*parts)


def _has_axes(params: Any) -> Any:
    """Which parameters are no biases or scales."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


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
    batch_size, parts = config.train.batch_size, config.train.accumulation_steps
    if parts < 1 or batch_size % parts:
        raise errors.UserError(
            f"train.accumulation_steps is {parts}, which does not divide "
            f"train.batch_size, {batch_size}; use one of its divisors"
        )
    return train_step.Trainee(
        model=build.build_model(config),
        process=build.build_process(config),
        optimizer=build_optimizer(config, num_steps),
        scale=scale,
        rows=config.data.rows,
        coordinate_loss=build_coordinate_loss(config, scale),
        coordinate_weight=config.loss.coordinate_weight,
        lattice_weight=config.loss.lattice_weight,
        energy_weight=config.loss.energy_weight,
        ema_decay=config.train.ema_decay,
        accumulation_steps=config.train.accumulation_steps,
        template_dropout=config.data.template_dropout,
    )
