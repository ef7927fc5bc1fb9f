"""Losses of one sample tensor. Batches are made of them with `jax.vmap`."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from crystaljax import structure


def site_l1(
    prediction: Float[Array, "rows 3"],
    target: Float[Array, "rows 3"],
    num_sites: Int[Array, ""],
) -> Float[Array, ""]:
    """L1 over the rows that hold sites, per site (paper section 3.1)."""
    mask = structure.site_mask(num_sites, prediction.shape[-2])
    distance = jnp.sum(jnp.abs(prediction - target), axis=-1)
    return jnp.sum(jnp.where(mask, distance, 0)) / num_sites


def lattice_l1(
    prediction: Float[Array, "rows 3"], target: Float[Array, "rows 3"]
) -> Float[Array, ""]:
    """L1 over the lattice rows, per lattice vector (paper section 3.2)."""
    difference = structure.lattice_rows(prediction) - structure.lattice_rows(target)
    return jnp.sum(jnp.abs(difference)) / structure.NUM_LATTICE_ROWS
