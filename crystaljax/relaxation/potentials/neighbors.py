"""Neighbour lists in fixed shapes: found on the host, used on the device.

Packed per site (`Neighbors`) where an edge costs little, as in EMT; as one graph
(`Graph`), with hardly any padding, where each costs a network's worth of work.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from pymatgen.optimization.neighbors import find_points_in_spheres

from crystaljax.system import errors

# Nothing that a potential could be trusted with has more within 6 Å of a site.
MAX_NEIGHBORS = 512

_NEIGHBOR_COUNTS = (128, 256, MAX_NEIGHBORS)
_SAME_SITE = 1e-8  # Å


@flax.struct.dataclass
class Neighbors:
    """Neighbours of every site of a batch of crystals; both sites list a pair.

    Attributes:
        index: int32 (batch, sites, neighbors), the neighbour's place among the sites.
        offset: int8 (batch, 3, sites, neighbors), the lattice vectors to its image.
        count: int32 (batch, sites), entries that are neighbours; the rest is padding.
    """

    index: Any
    offset: Any
    count: Any


@flax.struct.dataclass
class Graph:
    """Sites of a batch of crystals as nodes, pairs of neighbours as edges, both ways.

    Attributes:
        place: int32 (nodes,), the crystal of a node; that after the last for padding.
        site: int32 (nodes,), its place among the sites of the crystal.
        source: int32 (edges,), a node.
        target: int32 (edges,), a node: its neighbour.
        offset: int8 (edges, 3), the lattice vectors to the neighbour's image.
        is_edge: bool (edges,), False for padding, whose ends are the last node.
    """

    place: Any
    site: Any
    source: Any
    target: Any
    offset: Any
    is_edge: Any


@dataclasses.dataclass(frozen=True, eq=False)
class SiteList:
    """Neighbours of one crystal on the host, in the layout of `Neighbors`.

    Attributes:
        index: (sites, most neighbors).
        offset: (3, sites, most neighbors).
        count: (sites,).
    """

    index: np.ndarray
    offset: np.ndarray
    count: np.ndarray


def find(
    frac_coords: Float[np.ndarray, "sites 3"],
    lattice: Float[np.ndarray, "3 3"],
    reach: float,
) -> SiteList:
    """Neighbours within ``reach`` (Å) of every site; coordinates need not be wrapped.

    Raises:
        ValueError: a site has more than ``MAX_NEIGHBORS``, or the cell is so thin that
            images lie over 127 lattice vectors away.
    """
    num_sites = len(frac_coords)
    coords = np.ascontiguousarray(frac_coords @ lattice)
    center, point, image, distance = find_points_in_spheres(
        coords,
        coords,
        r=reach,
        pbc=np.ones(3, dtype=int),
        lattice=np.ascontiguousarray(lattice),
        tol=_SAME_SITE,
    )
    other = (center != point) | (distance > _SAME_SITE)
    center, point, image = center[other], point[other], image[other]
    order = np.argsort(center, kind="stable")
    center, point, image = center[order], point[order], image[order]
    count = np.bincount(center, minlength=num_sites)
    most = int(count.max(initial=0))
    if most > MAX_NEIGHBORS:
        raise errors.UserError(
            f"a site has {most} neighbours within {reach:.3g} Å, more than "
            f"{MAX_NEIGHBORS}: too dense for a crystal"
        )
    if np.abs(image).max(initial=0) > np.iinfo(np.int8).max:
        raise errors.UserError(
            f"neighbours within {reach:.3g} Å are over 127 lattice vectors away; "
            "reduce the cell"
        )
    column = np.arange(len(center)) - (np.cumsum(count) - count)[center]
    index = np.zeros((num_sites, most), np.int32)
    offset = np.zeros((3, num_sites, most), np.int8)
    index[center, column] = point
    offset[:, center, column] = image.T
    return SiteList(index, offset, count)


def pack(
    lists: Sequence[SiteList | None], num_sites: int, before: Neighbors | None = None
) -> Neighbors:
    """Lists of several crystals → one batch per site, arrays on the host.

    Args:
        lists: one per crystal; None for a place without one.
        num_sites: that the sites are padded to.
        before: the batch before this; no wider than this one will be.
    """
    most = max(
        (found.index.shape[1] for found in lists if found is not None), default=0
    )
    width = next(count for count in _NEIGHBOR_COUNTS if count >= most)
    if before is not None:
        width = max(width, before.index.shape[-1])
    shape = len(lists), num_sites, width
    index = np.zeros(shape, np.int32)
    offset = np.zeros((shape[0], 3, *shape[1:]), np.int8)
    count = np.zeros(shape[:2], np.int32)
    for row, found in enumerate(lists):
        if found is None:
            continue
        sites, most = found.index.shape
        index[row, :sites, :most] = found.index
        offset[row, :, :sites, :most] = found.offset
        count[row, :sites] = found.count
    return Neighbors(index, offset, count)


def pack_graph(
    lists: Sequence[SiteList | None], num_sites: int, before: Graph | None = None
) -> Graph:
    """Lists of several crystals → one graph, arrays on the host.

    Args:
        lists: one per crystal; None for a place without one.
        num_sites: that sites are padded to elsewhere; means nothing here.
        before: the graph before this; no larger than this one will be.
    """
    del num_sites
    found = [(place, one) for place, one in enumerate(lists) if one is not None]
    sites = np.array([len(one.count) for _, one in found], int)
    first = np.cumsum(sites) - sites
    source, target, offset = [], [], []
    for (_, one), start in zip(found, first, strict=True):
        center, column = np.nonzero(np.arange(one.index.shape[1]) < one.count[:, None])
        source.append(center + start)
        target.append(one.index[center, column] + start)
        offset.append(one.offset[:, center, column].T)
    num_nodes = capacity(int(sites.sum()) + 1, before and before.place)
    num_edges = capacity(sum(map(len, source)), before and before.source)
    places = np.repeat([place for place, _ in found], sites)
    site = np.concatenate([np.arange(n) for n in sites] or [[]])

    def padded(values, size, padding, dtype):
        array = np.full((size, *np.shape(values)[1:]), padding, dtype)
        array[: len(values)] = values
        return array

    def joined(parts, empty):
        return np.concatenate([empty, *parts])

    none = np.zeros(0)
    return Graph(
        place=padded(places, num_nodes, len(lists), np.int32),
        site=padded(site, num_nodes, 0, np.int32),
        source=padded(joined(source, none), num_edges, num_nodes - 1, np.int32),
        target=padded(joined(target, none), num_edges, num_nodes - 1, np.int32),
        offset=padded(joined(offset, np.zeros((0, 3))), num_edges, 0, np.int8),
        is_edge=np.arange(num_edges) < sum(map(len, source)),
    )


def capacity(needed: int, before: np.ndarray | None) -> int:
    """Size for so many and some more, in steps of about a fifth."""
    if before is not None and len(before) >= needed:
        return len(before)
    # The crystals that come later have more at times.
    wanted = int(needed * 1.15)
    step = max(16, 1 << max(wanted.bit_length() - 3, 0))
    return -(-wanted // step) * step


def is_neighbor(neighbors: Neighbors) -> Bool[Array, "batch sites neighbors"]:
    """True where an entry is a neighbour, False where it is padding."""
    return jnp.arange(neighbors.index.shape[-1]) < neighbors.count[..., None]


def vectors(
    neighbors: Neighbors,
    frac_coords: Float[Array, "batch sites 3"],
    lattice: Float[Array, "batch 3 3"],
) -> tuple[Array, Array, Array]:
    """x, y and z (batch, sites, neighbors) from every site to its neighbours, Å.

    Three arrays rather than one with a last axis of 3, on which CPUs are slow.
    """
    batch, sites, num_neighbors = neighbors.index.shape
    flat = neighbors.index.reshape(batch, sites * num_neighbors)
    frac = [
        jnp.take_along_axis(frac_coords[:, :, d], flat, axis=1).reshape(
            neighbors.index.shape
        )
        - frac_coords[:, :, d, None]
        + neighbors.offset[:, d].astype(frac_coords.dtype)
        for d in range(3)
    ]
    x, y, z = (
        sum(frac[d] * lattice[:, d, c, None, None] for d in range(3)) for c in range(3)
    )
    return x, y, z  # pyright: ignore[reportReturnType]


def strain_and_shift(
    frac_coords: Float[Array, "batch sites 3"],
    lattice: Float[Array, "batch 3 3"],
    listed_frac_coords: Float[Array, "batch sites 3"],
    listed_lattice: Float[Array, "batch 3 3"],
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """How far crystals have gone from where their lists were made.

    Returns:
        η, a bound on how much shorter a vector has become, relative to what it is now,
        by the change of the cell; and the farthest that a site moved, Å, in the listed
        cell. A pair at distance d now was at most ``d (1 + η) + 2 shift`` apart, so a
        list that reaches that far holds it.
    """
    # A vector v of the list is (v + u) D now, D = listed⁻¹ lattice, u what the two
    # sites moved. So |v| ≤ ‖D⁻¹‖ d + |u|, and ‖D⁻¹‖ ≤ 1 + ‖D⁻¹ - 1‖.
    eye = jnp.eye(3, dtype=lattice.dtype)
    back = jnp.linalg.inv(lattice) @ listed_lattice
    strain = jnp.linalg.norm(back - eye, axis=(-2, -1))
    shift = (frac_coords - listed_frac_coords) @ listed_lattice
    return strain, jnp.linalg.norm(shift, axis=-1).max(axis=-1)


def still_hold(
    cutoff: float,
    skin: float,
    strain: Float[Array, " batch"],
    shift: Float[Array, " batch"],
) -> Bool[Array, " batch"]:
    """Whether lists that reach ``cutoff + skin`` hold all pairs within ``cutoff``."""
    return cutoff * strain + 2 * shift <= skin
