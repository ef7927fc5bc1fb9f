"""Processes: what the network is given in training and what it must answer.

A process works on one sample tensor and knows nothing of networks or batches; its
counterpart in generation is a sampler.
"""

import dataclasses
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from crystaljax import schedules


class Corrupted(NamedTuple):
    """A training example of a process.

    Attributes:
        x_t: the sample on its way between noise and data, (rows, 3).
        t: time as the network is fed it, ().
        target: what the network should answer, (rows, 3).
    """

    x_t: Array
    t: Array
    target: Array


@runtime_checkable
class Process(Protocol):
    """Makes training examples out of data."""

    def corrupt(self, key: PRNGKeyArray, data: Float[Array, "rows 3"]) -> Corrupted:
        """Draws a time and whatever else the process needs."""
        ...


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """Denoising diffusion that predicts the noise (paper algorithm 9).

    Times are the integers 0 (next to the data) … ``num_times - 1`` (noise), fed to the
    network as they are.
    """

    schedule: schedules.NoiseSchedule

    def corrupt(self, key: PRNGKeyArray, data: Float[Array, "rows 3"]) -> Corrupted:
        """x_t = √ᾱ_t · data + √(1 - ᾱ_t) · noise, and the noise as target."""
        time_key, noise_key = jax.random.split(key)
        t = jax.random.randint(time_key, (), 0, self.schedule.num_times)
        noise = jax.random.normal(noise_key, data.shape)
        alpha_bar = jnp.asarray(self.schedule.alphas_cumprod, jnp.float32)[t]
        x_t = jnp.sqrt(alpha_bar) * data + jnp.sqrt(1 - alpha_bar) * noise
        return Corrupted(x_t, t.astype(jnp.float32), noise)
