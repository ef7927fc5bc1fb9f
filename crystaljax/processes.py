"""Processes: what the network is given in training and what it must answer.

A process works on one sample tensor and knows nothing of networks, tasks or batches;
its counterpart when crystals are made is a sampler.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from crystaljax import schedules

# (key, shape) → noise, as `jax.random.normal` is called.
NoiseFn = Callable[..., Array]


class Corrupted(NamedTuple):
    """A training example of a process.

    Attributes:
        x_t: the sample on its way to the data, (rows, 3).
        t: time as the sampler counts it, ().
        target: what the network should answer, (rows, 3).
    """

    x_t: Array
    t: Array
    target: Array


@runtime_checkable
class Process(Protocol):
    """Makes training examples out of data."""

    def corrupt(
        self,
        key: PRNGKeyArray,
        data: Float[Array, "rows 3"],
        source: Float[Array, "rows 3"] | None,
    ) -> Corrupted:
        """Draws a time and whatever else the process needs.

        Args:
            key: of this example.
            data: what shall come out in the end.
            source: the crystal that ``data`` is a modification of, or None.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """Denoising diffusion that predicts the noise (paper algorithms 7 and 9).

    Times are the integers 0 (next to the data) … ``num_times - 1`` (noise). A source
    plays no part in it: it is a condition of the network (Palette).
    """

    schedule: schedules.NoiseSchedule

    def corrupt(
        self,
        key: PRNGKeyArray,
        data: Float[Array, "rows 3"],
        source: Float[Array, "rows 3"] | None = None,
    ) -> Corrupted:
        """x_t = √ᾱ_t · data + √(1 - ᾱ_t) · noise, and the noise as target."""
        time_key, noise_key = jax.random.split(key)
        t = jax.random.randint(time_key, (), 0, self.schedule.num_times)
        noise = jax.random.normal(noise_key, data.shape)
        alpha_bar = jnp.asarray(self.schedule.alphas_cumprod, jnp.float32)[t]
        x_t = jnp.sqrt(alpha_bar) * data + jnp.sqrt(1 - alpha_bar) * noise
        return Corrupted(x_t, t.astype(jnp.float32), noise)


@dataclasses.dataclass(frozen=True)
class FlowMatching:
    """Conditional flow matching along straight paths (paper algorithms 3 to 5).

    Time runs from 0 (start) to 1 (data).

    Attributes:
        noise_fn: draws the start of a path; None starts at the source crystal.
    """

    noise_fn: NoiseFn | None

    def corrupt(
        self,
        key: PRNGKeyArray,
        data: Float[Array, "rows 3"],
        source: Float[Array, "rows 3"] | None = None,
    ) -> Corrupted:
        """x_t = t · data + (1 - t) · start, and the velocity, data - start, as target.

        Raises:
            ValueError: paths start at the source, and there is none.
        """
        time_key, noise_key = jax.random.split(key)
        t = jax.random.uniform(time_key, ())
        if self.noise_fn is None:
            start = require_source(source)
        else:
            start = self.noise_fn(noise_key, data.shape)
        return Corrupted(t * data + (1 - t) * start, t, data - start)


@dataclasses.dataclass(frozen=True)
class Regression:
    """Answers the source with the data at once (paper algorithm 1); time is 0."""

    def corrupt(
        self,
        key: PRNGKeyArray,
        data: Float[Array, "rows 3"],
        source: Float[Array, "rows 3"] | None,
    ) -> Corrupted:
        """The source, and the data as target.

        Raises:
            ValueError: there is no source.
        """
        return Corrupted(require_source(source), jnp.zeros(()), data)


def require_source(source: Array | None) -> Array:
    """The source; raises ValueError if there is none."""
    if source is None:
        raise ValueError(
            "this method starts from a source crystal and got none; use it with "
            "task='modification', or start from noise"
        )
    return source
