"""The places of a batch: the host's part of `batched_relaxation`, which fills them."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from crystaljax.crystals import structure
from crystaljax.relaxation import batch_steps, kept_symmetry
from crystaljax.relaxation.potentials import neighbors
from crystaljax.relaxation.potentials.potential import Potential


@dataclasses.dataclass(frozen=True, eq=False)
class Places:
    """The places of a batch; the arrays are written into.

    Attributes:
        owner: (places,), index of the crystal in each; -1 for none.
        seconds: (places,), its share of the time so far.
        cells: `batch_steps.Cells` of the crystals.
        lists: neighbours of the crystal in each, None for none.
        edges: (places,), padding included, where the potential counts them, else 0.
        limit: of the edges on a device.
        num_devices: that the places are split over, an equal number for each.
    """

    owner: np.ndarray
    seconds: np.ndarray
    cells: batch_steps.Cells
    lists: list[neighbors.SiteList | None]
    edges: np.ndarray
    limit: float = np.inf
    num_devices: int = 1


def empty(
    state: batch_steps.State,
    *,
    keep_symmetry: bool = False,
    limit: float = np.inf,
    num_devices: int = 1,
) -> Places:
    """Places without crystals, as many and as large as ``state`` has."""
    size, rows, _ = state.coords.shape
    sites, dtype = rows - batch_steps.NUM_CELL_ROWS, state.coords.dtype
    coords = np.zeros((size, sites, 3), dtype)
    lattice = np.tile(np.eye(3, dtype=dtype), (size, 1, 1))
    cells = batch_steps.Cells(
        atomic_numbers=np.zeros((size, sites), np.int32),
        frac_coords=coords,
        lattice=lattice,
        listed_frac_coords=coords.copy(),
        listed_lattice=lattice.copy(),
        site_projection=np.zeros((size, *[3 * sites * keep_symmetry] * 2), dtype),
        cell_projection=np.zeros((size, *[9 * keep_symmetry] * 2), dtype),
    )
    return Places(
        np.full(size, -1),
        np.zeros(size),
        cells,
        [None] * size,
        np.zeros(size, int),
        limit,
        num_devices,
    )


def estimate_edges(crystal: structure.Crystal, potential: Potential) -> int:
    """Edges that a crystal should have, padding included; 0 if they are not counted."""
    if potential.room is None:
        return 0
    volume = abs(np.linalg.det(np.asarray(crystal.lattice, float)))
    density = crystal.num_sites / volume
    each = density * 4 / 3 * np.pi * potential.reach**3
    return potential.room.count(np.full(crystal.num_sites, int(min(each, 1e6))))


def fill(
    places: Places,
    waiting: collections.deque[int],
    crystals: Sequence[structure.Crystal],
    potential: Potential,
) -> np.ndarray:
    """Gives empty places to waiting crystals as edges allow; True where it did."""
    fresh = np.zeros(len(places.owner), bool)
    cells = places.cells
    of_device = places.edges.reshape(places.num_devices, -1)
    for place in np.flatnonzero(places.owner < 0):
        if not waiting:
            break
        load = of_device[place // of_device.shape[1]].sum()
        more = estimate_edges(crystals[waiting[0]], potential)
        if load and load + more > places.limit:
            continue
        places.edges[place] = more
        i = places.owner[place] = waiting.popleft()
        crystal = crystals[i]
        cells.atomic_numbers[place] = 0
        cells.atomic_numbers[place, : crystal.num_sites] = crystal.atomic_numbers
        cells.frac_coords[place] = 0
        cells.frac_coords[place, : crystal.num_sites] = crystal.frac_coords
        cells.lattice[place] = crystal.lattice
        if cells.site_projection.shape[-1]:
            projection = kept_symmetry.build(crystal)
            size = 3 * crystal.num_sites
            cells.site_projection[place] = 0
            cells.site_projection[place, :size, :size] = projection.sites
            cells.cell_projection[place] = projection.cell
        places.seconds[place] = 0
        fresh[place] = True
    return fresh


def list_neighbors(
    places: Places,
    chosen: np.ndarray,
    crystals: Sequence[structure.Crystal],
    coords: np.ndarray,
    potential: Potential,
) -> dict[int, str]:
    """Finds the neighbours of crystals; returns the places where it cannot, and why.

    Args:
        places: all of them.
        chosen: places of the crystals in question.
        crystals: those of all indices.
        coords: (places, sites + 3, 3), where they are: see `batched_steps`.
        potential: says how far.
    """
    lost = {}
    for place in chosen.tolist():
        crystal, cells = crystals[int(places.owner[place])], places.cells
        frac, lattice = batch_steps.host_geometry(
            crystal.frac_coords, crystal.lattice, coords[place]
        )
        try:
            found = neighbors.find(frac, lattice, potential.reach)
        except ValueError as error:
            lost[place] = str(error)
            continue
        places.lists[place] = found
        if potential.room is not None:
            places.edges[place] = potential.room.count(found.count)
        cells.listed_frac_coords[place] = 0
        cells.listed_frac_coords[place, : crystal.num_sites] = frac
        cells.listed_lattice[place] = lattice
    return lost


def pack(places: Places, potential: Potential, before: Any) -> tuple[Any, Any]:
    """Packs the lists: for all devices joined, and of one of them.

    Args:
        places: an equal number for each device.
        potential: says how to pack.
        before: of one device, for the batch before; None at first.
    """
    sites = places.cells.atomic_numbers.shape[1]
    num_devices = places.num_devices
    size = len(places.lists) // num_devices
    parts = [places.lists[d * size : (d + 1) * size] for d in range(num_devices)]
    packed = []
    for part in parts:
        before = potential.pack(part, sites, before)
        packed.append(before)
    if num_devices > 1:
        # All as large as the last, which is as large as the largest.
        packed = [potential.pack(part, sites, before) for part in parts]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *packed), packed[-1]
