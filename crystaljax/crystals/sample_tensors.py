"""The tensor that the network sees, and batches of crystals on their way to it.

The sample tensor ``x`` has shape ``(..., rows, 3)`` (paper section 2.1, equation 1):
one row per site, padding, and three lattice rows at the end. Padding is 0 always.
``rows`` is 64 in the paper; any multiple of 8 that is at least ``sites + 4`` works.
Other conventions are those of `structure`, which does without JAX.
"""

from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from crystaljax.crystals import structure
from crystaljax.system import errors


@flax.struct.dataclass
class CellBatch:
    """Sites and lattices of a batch, without species.

    Attributes:
        frac_coords: float32 (batch, sites, 3), in [0, 1); 0 beyond the sites.
        lattice: float32 (batch, 3, 3), rows, Å.
    """

    frac_coords: Any
    lattice: Any


@flax.struct.dataclass
class TemplateBatch:
    """Known crystals that may be like those of a batch, site by site.

    Attributes:
        atomic_numbers: uint8 (batch, templates, sites), the template's own elements; 0
            where there is no site or no template.
        frac_coords: float32 (batch, templates, sites, 3), in [0, 1).
        lattice: float32 (batch, templates, 3, 3), rows, Å.
        space_group: uint8 (batch, templates), 1-230, 0 where there is no template.
        energy: float32 (batch, templates), formation energy, eV/atom.
    """

    atomic_numbers: Any
    frac_coords: Any
    lattice: Any
    space_group: Any
    energy: Any


@flax.struct.dataclass
class CrystalBatch:
    """A batch of crystals with their conditions: what travels to the device.

    Sites beyond ``num_sites`` are 0. Leading axes are free: ``(batch, ...)`` here, and
    ``(steps, batch, ...)`` where several steps are dispatched at once.

    Attributes:
        atomic_numbers: uint8 (batch, sites).
        frac_coords: float32 (batch, sites, 3), in [0, 1).
        lattice: float32 (batch, 3, 3), rows, Å.
        num_sites: int32 (batch,).
        space_group: uint8 (batch,), 1-230.
        energy: float32 (batch,), formation energy, eV/atom; where there is a source,
            formation energy less that of the source.
        source: `CellBatch` of the crystals that these are modifications of (the same
            species, site by site), or None.
        templates: `TemplateBatch`, or None.
    """

    # Not annotated as arrays: pytrees hold anything while JAX transforms them.
    atomic_numbers: Any
    frac_coords: Any
    lattice: Any
    num_sites: Any
    space_group: Any
    energy: Any
    source: Any = None
    templates: Any = None


def site_mask(
    num_sites: Int[Array | np.ndarray, "*batch"], rows: int
) -> Bool[Array, "*batch {rows}"]:
    """True at the rows that hold a site."""
    return jnp.arange(rows) < jnp.asarray(num_sites)[..., None]


def lattice_mask(rows: int) -> Bool[Array, " {rows}"]:
    """True at the three rows that hold the lattice vectors."""
    return jnp.arange(rows) >= rows - structure.NUM_LATTICE_ROWS


def row_mask(
    num_sites: Int[Array | np.ndarray, "*batch"], rows: int
) -> Bool[Array, "*batch {rows}"]:
    """True at the rows that hold a site or a lattice vector: all but the padding."""
    return site_mask(num_sites, rows) | lattice_mask(rows)


def encode(
    frac_coords: Float[Array | np.ndarray, "*batch sites 3"],
    lattice: Float[Array | np.ndarray, "*batch 3 3"],
    num_sites: Int[Array | np.ndarray, "*batch"],
    rows: int,
) -> Float[Array, "*batch {rows} 3"]:
    """Arrays → sample tensor (paper equation 1). Rows beyond ``num_sites`` become 0.

    Raises:
        ValueError: ``frac_coords`` has more site rows than ``rows`` can hold.
    """
    num_rows_in = frac_coords.shape[-2]
    if num_rows_in > structure.max_sites(rows):
        raise errors.UserError(
            f"{num_rows_in} site rows do not fit into {rows} rows, which hold "
            f"{structure.max_sites(rows)} sites; use "
            f"rows={structure.rows_for(num_rows_in)} or more"
        )
    gap = rows - structure.NUM_LATTICE_ROWS - num_rows_in
    padding = [(0, 0)] * (frac_coords.ndim - 2) + [(0, gap), (0, 0)]
    coords = jnp.pad(jnp.asarray(frac_coords), padding)
    keep = site_mask(num_sites, rows - structure.NUM_LATTICE_ROWS)
    coords = jnp.where(keep[..., None], coords, 0)
    return jnp.concatenate([coords, jnp.asarray(lattice)], axis=-2)


def site_rows(
    x: Float[Array, "*batch rows columns"],
) -> Float[Array, "*batch sites columns"]:
    """The rows of ``x`` that can hold sites."""
    return x[..., : -structure.NUM_EXTRA_ROWS, :]


def lattice_rows(
    x: Float[Array, "*batch rows columns"],
) -> Float[Array, "*batch 3 columns"]:
    """The lattice rows of ``x``, Å."""
    return x[..., -structure.NUM_LATTICE_ROWS :, :]


def decode(
    x: Float[Array, "*batch rows 3"],
) -> tuple[Float[Array, "*batch sites 3"], Float[Array, "*batch 3 3"]]:
    """Sample tensor → fractional coordinates wrapped into [0, 1), and lattice (Å)."""
    return wrap(site_rows(x)), lattice_rows(x)


def wrap(frac_coords: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Wraps fractional coordinates into [0, 1); exactly 1 never comes out."""
    wrapped = frac_coords - jnp.floor(frac_coords)
    # A tiny negative number plus one rounds to 1.
    return jnp.where(wrapped >= 1, 0, wrapped)
