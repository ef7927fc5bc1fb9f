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

from crystaljax.crystals import sample_tensors
from crystaljax.models import schedules
from crystaljax.system import errors

# (key, shape) → noise, as `jax.random.normal` is called.
NoiseFn = Callable[..., Array]


class Corrupted(NamedTuple):
    """A training example of a process.

    Attributes:
        x_t: the sample on its way to the data, (rows, 3).
        t: time as the sampler counts it, ().
        target: what the network should answer, (rows, 3), or (rows, 6) where it
            answers with directions.
    """

    x_t: Array
    t: Array
    target: Array


def directions(x: Float[Array, "*batch rows 3"]) -> Float[Array, "*batch rows 6"]:
    """Coordinates (periods) as points on circles: cosines, then sines.

    Where several ends are possible the mean of their points is what squared errors lead
    to. It lies inside the circle, and in the direction of what is most likely; the mean
    of the coordinates themselves means nothing on a torus. Lattice rows are kept, with
    zeros behind them.
    """
    is_lattice = sample_tensors.lattice_mask(x.shape[-2])[:, None]
    angles = 2 * jnp.pi * x
    return jnp.concatenate(
        [
            jnp.where(is_lattice, x, jnp.cos(angles)),
            jnp.where(is_lattice, 0, jnp.sin(angles)),
        ],
        axis=-1,
    )


def undirected(answer: Float[Array, "*batch rows 6"]) -> Float[Array, "*batch rows 3"]:
    """Coordinates in (-1/2, 1/2] that `directions` point to, and the lattice rows."""
    is_lattice = sample_tensors.lattice_mask(answer.shape[-2])[:, None]
    cosines, sines = jnp.split(answer, 2, axis=-1)
    coords = jnp.arctan2(sines, cosines) / (2 * jnp.pi)
    return jnp.where(is_lattice, cosines, coords)


def sample_torus(key: PRNGKeyArray, shape: tuple[int, int]) -> Float[Array, "rows 3"]:
    """Sites anywhere in the cell, U(0, 1), and normal lattice rows."""
    site_key, lattice_key = jax.random.split(key)
    is_lattice = sample_tensors.lattice_mask(shape[0])[:, None]
    anywhere = jax.random.uniform(site_key, shape)
    return jnp.where(is_lattice, jax.random.normal(lattice_key, shape), anywhere)


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
        t = jax.random.randint(time_key, (), 0, len(self.schedule.alphas_cumprod))
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
        period: of the coordinates, where paths take the shorter way across the faces
            of the cell; None where they go straight within it.
        answer: what the network predicts: "velocity", as in the paper, or
            "direction", the end of the path on the torus, see `directions`.
        time_power: times are U(0, 1) to this power: above 1 they crowd at the start,
            where it is decided which crystal it shall be.
    """

    noise_fn: NoiseFn | None
    period: float | None = None
    answer: str = "velocity"
    time_power: float = 1.0

    def corrupt(
        self,
        key: PRNGKeyArray,
        data: Float[Array, "rows 3"],
        source: Float[Array, "rows 3"] | None = None,
    ) -> Corrupted:
        """x_t = t · data + (1 - t) · start, and data - start or the end as target.

        Raises:
            ValueError: paths start at the source, and there is none.
        """
        time_key, noise_key = jax.random.split(key)
        t = jax.random.uniform(time_key, ()) ** self.time_power
        if self.noise_fn is None:
            start = require_source(source)
        else:
            start = self.noise_fn(noise_key, data.shape)
        way = self.way(start, data)
        target = directions(data) if self.answer == "direction" else way
        return Corrupted(start + t * way, t, target)

    def velocity(
        self,
        answer: Float[Array, "*batch rows answers"],
        x: Float[Array, "*batch rows 3"],
        t: Float[Array, "*batch"],
    ) -> Float[Array, "*batch rows 3"]:
        """The velocity at ``x`` and time ``t`` < 1 that the network's answer means."""
        if self.answer == "velocity":
            return answer
        return self.way(x, undirected(answer)) / (1 - t[..., None, None])

    def way(
        self, start: Float[Array, "*batch rows 3"], end: Float[Array, "*batch rows 3"]
    ) -> Float[Array, "*batch rows 3"]:
        """From a start to an end: straight, or the shorter way across the faces."""
        way = end - start
        if self.period is None:
            return way
        shorter = way - self.period * jnp.round(way / self.period)
        is_lattice = sample_tensors.lattice_mask(way.shape[-2])[:, None]
        return jnp.where(is_lattice, way, shorter)


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
        raise errors.UserError(
            "this method starts from a source crystal and got none; use it with "
            "task='modification', or start from noise"
        )
    return source
