"""Losses of one sample tensor. Batches are made of them with `jax.vmap`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from crystaljax import defaults
from crystaljax.crystals import sample_tensors, structure
from crystaljax.system import errors

# Floor of distances, in periods. Far below the resolution of float32 coordinates, yet
# its inverse square is still a float32.
TINY = 1e-12


def site_l1(
    prediction: Float[Array, "rows 3"],
    target: Float[Array, "rows 3"],
    num_sites: Int[Array, ""],
) -> Float[Array, ""]:
    """L1 over the rows that hold sites, per site (paper section 3.1)."""
    mask = sample_tensors.site_mask(num_sites, prediction.shape[-2])
    distance = jnp.sum(jnp.abs(prediction - target), axis=-1)
    return jnp.sum(jnp.where(mask, distance, 0)) / num_sites


def site_squares(
    prediction: Float[Array, "rows columns"],
    target: Float[Array, "rows columns"],
    num_sites: Int[Array, ""],
) -> Float[Array, ""]:
    """Squared distance over the rows that hold sites, per site."""
    mask = sample_tensors.site_mask(num_sites, prediction.shape[-2])
    squares = jnp.sum(jnp.square(prediction - target), axis=-1)
    return jnp.sum(jnp.where(mask, squares, 0)) / num_sites


def lattice_l1(
    prediction: Float[Array, "rows columns"], target: Float[Array, "rows columns"]
) -> Float[Array, ""]:
    """L1 over the lattice rows, per lattice vector (paper section 3.2)."""
    difference = sample_tensors.lattice_rows(prediction) - sample_tensors.lattice_rows(
        target
    )
    return jnp.sum(jnp.abs(difference)) / structure.NUM_LATTICE_ROWS


def soft_min(
    distances: Float[Array, "*shape"],
    order: float | int,
    axis: int = -1,
    where: Bool[Array, "*shape"] | None = None,
) -> Float[Array, "*reduced"]:
    """Differentiable minimum (Σ dᵢᵏ)^(1/k), k = ``order`` < 0 (paper A.4, min_diff).

    Never above the minimum, and it rises to it as k → -∞: n equal distances d give
    d·n^(1/k). Computed in float32; value and gradient are finite wherever the distances
    are, zero among them included.

    Args:
        distances: at least 0.
        order: k; -inf is the minimum itself, whose gradient is shared among ties.
        axis: that is reduced.
        where: False at distances that do not count; at least one along ``axis`` must.

    Raises:
        ValueError: ``order`` is not negative.
    """
    if not order < 0:
        raise errors.UserError(
            f"order of the soft minimum is {order}; expected less than 0"
        )
    distances = jnp.maximum(distances.astype(jnp.float32), TINY)
    nearest = jnp.min(distances, axis, keepdims=True, initial=jnp.inf, where=where)
    if order == -jnp.inf:
        return jnp.squeeze(nearest, axis)
    # Powers of dᵢ would overflow; those of nearest / dᵢ are in (0, 1]. The result does
    # not depend on this unit, so to hold it constant leaves the gradient exact.
    nearest = jax.lax.stop_gradient(nearest)
    if where is not None:  # What does not count may be much nearer, and overflow.
        distances = jnp.where(where, distances, nearest)
    # A whole exponent is multiplied out, a fractional one costs a logarithm.
    power = int(-order) if float(order).is_integer() and order > -1000 else -order
    total = jnp.sum((nearest / distances) ** power, axis, where=where)
    return jnp.squeeze(nearest, axis) * total ** (1 / order)


def periodic_distances(
    prediction: Float[Array, "rows 3"],
    target: Float[Array, "rows 3"],
    *,
    order: float | int = defaults.IMAGE_ORDER,
    norm: str = "l2",
    images: str = "all",
) -> Float[Array, " rows"]:
    """Distance of each row from the nearest periodic image of its target.

    The minimum over the images is `soft_min` (paper section 3.3 and appendix A.4).
    Coordinates are fractional and distances in periods, not Å: they do not know the
    lattice. Coordinates that were scaled for a network must be scaled back first.
    Computed in float32 whatever comes in; the gradient is finite everywhere, at
    distance zero it is zero.

    Args:
        prediction: fractional coordinates, not necessarily in [0, 1).
        target: likewise.
        order: of the soft minimum, negative; -inf is the hard minimum.
        norm: "l1" or "l2" of the difference.
        images: "all", the target and its 26 neighbours (section 3.3): invariant to a
            shift of either by whole periods; or "boundary", as appendix A.4 spells it
            out: coordinates of the target that are exactly 0 or 1 may be either, so
            8 points compete for a vertex of the cell, 4 on an edge, 2 on a side, and
            elsewhere this is the plain distance.

    Raises:
        ValueError: ``norm`` or ``images`` is none of these, or ``order`` not negative.
    """
    prediction, target = prediction.astype(jnp.float32), target.astype(jnp.float32)
    if images == "all":
        difference = prediction - target
        # Into [-0.5, 0.5]: then the nearest image of all is within one period. Rounding
        # is a constant to the gradient.
        difference -= jax.lax.stop_gradient(jnp.round(difference))
        offsets = difference[..., None] + jnp.array([-1.0, 0.0, 1.0])
        counts = None
    elif images == "boundary":
        movable = (target == 0) | (target == 1)
        near, far = jnp.where(movable, 0, target), jnp.ones_like(target)
        offsets = prediction[..., None] - jnp.stack([near, far], -1)
        # Where an axis cannot be exchanged only the first candidate counts.
        allowed = jnp.stack([jnp.ones_like(movable), movable], -1)
        counts = _combine_axes(allowed, jnp.logical_and)
    else:
        raise errors.UserError(
            f"unknown images {images!r}; expected 'all' or 'boundary'"
        )

    if norm == "l1":
        # Not jnp.abs, whose gradient at 0 is 1: an axis that is right would be pulled.
        sign = jax.lax.stop_gradient(jnp.sign(offsets))
        distances = _combine_axes(sign * offsets, jnp.add)
    elif norm == "l2":
        squares = _combine_axes(jnp.square(offsets), jnp.add)
        # The gradient of a square root at 0 is infinite.
        distances = jnp.sqrt(jnp.maximum(squares, TINY**2))
    else:
        raise errors.UserError(f"unknown norm {norm!r}; expected 'l1' or 'l2'")
    return soft_min(distances, order, where=counts)


def pbc_distance(
    prediction: Float[Array, "rows 3"],
    target: Float[Array, "rows 3"],
    num_sites: Int[Array, ""],
    *,
    order: float | int = defaults.IMAGE_ORDER,
    norm: str = "l2",
    images: str = "all",
) -> Float[Array, ""]:
    """Mean `periodic_distances` of the rows that hold sites (paper A.4, L_batchPBC).

    Takes whole sample tensors; padding and lattice rows neither count nor receive a
    gradient, whatever they hold. The paper sums this over a batch.

    Args:
        prediction: fractional coordinates in the site rows.
        target: likewise.
        num_sites: sites of the structure, at least 1.
        order: as in `periodic_distances`, like the two that follow.
        norm: "l1" or "l2".
        images: "all" or "boundary".

    Raises:
        ValueError: as `periodic_distances`.
    """
    mask = sample_tensors.site_mask(num_sites, prediction.shape[-2])
    # Masked on the way in as well: 0 times the gradient of an overflow is not 0.
    distances = periodic_distances(
        jnp.where(mask[:, None], prediction, 0),
        jnp.where(mask[:, None], target, 0),
        order=order,
        norm=norm,
        images=images,
    )
    return jnp.sum(jnp.where(mask, distances, 0)) / num_sites


def _combine_axes(per_axis, combine):
    """(rows, 3, n) → (rows, n³): one candidate per axis, in all combinations."""
    x, y, z = per_axis[:, 0], per_axis[:, 1], per_axis[:, 2]
    xy = combine(x[:, :, None], y[:, None, :])
    xyz = combine(xy[:, :, :, None], z[:, None, None, :])
    return xyz.reshape(len(per_axis), -1)
