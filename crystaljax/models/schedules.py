"""Noise schedules of diffusion, and the times at which a sampler evaluates."""

import dataclasses
import functools

import numpy as np

from crystaljax.system import errors


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """How much of the data is left at each diffusion time.

    Time 0 is next to the data; the last time is nearly pure noise.

    Attributes:
        alphas_cumprod: ᾱ_t, shape (num_times,), falling from near 1 to near 0:
            x_t = √ᾱ_t · data + √(1 - ᾱ_t) · noise.
    """

    alphas_cumprod: np.ndarray

    @property
    def num_times(self) -> int:
        """Number of discrete diffusion times."""
        return len(self.alphas_cumprod)


@functools.lru_cache(maxsize=16)
def build_cosine_schedule(num_times: int) -> NoiseSchedule:
    """The cosine schedule of Nichol & Dhariwal 2021, as the paper uses it (A.3).

    Betas are capped at 0.999, as in diffusers' ``squaredcos_cap_v2``. The same call
    gives the same object, so that programs compiled with it are found again.
    """
    time = np.arange(num_times + 1) / num_times
    alpha_bar = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    return NoiseSchedule(np.cumprod(1 - betas))


def leading_times(num_times: int, num_steps: int) -> np.ndarray:
    """Times at which a sampler of ``num_steps`` evaluates, noise first.

    Multiples of ``num_times // num_steps`` down to 0 ("leading" spacing: 990, 980, …,
    0 for 100 of 1000).

    Raises:
        ValueError: ``num_steps`` is not between 1 and ``num_times``.
    """
    if not 1 <= num_steps <= num_times:
        raise errors.UserError(
            f"num_steps is {num_steps}; expected 1 to {num_times}, the number of "
            "diffusion times that the model was trained with"
        )
    return np.arange(num_steps)[::-1] * (num_times // num_steps)


def log_snr_times(schedule: NoiseSchedule, num_steps: int) -> np.ndarray:
    """Times at equal steps of the logarithm of the signal-to-noise ratio, noise first.

    From 99 % of the times (990 of 1000, where 100 leading times begin; later ones are
    noise alone, indistinguishable from data) to 0, rounded to whole times.

    Raises:
        ValueError: there are not ``num_steps`` times to choose from.
    """
    last = schedule.num_times - max(1, schedule.num_times // 100)
    if not 1 <= num_steps <= last:
        raise errors.UserError(
            f"num_steps is {num_steps}; expected 1 to {last}, the number of diffusion "
            "times that can be chosen"
        )
    alpha_bar = schedule.alphas_cumprod[: last + 1]
    log_snr = np.log(alpha_bar / (1 - alpha_bar))
    target_log_snr = np.linspace(log_snr[-1], log_snr[0], num_steps)
    # np.interp wants rising points: the ratio falls with time.
    times = np.interp(target_log_snr, log_snr[::-1], np.arange(last + 1)[::-1])
    times = np.round(times).astype(int)
    # Where steps are shorter than a time, each gets one of its own.
    number = np.arange(num_steps)
    times = np.minimum.accumulate(times + number) - number
    return np.maximum(times, number[::-1])
