"""Minimisers of one system as pure functions, to be mapped over a batch.

A minimiser is an ``init`` (coordinates → state) and a ``step`` (state, coordinates,
gradient → step, state); both run under ``vmap`` and ``lax`` loops. Coordinates are
(rows, 3) in Å, gradients in eV/Å. Neither compares energies: a step costs one gradient.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from crystaljax.system import errors

# Å: longest step of a row (L-BFGS) or of all rows together (FIRE), as in ASE.
_MAX_STEP = 0.2

# FIRE's constants, names and values of Bitzek et al., but for the time steps: ASE's.
_FIRE_START_TIME_STEP = 0.1
_FIRE_MAX_TIME_STEP = 1.0
_FIRE_DELAY = 5
_FIRE_GROWTH, _FIRE_SHRINK = 1.1, 0.5
_FIRE_START_MIXING, _FIRE_MIXING_DECAY = 0.1, 0.99

# eV/Å²: curvature that L-BFGS starts from, as in ASE.
_START_CURVATURE = 70.0
# ASE keeps 100; with 24, EMT alloys of 2 to 8 sites take as many steps (28.4 and 28.2).
_MEMORY = 24


@dataclasses.dataclass(frozen=True)
class Minimizer:
    """A minimiser; see the module."""

    init: Callable[[Array], Any]
    step: Callable[[Any, Array, Array], tuple[Array, Any]]


@flax.struct.dataclass
class FireState:
    """State of FIRE.

    Attributes:
        velocity: (rows, 3).
        time_step: ().
        mixing: (), share of the velocity that is turned towards the force.
        num_downhill: int32 (), steps since the velocity last pointed uphill.
    """

    velocity: Any
    time_step: Any
    mixing: Any
    num_downhill: Any


@flax.struct.dataclass
class LbfgsState:
    """State of L-BFGS, the latest change first; unused places are 0.

    Attributes:
        steps: (memory, rows, 3), changes of the coordinates.
        changes: (memory, rows, 3), changes of the gradient with them.
        inverse_curvature: (memory,), 1 / (step · change).
        coords: (rows, 3), where the last step began.
        gradient: (rows, 3), there.
        num_steps: int32 ().
    """

    steps: Any
    changes: Any
    inverse_curvature: Any
    coords: Any
    gradient: Any
    num_steps: Any


def build(name: str) -> Minimizer:
    """Name → minimiser.

    Args:
        name: "LBFGS" or "FIRE".

    Raises:
        ValueError: it is neither.
    """
    if name == "LBFGS":
        return Minimizer(init_lbfgs, step_lbfgs)
    if name == "FIRE":
        return Minimizer(init_fire, step_fire)
    raise errors.UserError(
        f"optimizer {name!r} does not run in batches; expected 'LBFGS' or 'FIRE'"
    )


def init_fire(coords: Float[Array, "rows 3"]) -> FireState:
    """State at rest."""
    dtype = coords.dtype
    return FireState(
        velocity=jnp.zeros_like(coords),
        time_step=jnp.array(_FIRE_START_TIME_STEP, dtype),
        mixing=jnp.array(_FIRE_START_MIXING, dtype),
        num_downhill=jnp.zeros((), jnp.int32),
    )


def step_fire(
    state: FireState, coords: Float[Array, "rows 3"], gradient: Float[Array, "rows 3"]
) -> tuple[Float[Array, "rows 3"], FireState]:
    """A step of FIRE (E. Bitzek et al., Phys. Rev. Lett. 97, 170201, 2006).

    Step for step what ``ase.optimize.FIRE`` does.
    """
    del coords
    force, velocity = -gradient, state.velocity
    power = jnp.vdot(force, velocity)
    downhill = power > 0
    speed = jnp.linalg.norm(velocity)
    towards_force = force / jnp.maximum(jnp.linalg.norm(force), 1e-30) * speed
    mixed = (1 - state.mixing) * velocity + state.mixing * towards_force
    faster = downhill & (state.num_downhill > _FIRE_DELAY)
    # Only the first step finds no velocity, which points neither down nor up.
    uphill = ~downhill & (speed > 0)
    grown = jnp.minimum(state.time_step * _FIRE_GROWTH, _FIRE_MAX_TIME_STEP)
    time_step = jnp.where(faster, grown, state.time_step)
    time_step = jnp.where(uphill, state.time_step * _FIRE_SHRINK, time_step)
    mixing = jnp.where(faster, state.mixing * _FIRE_MIXING_DECAY, state.mixing)
    velocity = jnp.where(downhill, mixed, 0.0) + time_step * force
    step = time_step * velocity
    length = jnp.linalg.norm(step)
    step = step * jnp.minimum(1.0, _MAX_STEP / jnp.maximum(length, 1e-30))
    return step, FireState(
        velocity=velocity,
        time_step=time_step,
        mixing=jnp.where(uphill, _FIRE_START_MIXING, mixing).astype(mixing.dtype),
        num_downhill=jnp.where(downhill, state.num_downhill + 1, 0),
    )


def init_lbfgs(coords: Float[Array, "rows 3"]) -> LbfgsState:
    """State without memory."""
    memory = jnp.zeros((_MEMORY, *coords.shape), coords.dtype)
    return LbfgsState(
        steps=memory,
        changes=memory,
        inverse_curvature=jnp.zeros(_MEMORY, coords.dtype),
        coords=coords,
        gradient=jnp.zeros_like(coords),
        num_steps=jnp.zeros((), jnp.int32),
    )


def step_lbfgs(
    state: LbfgsState, coords: Float[Array, "rows 3"], gradient: Float[Array, "rows 3"]
) -> tuple[Float[Array, "rows 3"], LbfgsState]:
    """A step of L-BFGS without line search, as `ase_relaxation.DescendingLbfgs` has it.

    The two loops of J. Nocedal, Math. Comp. 35, 773 (1980). Steps along which the
    gradient fell are not remembered (as in J. Nocedal, S. J. Wright, Numerical
    Optimization, section 7.2), so that every step goes downhill.
    """
    step, change = coords - state.coords, gradient - state.gradient
    curvature = jnp.vdot(step, change)
    # The first step has nothing behind it. Where the curvature is negative, what it
    # points to is no minimum; ASE goes there, uphill.
    usable = (state.num_steps > 0) & (curvature > 1e-30)
    inverse = jnp.where(usable, 1 / jnp.where(usable, curvature, 1.0), 0.0)
    steps = jnp.roll(state.steps, 1, axis=0).at[0].set(step)
    changes = jnp.roll(state.changes, 1, axis=0).at[0].set(change)
    inverses = jnp.roll(state.inverse_curvature, 1).at[0].set(inverse)

    def newest_first(q, pair):
        s, y, rho = pair
        a = rho * jnp.vdot(s, q)
        return q - a * y, a

    def oldest_first(z, pair):
        s, y, rho, a = pair
        return z + s * (a - rho * jnp.vdot(y, z)), None

    memory = steps, changes, inverses
    q, a = jax.lax.scan(newest_first, gradient, memory)
    z, _ = jax.lax.scan(oldest_first, q / _START_CURVATURE, (*memory, a), reverse=True)
    longest = jnp.linalg.norm(z, axis=-1).max()
    move = -z * jnp.minimum(1.0, _MAX_STEP / jnp.maximum(longest, 1e-30))
    return move, LbfgsState(
        steps=steps,
        changes=changes,
        inverse_curvature=inverses,
        coords=coords,
        gradient=gradient,
        num_steps=state.num_steps + 1,
    )
