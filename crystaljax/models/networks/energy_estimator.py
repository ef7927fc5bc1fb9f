"""Formation energies of crystals, by attention over their sites and distances.

A generator answers which crystal has an energy. What energy a crystal has is the
easier question, and its answer tells which of several crystals is the right one. The
estimator sees elements and distances in Å alone, so that origin, axes and the order of
sites do not matter.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from crystaljax.models.networks import blocks, layers

# Å; neighbours are seen up to the last, in Gaussians around each.
_RADII = np.linspace(1.0, 6.0, 16)
_OFFSETS = np.stack(np.meshgrid(*[(-1, 0, 1)] * 3, indexing="ij"), -1).reshape(-1, 3)


def neighbor_densities(
    frac_coords: Float[Array, "batch sites 3"],
    lattice: Float[Array, "batch 3 3"],
) -> Float[Array, "batch sites sites radii"]:
    """Number of periodic images of each site per Gaussian shell of distance.

    Of the 27 images around the nearest one in fractional coordinates; a site is no
    neighbour of itself, its images are.
    """
    difference = frac_coords[:, :, None] - frac_coords[:, None]
    difference -= jnp.round(difference)
    spacing = _RADII[1] - _RADII[0]
    count = frac_coords.shape[1]

    def add(total, offset):
        vectors = (difference + offset) @ lattice[:, None]
        distance = jnp.sqrt(jnp.sum(jnp.square(vectors), axis=-1) + 1e-12)
        is_itself = jnp.eye(count, dtype=bool) & (offset == 0).all()
        # Fades out before the last radius, where images begin to be missing.
        fade = 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(distance / _RADII[-1], 1.0)))
        fade = jnp.where(is_itself, 0, fade)
        shells = jnp.exp(-jnp.square((distance[..., None] - _RADII) / spacing))
        return total + fade[..., None] * shells, None

    start = jnp.zeros((*difference.shape[:3], len(_RADII)), difference.dtype)
    total, _ = jax.lax.scan(add, start, jnp.asarray(_OFFSETS, difference.dtype))
    return total


class EnergyEstimator(nn.Module):
    """Mean over the sites of what each contributes.

    Attributes:
        width: of a token.
        depth: number of blocks.
        num_heads: of the attention.
        pair_features: number of features of a pair of sites.
        dropout: as in `transformer.CrystalTransformer`.
        dtype: of the arithmetic.
    """

    width: int
    depth: int
    num_heads: int
    pair_features: int
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        atomic_numbers: Integer[Array, "batch sites"],
        frac_coords: Float[Array, "batch sites 3"],
        lattice: Float[Array, "batch 3 3"],
        table: Float[Array, "numbers features"],
    ) -> Float[Array, " batch"]:
        """Energies as the network is conditioned on them; float32.

        Args:
            atomic_numbers: of the sites, 0 where there is none.
            frac_coords: fractional coordinates.
            lattice: rows, Å.
            table: what is known of the element of each atomic number.
        """
        dtype, mask = self.dtype, atomic_numbers > 0
        features = table[atomic_numbers].astype(dtype)
        sites = layers.dense(self.width, dtype, "elements")(features)
        num_sites = jnp.maximum(mask.sum(axis=-1), 1)

        def mean(h):
            return jnp.where(mask[..., None], h, 0).sum(axis=1) / num_sites[:, None]

        volume = jnp.abs(jnp.linalg.det(lattice)) / num_sites
        size = jnp.cbrt(jnp.maximum(volume, 1e-3))[:, None] - 2.5
        whole = jnp.concatenate([mean(sites), size.astype(dtype)], axis=-1)
        embedding = nn.silu(layers.dense(self.width, dtype, "whole")(whole))
        pairs = neighbor_densities(frac_coords, lattice).astype(dtype)
        pairs = nn.silu(layers.dense(2 * self.pair_features, dtype, "pair_in")(pairs))
        pairs = layers.dense(self.pair_features, dtype, "pair_out")(pairs)
        h = sites
        for number in range(self.depth):
            block = blocks.Block(
                self.num_heads,
                dropout=self.dropout,
                dtype=dtype,
                name=f"block_{number}",
            )
            h = block(h, embedding, pairs, mask)
        h = nn.silu(layers.dense(self.width, dtype, "contribution_in")(h))
        h = mean(layers.dense(1, dtype, "contribution")(h).astype(jnp.float32))
        return h[:, 0]


def disturb(
    key: Array,
    frac_coords: Float[Array, "sites 3"],
    lattice: Float[Array, "3 3"],
) -> tuple[Float[Array, "sites 3"], Float[Array, "3 3"]]:
    """A crystal as it may come out of a sampler, with the energy of the right one.

    Sites move by up to 0.1 Å (the deviation, drawn for the crystal), and the lattice is
    strained by 1 %.
    """
    size_key, site_key, strain_key = jax.random.split(key, 3)
    size = 0.1 * jax.random.uniform(size_key)
    moved = size * jax.random.normal(site_key, frac_coords.shape)
    strain = 0.01 * jax.random.normal(strain_key, (3, 3))
    strained = lattice @ (jnp.eye(3) + strain)
    return frac_coords + moved @ jnp.linalg.inv(lattice), strained
