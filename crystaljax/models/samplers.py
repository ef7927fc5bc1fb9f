"""Samplers: from a start to data through a predict function, one `lax.scan` each.

They know no network and no crystal: ``predict_fn(x, t)`` answers what the process
trained it to answer, and ``mask`` says which rows are free. What is `Kept` is on its
exact path from the start to its value after every step, and ends there to the last bit.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from crystaljax.models import processes, schedules
from crystaljax.system import errors

PredictFn = Callable[
    [Float[Array, "batch rows 3"], Float[Array, " batch"]], Float[Array, "batch rows 3"]
]


@flax.struct.dataclass
class Kept:
    """Entries of samples that are known beforehand.

    Attributes:
        is_kept: (batch, rows, 3), True where an entry is known.
        value: (batch, rows, 3).
        way: (batch, rows, 3), from the start to the value along the path of the
            process, `processes.FlowMatching.way`; diffusion needs none.
    """

    is_kept: Any
    value: Any
    way: Any = None


def sample_noise(
    keys: Key[Array, " batch"],
    rows: int,
    noise_fn: processes.NoiseFn = jax.random.normal,
) -> Float[Array, "batch rows 3"]:
    """Noise, standard normal by default, each sample from its own key."""
    return jax.vmap(lambda key: noise_fn(key, (rows, 3)))(keys)


def sample_ddim(
    predict_fn: PredictFn,
    noise: Float[Array, "batch rows 3"],
    keys: Key[Array, " batch"],
    *,
    schedule: schedules.NoiseSchedule,
    num_steps: int,
    eta: float = 0.0,
    mask: Bool[Array, "batch rows"] | None = None,
    kept: Kept | None = None,
) -> Float[Array, "batch rows 3"]:
    """DDIM (paper algorithm 11; Song et al. 2021, equation 12), leading spacing.

    Args:
        predict_fn: predicts the noise in ``x`` at time ``t`` (0 … num_times - 1).
        noise: x at the last time.
        keys: one per sample, used where ``eta`` > 0; fresh noise depends on the
            sample's key and the step alone.
        schedule: the schedule that the predict function was trained with.
        num_steps: network evaluations.
        eta: 0 is deterministic, 1 has the variance of DDPM.
        mask: rows that are False are held at 0 in every step. Left to drift, padding
            rows ruin the samples of a network that only ever saw zeros there.
        kept: entries that are known. After a step they are what the forward process
            makes of their value and of the sample's first noise.

    Returns:
        Samples at the data end of time.

    Raises:
        ValueError: ``num_steps`` or ``eta`` is out of range.
    """
    if not 0 <= eta <= 1:
        raise errors.UserError(
            f"eta is {eta}; expected 0 (deterministic) to 1 (as DDPM)"
        )
    times = schedules.leading_times(schedule.num_times, num_steps)
    previous = times - schedule.num_times // num_steps
    alpha_bar = schedule.alphas_cumprod[times]
    alpha_bar_previous = np.where(
        previous >= 0, schedule.alphas_cumprod[np.maximum(previous, 0)], 1.0
    )
    sigma = eta * np.sqrt(
        (1 - alpha_bar_previous)
        / (1 - alpha_bar)
        * (1 - alpha_bar / alpha_bar_previous)
    )
    steps = {
        "t": times,
        "data_scale": np.sqrt(alpha_bar),
        "noise_scale": np.sqrt(1 - alpha_bar),
        "next_data_scale": np.sqrt(alpha_bar_previous),
        "next_noise_scale": np.sqrt(1 - alpha_bar_previous - sigma**2),
        "next_deviation": np.sqrt(1 - alpha_bar_previous),
        "sigma": sigma,
    }
    steps = {name: jnp.asarray(value, jnp.float32) for name, value in steps.items()}
    steps["index"] = jnp.arange(num_steps)

    def step(x, s):
        predicted_noise = predict_fn(x, jnp.full(x.shape[:1], s["t"]))
        data = (x - s["noise_scale"] * predicted_noise) / s["data_scale"]
        x = s["next_data_scale"] * data + s["next_noise_scale"] * predicted_noise
        if eta > 0:
            step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, s["index"])
            x = x + s["sigma"] * sample_noise(step_keys, x.shape[-2])
        return _hold(_diffuse(x, s, kept, noise), mask), None

    x, _ = jax.lax.scan(step, _hold(noise, mask), steps)
    return x


def sample_ddpm(
    predict_fn: PredictFn,
    noise: Float[Array, "batch rows 3"],
    keys: Key[Array, " batch"],
    *,
    schedule: schedules.NoiseSchedule,
    num_steps: int,
    mask: Bool[Array, "batch rows"] | None = None,
    kept: Kept | None = None,
) -> Float[Array, "batch rows 3"]:
    """DDPM (paper algorithms 8 and 10), leading spacing, fixed-small variance.

    It is DDIM at η = 1: mean and variance of the posterior are the same (Song et al.
    2021, section 4.1), for any number of steps. See `sample_ddim` for the arguments.
    """
    return sample_ddim(
        predict_fn,
        noise,
        keys,
        schedule=schedule,
        num_steps=num_steps,
        eta=1.0,
        mask=mask,
        kept=kept,
    )


def sample_dpm_solver(
    predict_fn: PredictFn,
    noise: Float[Array, "batch rows 3"],
    *,
    schedule: schedules.NoiseSchedule,
    num_steps: int,
    mask: Bool[Array, "batch rows"] | None = None,
    kept: Kept | None = None,
) -> Float[Array, "batch rows 3"]:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), deterministic.

    DDIM takes the data that the network sees for constant within a step; this follows
    its change from the step before, in the logarithm of the signal-to-noise ratio, at
    equal steps of it (`schedules.log_snr_times`). The first step has none before it and
    the last ends at pure data: both are DDIM's. See `sample_ddim` for the arguments.

    Raises:
        ValueError: ``num_steps`` is out of range.
    """
    times = schedules.log_snr_times(schedule, num_steps)
    alpha_bar = np.append(schedule.alphas_cumprod[times], 1.0)
    data_scale, noise_scale = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    with np.errstate(divide="ignore"):
        # Half the logarithm of the signal-to-noise ratio; infinite at pure data.
        lengths = np.diff(np.log(data_scale) - np.log(noise_scale))
    extrapolation = np.zeros(num_steps)
    extrapolation[1:-1] = lengths[1:-1] / (2 * lengths[:-2])
    steps = {
        "t": times,
        "data_scale": data_scale[:-1],
        "noise_scale": noise_scale[:-1],
        "x_weight": noise_scale[1:] / noise_scale[:-1],
        "data_weight": data_scale[1:] * -np.expm1(-lengths),
        "extrapolation": extrapolation,
        "next_data_scale": data_scale[1:],
        "next_deviation": noise_scale[1:],
    }
    steps = {name: jnp.asarray(value, jnp.float32) for name, value in steps.items()}

    def step(carry, s):
        x, previous_data = carry
        predicted_noise = predict_fn(x, jnp.full(x.shape[:1], s["t"]))
        data = (x - s["noise_scale"] * predicted_noise) / s["data_scale"]
        ahead = data + s["extrapolation"] * (data - previous_data)
        x = s["x_weight"] * x + s["data_weight"] * ahead
        return (_hold(_diffuse(x, s, kept, noise), mask), data), None

    start = _hold(noise, mask)
    (x, _), _ = jax.lax.scan(step, (start, jnp.zeros_like(start)), steps)
    return x


def sample_euler(
    predict_fn: PredictFn,
    start: Float[Array, "batch rows 3"],
    *,
    num_steps: int,
    mask: Bool[Array, "batch rows"] | None = None,
    kept: Kept | None = None,
) -> Float[Array, "batch rows 3"]:
    """Euler's method from time 0 (start) to 1 (data) (paper algorithm 6).

    Args:
        predict_fn: predicts the velocity of ``x`` at time ``t``.
        start: x at time 0: noise, or the crystal to modify.
        num_steps: network evaluations, at the times 0, 1/num_steps, ….
        mask: rows that are False are held at 0 in every step.
        kept: entries that are known; they follow their path.

    Returns:
        Samples at time 1.

    Raises:
        ValueError: ``num_steps`` is not positive.
    """
    if num_steps < 1:
        raise errors.UserError(f"num_steps is {num_steps}; expected 1 or more")

    def step(x, s):
        velocity = predict_fn(x, jnp.full(x.shape[:1], s["t"]))
        x = _follow_path(x + velocity / num_steps, s["left"], kept)
        return _hold(x, mask), None

    number = np.arange(num_steps)
    steps = {
        "t": jnp.arange(num_steps, dtype=jnp.float32) / num_steps,
        "left": jnp.asarray((num_steps - 1 - number) / num_steps, jnp.float32),
    }
    x, _ = jax.lax.scan(step, _hold(start, mask), steps)
    return x


def sample_heun(
    predict_fn: PredictFn,
    start: Float[Array, "batch rows 3"],
    *,
    num_steps: int,
    mask: Bool[Array, "batch rows"] | None = None,
    kept: Kept | None = None,
) -> Float[Array, "batch rows 3"]:
    """Heun's method from time 0 (start) to 1 (data): second order.

    A step of Euler's method, then the same step again with the mean of the velocities
    at its two ends: two evaluations an interval. Where their number is odd, the last
    interval is Euler's alone (Karras et al. 2022, algorithm 1).

    Args:
        predict_fn: predicts the velocity of ``x`` at time ``t``.
        start: x at time 0: noise, or the crystal to modify.
        num_steps: network evaluations, over half as many intervals (rounded up).
        mask: rows that are False are held at 0 in every step.
        kept: entries that are known; they follow their path.

    Returns:
        Samples at time 1.

    Raises:
        ValueError: ``num_steps`` is not positive.
    """
    if num_steps < 1:
        raise errors.UserError(f"num_steps is {num_steps}; expected 1 or more")
    num_intervals = -(-num_steps // 2)
    length = 1 / num_intervals
    number = np.arange(num_steps)
    is_correction = number % 2 == 1
    steps = {
        "t": jnp.asarray(length * (number // 2 + is_correction), jnp.float32),
        "is_correction": jnp.asarray(is_correction),
        # Both evaluations of an interval lead to its end.
        "left": jnp.asarray(length * (num_intervals - 1 - number // 2), jnp.float32),
    }

    # One evaluation a round, so that the network is compiled once.
    def step(carry, s):
        x, begin, first_velocity = carry
        velocity = predict_fn(x, jnp.full(x.shape[:1], s["t"]))
        corrected = begin + length / 2 * (first_velocity + velocity)
        predicted = x + length * velocity
        after = jnp.where(s["is_correction"], corrected, predicted)
        after = _hold(_follow_path(after, s["left"], kept), mask)
        return (after, x, velocity), None

    start = _hold(start, mask)
    carry = (start, start, jnp.zeros_like(start))
    (x, _, _), _ = jax.lax.scan(step, carry, steps)
    return x


def sample_regression(
    predict_fn: PredictFn,
    source: Float[Array, "batch rows 3"],
    *,
    mask: Bool[Array, "batch rows"] | None = None,
    kept: Kept | None = None,
) -> Float[Array, "batch rows 3"]:
    """The network's answer to the source, at time 0 (paper algorithm 2)."""
    x = _hold(source, mask)
    x = predict_fn(x, jnp.zeros(x.shape[:1]))
    if kept is not None:
        x = jnp.where(kept.is_kept, kept.value, x)
    return _hold(x, mask)


def _hold(x: Array, mask: Array | None) -> Array:
    return x if mask is None else jnp.where(mask[..., None], x, 0)


def _diffuse(x: Array, step: Any, kept: Kept | None, noise: Array) -> Array:
    """Kept entries as the forward process has them at the end of a step."""
    if kept is None:
        return x
    exact = step["next_data_scale"] * kept.value + step["next_deviation"] * noise
    return jnp.where(kept.is_kept, exact, x)


def _follow_path(x: Array, left: Array, kept: Kept | None) -> Array:
    """Kept entries where they are on their path, with so much of its time left."""
    if kept is None:
        return x
    return jnp.where(kept.is_kept, kept.value - left * kept.way, x)
