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
    """

    owner: np.ndarray
    seconds: np.ndarray
    cells: batch_steps.Cells
    lists: list[neighbors.SiteList | None]


def empty(state: batch_steps.State, *, keep_symmetry: bool = False) -> Places:
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
    return Places(np.full(size, -1), np.zeros(size), cells, [None] * size)


def fill(
    places: Places,
    waiting: collections.deque[int],
    crystals: Sequence[structure.Crystal],
) -> np.ndarray:
    """Gives empty places to waiting crystals; True where it did."""
    fresh = np.zeros(len(places.owner), bool)
    cells = places.cells
    for place in np.flatnonzero(places.owner < 0)[: len(waiting)]:
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
    reach: float,
) -> dict[int, str]:
    """Finds the neighbours of crystals; returns the places where it cannot, and why.

    Args:
        places: all of them.
        chosen: places of the crystals in question.
        crystals: those of all indices.
        coords: (places, sites + 3, 3), where they are: see `batched_steps`.
        reach: how far, Å.
    """
    lost = {}
    for place in chosen.tolist():
        crystal, cells = crystals[int(places.owner[place])], places.cells
        frac, lattice = batch_steps.host_geometry(
            crystal.frac_coords, crystal.lattice, coords[place]
        )
        try:
            places.lists[place] = neighbors.find(frac, lattice, reach)
        except ValueError as error:
            lost[place] = str(error)
            continue
        cells.listed_frac_coords[place] = 0
        cells.listed_frac_coords[place, : crystal.num_sites] = frac
        cells.listed_lattice[place] = lattice
    return lost


def pack(
    places: Places, potential: Potential, num_devices: int, before: Any
) -> tuple[Any, Any]:
    """Packs the lists: for all devices joined, and of one of them.

    Args:
        places: an equal number for each device.
        potential: says how to pack.
        num_devices: that places are split over.
        before: of one device, for the batch before; None at first.
    """
    sites = places.cells.atomic_numbers.shape[1]
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
