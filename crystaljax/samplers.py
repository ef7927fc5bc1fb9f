"""Samplers: from noise to data through a predict function, one `lax.scan` each.

They know no network and no crystal: ``predict_fn(x, t)`` answers what the process
trained it to answer, and ``mask`` says which rows are free.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from crystaljax import schedules

PredictFn = Callable[
    [Float[Array, "batch rows 3"], Float[Array, " batch"]], Float[Array, "batch rows 3"]
]


def sample_noise(keys: Key[Array, " batch"], rows: int) -> Float[Array, "batch rows 3"]:
    """Standard normal noise, each sample from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, (rows, 3)))(keys)


def sample_ddim(
    predict_fn: PredictFn,
    noise: Float[Array, "batch rows 3"],
    keys: Key[Array, " batch"],
    *,
    schedule: schedules.NoiseSchedule,
    num_steps: int,
    eta: float = 0.0,
    mask: Bool[Array, "batch rows"] | None = None,
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

    Returns:
        Samples at the data end of time.

    Raises:
        ValueError: ``num_steps`` or ``eta`` is out of range.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; expected 0 (deterministic) to 1 (as DDPM)")
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
        "sigma": sigma,
    }
    steps = {name: jnp.asarray(value, jnp.float32) for name, value in steps.items()}
    steps["index"] = jnp.arange(num_steps)

    def hold(x):
        return x if mask is None else jnp.where(mask[..., None], x, 0)

    def step(x, s):
        predicted_noise = predict_fn(x, jnp.full(x.shape[:1], s["t"]))
        data = (x - s["noise_scale"] * predicted_noise) / s["data_scale"]
        x = s["next_data_scale"] * data + s["next_noise_scale"] * predicted_noise
        if eta > 0:
            step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, s["index"])
            x = x + s["sigma"] * sample_noise(step_keys, x.shape[-2])
        return hold(x), None

    x, _ = jax.lax.scan(step, hold(noise), steps)
    return x
