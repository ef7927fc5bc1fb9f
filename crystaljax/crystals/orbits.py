"""Crystals as orbits of their space group: what is free, and nothing else.

A crystal in the standard primitive setting of its group (`standard_groups`) is a list
of orbits, each a species on a Wyckoff position with 0 to 3 free parameters, and 1 to 6
numbers for the lattice. All sites follow. The same in fixed shapes, for the device: a
batch of orbits, and for every site its orbit and the affine map from the parameters of
the orbit to the site. Everything below `encode` can be traced by JAX.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from crystaljax.crystals import space_groups, standard_groups, structure
from crystaljax.system import errors

# Squarings and terms of the exponential of a strain: float32 precision up to norm 8.
_NUM_SQUARINGS = 5
_NUM_TERMS = 6


@dataclasses.dataclass(frozen=True, eq=False)
class OrbitCrystal:
    """One crystal on the host, in the standard primitive setting of its group.

    Attributes:
        space_group: 1-230.
        atomic_numbers: shape (orbits,), integers.
        positions: shape (orbits,), indices of the group's Wyckoff positions, 0 for a.
        parameters: shape (orbits, 3), in [0, 1); 0 beyond the freedom of the position.
        strain: shape (6,), coefficients of the group's strains; 0 beyond their number.
            The first is log(volume in Å³) · 2/√3.
    """

    space_group: int
    atomic_numbers: np.ndarray
    positions: np.ndarray
    parameters: np.ndarray
    strain: np.ndarray

    @property
    def num_orbits(self) -> int:
        """Number of orbits."""
        return len(self.positions)

    @property
    def num_sites(self) -> int:
        """Number of sites in the primitive cell."""
        positions = standard_groups.load_group(self.space_group).positions
        return sum(positions[index].multiplicity for index in self.positions.tolist())


def expand(crystal: OrbitCrystal) -> structure.Crystal:
    """All sites of the primitive cell, orbit after orbit, and the lattice."""
    group = standard_groups.load_group(crystal.space_group)
    positions = [group.positions[index] for index in crystal.positions.tolist()]
    coords = [
        position.linear @ parameters + position.offsets
        for position, parameters in zip(positions, crystal.parameters, strict=True)
    ]
    return structure.Crystal(
        atomic_numbers=np.repeat(
            crystal.atomic_numbers, [position.multiplicity for position in positions]
        ),
        frac_coords=np.concatenate(coords) % 1,
        lattice=lattice_of_strain(group, crystal.strain),
    )


def lattice_of_strain(
    group: standard_groups.Group, strain: Float[np.ndarray, "6"]
) -> Float[np.ndarray, "3 3"]:
    """Coefficients of a group's strains → lattice rows, Å, in standard orientation."""
    matrix = np.einsum("k,kij->ij", strain[: len(group.strains)], group.strains)
    values, vectors = np.linalg.eigh(matrix)
    metric = group.root @ (vectors * np.exp(values)) @ vectors.T @ group.root
    return np.linalg.cholesky(metric)


def strain_of_metric(
    group: standard_groups.Group, metric: Float[np.ndarray, "*batch 3 3"]
) -> Float[np.ndarray, "*batch 6"]:
    """Metric (Å², ``lattice @ lattice.T``) → coefficients of a group's strains.

    A metric that the group does not quite leave alone is projected.
    """
    inverse = np.linalg.inv(group.root)
    values, vectors = np.linalg.eigh(inverse @ metric @ inverse)
    logarithm = (vectors * np.log(values)[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    strain = np.zeros((*metric.shape[:-2], standard_groups.MAX_STRAINS))
    strain[..., : len(group.strains)] = np.einsum(
        "...ij,kij->...k", logarithm, group.strains
    )
    return strain


# ------------------------------------------------------------------------- fixed shapes
@flax.struct.dataclass
class OrbitBatch:
    """A batch of crystals as orbits: what travels to the device.

    Attributes:
        space_group: uint8 (batch,), 1-230; 0 where there is no crystal.
        atomic_numbers: uint8 (batch, orbits); 0 where there is no orbit.
        positions: uint8 (batch, orbits), index of the Wyckoff position plus 1; 0 where
            there is no orbit.
        parameters: float32 (batch, orbits, 3), in [0, 1); 0 where nothing is free.
        strain: float32 (batch, 6).
    """

    space_group: Any
    atomic_numbers: Any
    positions: Any
    parameters: Any
    strain: Any


@flax.struct.dataclass
class OrbitTables:
    """The groups and their positions for the device.

    Attributes:
        multiplicity: int32 (231, 28), sites of a position; second index 0 and positions
            that a group does not have are 0.
        freedom: int32 (231, 28).
        first: int32 (231, 28), where the sites of a position begin in
        linear: int8 (sites, 3, 3), and
        offsets: float32 (sites, 3): the affine maps of all sites of all positions.
        root: float32 (231, 3, 3), of the reference metric.
        strains: float32 (231, 6, 3, 3); 0 beyond the number of the group.
        num_polar: int32 (231,), directions along which the origin is free.
    """

    multiplicity: Any
    freedom: Any
    first: Any
    linear: Any
    offsets: Any
    root: Any
    strains: Any
    num_polar: Any


@flax.struct.dataclass
class SiteLayout:
    """Which orbit each site belongs to, and how it follows from its parameters.

    Attributes:
        orbit: int32 (batch, sites); -1 where there is no site.
        linear: float32 (batch, sites, 3, 3), and
        offset: float32 (batch, sites, 3): a site is ``linear @ parameters + offset``.
    """

    orbit: Any
    linear: Any
    offset: Any


@functools.cache
def load_tables() -> OrbitTables:
    """The tables as NumPy arrays; they should travel as arguments, not as constants."""
    num_groups = space_groups.NUM_SPACE_GROUPS + 1
    by_position = (num_groups, standard_groups.MAX_POSITIONS + 1)
    multiplicity = np.zeros(by_position, np.int32)
    freedom = np.zeros(by_position, np.int32)
    first = np.zeros(by_position, np.int32)
    root = np.tile(np.eye(3, dtype=np.float32), (num_groups, 1, 1))
    strains = np.zeros((num_groups, standard_groups.MAX_STRAINS, 3, 3), np.float32)
    num_polar = np.zeros(num_groups, np.int32)
    linear, offsets, num_sites = [], [], 0
    for number in range(1, num_groups):
        group = standard_groups.load_group(number)
        root[number] = group.root
        strains[number, : len(group.strains)] = group.strains
        num_polar[number] = group.num_polar
        for index, position in enumerate(group.positions, start=1):
            multiplicity[number, index] = position.multiplicity
            freedom[number, index] = position.freedom
            first[number, index] = num_sites
            num_sites += position.multiplicity
            linear.append(position.linear.astype(np.int8))
            offsets.append(position.offsets.astype(np.float32))
    return OrbitTables(
        multiplicity=multiplicity,
        freedom=freedom,
        first=first,
        linear=np.concatenate(linear),
        offsets=np.concatenate(offsets),
        root=root,
        strains=strains,
        num_polar=num_polar,
    )


def encode(crystals: Sequence[OrbitCrystal], num_orbits: int) -> OrbitBatch:
    """Crystals → arrays of one shape.

    Raises:
        ValueError: a crystal has more orbits than ``num_orbits``.
    """
    shape = (len(crystals), num_orbits)
    batch = OrbitBatch(
        space_group=np.zeros(len(crystals), np.uint8),
        atomic_numbers=np.zeros(shape, np.uint8),
        positions=np.zeros(shape, np.uint8),
        parameters=np.zeros((*shape, 3), np.float32),
        strain=np.zeros((len(crystals), standard_groups.MAX_STRAINS), np.float32),
    )
    for row, crystal in enumerate(crystals):
        count = crystal.num_orbits
        if count > num_orbits:
            raise errors.UserError(
                f"crystal {row} has {count} orbits, more than num_orbits={num_orbits}; "
                "use a larger number or leave the crystal out"
            )
        batch.space_group[row] = crystal.space_group
        batch.atomic_numbers[row, :count] = crystal.atomic_numbers
        batch.positions[row, :count] = crystal.positions + 1
        batch.parameters[row, :count] = crystal.parameters
        batch.strain[row] = crystal.strain
    return batch


def decode(batch: OrbitBatch) -> list[OrbitCrystal]:
    """The inverse of `encode`, on the host; rows without a crystal are left out."""
    batch = jax.tree.map(np.asarray, batch)
    crystals = []
    for row in np.flatnonzero(batch.space_group).tolist():
        used = batch.positions[row] > 0
        crystals.append(
            OrbitCrystal(
                space_group=int(batch.space_group[row]),
                atomic_numbers=batch.atomic_numbers[row][used].astype(int),
                positions=batch.positions[row][used].astype(int) - 1,
                parameters=batch.parameters[row][used].astype(float) % 1,
                strain=batch.strain[row].astype(float),
            )
        )
    return crystals


def count_sites(
    tables: OrbitTables,
    space_group: Integer[Array | np.ndarray, " batch"],
    positions: Any,
) -> Integer[Array, " batch"]:
    """Sites of the primitive cells; compare with the ``num_sites`` of a layout."""
    return _of_positions(tables.multiplicity, space_group, positions).sum(axis=-1)


def free_mask(
    tables: OrbitTables,
    space_group: Integer[Array | np.ndarray, " batch"],
    positions: Any,
) -> Float[Array, "batch orbits 3"]:
    """1 where a position has a free parameter; polar directions are counted in."""
    freedom = _of_positions(tables.freedom, space_group, positions)
    return (jnp.arange(3) < freedom[..., None]).astype(jnp.float32)


def lay_out(
    tables: OrbitTables,
    space_group: Integer[Array | np.ndarray, " batch"],
    positions: Any,
    num_sites: int,
) -> SiteLayout:
    """Sites of all orbits, one orbit after the other.

    Args:
        tables: of `load_tables`.
        space_group: of each crystal.
        positions: (batch, orbits), as in `OrbitBatch`.
        num_sites: of the arrays; sites beyond are left out, so it has to be as large as
            the largest of `count_sites`.
    """
    multiplicity = _of_positions(tables.multiplicity, space_group, positions)
    first = _of_positions(tables.first, space_group, positions)
    ends = jnp.cumsum(multiplicity, axis=-1)
    site = jnp.arange(num_sites)
    # An orbit without sites ends where the one before it does, and is passed over.
    orbit = jnp.sum(site[:, None] >= ends[:, None, :], axis=-1)
    exists = site < ends[:, -1:]
    orbit = jnp.where(exists, orbit, 0)
    begin = first - (ends - multiplicity)
    entry = jnp.take_along_axis(begin, orbit, axis=-1) + site
    entry = jnp.where(exists, entry, 0)
    linear = jnp.asarray(tables.linear)[entry].astype(jnp.float32)
    return SiteLayout(
        orbit=jnp.where(exists, orbit, -1),
        linear=jnp.where(exists[..., None, None], linear, 0),
        offset=jnp.where(exists[..., None], jnp.asarray(tables.offsets)[entry], 0),
    )


def expand_sites(
    layout: SiteLayout, parameters: Float[Array | np.ndarray, "batch orbits 3"]
) -> Float[Array, "batch sites 3"]:
    """Fractional coordinates, not wrapped: they move smoothly with the parameters."""
    orbit = jnp.maximum(layout.orbit, 0)[..., None]
    of_site = jnp.take_along_axis(jnp.asarray(parameters), orbit, axis=1)
    return jnp.einsum("bsij,bsj->bsi", layout.linear, of_site) + layout.offset


def expand_lattice(
    tables: OrbitTables,
    space_group: Integer[Array | np.ndarray, " batch"],
    strain: Float[Array | np.ndarray, "batch 6"],
) -> Float[Array, "batch 3 3"]:
    """Coefficients of strains → lattice rows, Å, in standard orientation."""
    strains = jnp.asarray(tables.strains)[space_group]
    root = jnp.asarray(tables.root)[space_group]
    # The first is a volume: apart from the others, it needs no series.
    strain = jnp.asarray(strain)
    shape = jnp.einsum("bk,bkij->bij", strain[:, 1:], strains[:, 1:])
    # A metric is a square: half of the strain, multiplied with itself in the end.
    half = exponential(shape / 2) @ root
    scale = jnp.exp(strain[:, 0] / (2 * 3**0.5))
    return scale[:, None, None] * jnp.linalg.cholesky(jnp.swapaxes(half, 1, 2) @ half)


def _of_positions(table: Any, space_group: Any, positions: Any) -> Any:
    """What a table has for positions, (batch, orbits)."""
    rows = jnp.asarray(space_group).astype(jnp.int32)[..., None]
    return jnp.asarray(table)[rows, jnp.asarray(positions).astype(jnp.int32)]


def exponential(matrices: Float[Array, "batch 3 3"]) -> Float[Array, "batch 3 3"]:
    """Exponential by a series; an eigenbasis has no gradient where values agree."""
    small = matrices / 2**_NUM_SQUARINGS
    identity = jnp.broadcast_to(jnp.eye(3, dtype=small.dtype), small.shape)
    result = identity
    for order in range(_NUM_TERMS, 0, -1):
        result = identity + small @ result / order
    for _ in range(_NUM_SQUARINGS):
        result = result @ result
    return result
