"""Structures as columns in memory, or in memory maps: plain NumPy and Arrow arrays."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int, Integer

from crystaljax.crystals import structure
from crystaljax.system import errors

# num_sites is stored in one byte.
MAX_SITES = 255
# Structures that are worked on together where all of them would fill the memory.
BLOCK_SIZE = 50_000
# The same for site rows: temporary arrays of some tens of MB.
_BLOCK_SITES = 1 << 20


@dataclasses.dataclass(frozen=True, eq=False)
class Columns:
    """Structures as columns; the sites of all structures lie one after the other.

    Attributes:
        id: strings (structures,), a pyarrow array.
        formula: strings (structures,), the cell formula, "Au1Cu3"; a pyarrow array.
        offsets: int32 (structures + 1,): structure i has the sites offsets[i] up to,
            but not with, offsets[i + 1].
        atomic_numbers: uint8 (sites,).
        frac_coords: float32 (sites, 3), in [0, 1).
        lattice: float32 (structures, 3, 3), rows, Å.
        space_group: uint8 (structures,), 1-230.
        formation_energy: float32 (structures,), eV/atom.
    """

    id: pa.Array
    formula: pa.Array
    offsets: np.ndarray
    atomic_numbers: np.ndarray
    frac_coords: np.ndarray
    lattice: np.ndarray
    space_group: np.ndarray
    formation_energy: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_sites(self) -> np.ndarray:
        """Sites of each structure, int32 (structures,)."""
        return np.diff(self.offsets)


def columns_from_crystals(
    ids: list[str],
    formulas: list[str],
    crystals: list[structure.Crystal],
    space_groups: list[int],
    formation_energies: list[float],
) -> Columns:
    """Crystals with their labels → columns, in the same order."""
    num_sites = np.array([crystal.num_sites for crystal in crystals], dtype=np.int64)
    return Columns(
        id=pa.array(ids, pa.string()),
        formula=pa.array(formulas, pa.string()),
        offsets=offsets_of(num_sites),
        atomic_numbers=_concatenate(
            [crystal.atomic_numbers for crystal in crystals], (), np.uint8
        ),
        frac_coords=_round_below_one(
            _concatenate(
                [crystal.frac_coords for crystal in crystals], (3,), np.float64
            )
        ),
        lattice=np.array(
            [crystal.lattice for crystal in crystals], dtype=np.float32
        ).reshape(-1, 3, 3),
        space_group=np.array(space_groups, dtype=np.uint8),
        formation_energy=np.array(formation_energies, dtype=np.float32),
    )


def filter_columns(columns: Columns, keep: Bool[np.ndarray, " structures"]) -> Columns:
    """The structures where ``keep`` is true, in order."""
    num_sites = columns.num_sites
    keep_sites = np.repeat(keep, num_sites)
    return Columns(
        id=columns.id.filter(pa.array(keep)),
        formula=columns.formula.filter(pa.array(keep)),
        offsets=offsets_of(num_sites[keep]),
        atomic_numbers=columns.atomic_numbers[keep_sites],
        frac_coords=columns.frac_coords[keep_sites],
        lattice=columns.lattice[keep],
        space_group=columns.space_group[keep],
        formation_energy=columns.formation_energy[keep],
    )


def slice_columns(columns: Columns, start: int, stop: int) -> Columns:
    """The structures from ``start`` up to, but not with, ``stop``: views, no copies."""
    first, last = columns.offsets[start], columns.offsets[stop]
    return Columns(
        id=columns.id[start:stop],
        formula=columns.formula[start:stop],
        offsets=columns.offsets[start : stop + 1] - first,
        atomic_numbers=columns.atomic_numbers[first:last],
        frac_coords=columns.frac_coords[first:last],
        lattice=columns.lattice[start:stop],
        space_group=columns.space_group[start:stop],
        formation_energy=columns.formation_energy[start:stop],
    )


def blocks(columns: Columns, size: int = BLOCK_SIZE) -> Iterator[tuple[slice, Columns]]:
    """Structures in blocks, as views, with where they are: work in little memory."""
    for start in range(0, len(columns), size):
        stop = min(start + size, len(columns))
        yield slice(start, stop), slice_columns(columns, start, stop)


def blocks_of_sites(
    columns: Columns, indices: Int[np.ndarray, " taken"]
) -> Iterator[slice]:
    """Slices of ``indices``, one after the other, of about a million sites each."""
    sites_before = np.cumsum(columns.num_sites[indices], dtype=np.int64)
    block_of = (sites_before - 1) // _BLOCK_SITES
    bounds = [0, *(np.flatnonzero(np.diff(block_of)) + 1).tolist(), len(indices)]
    for start, end in itertools.pairwise(bounds):
        if start < end:
            yield slice(start, end)


def site_rows(
    columns: Columns, indices: Int[np.ndarray, " taken"]
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]:
    """Rows of the sites of some structures, and which of the structures has each."""
    starts = columns.offsets[indices].astype(np.int64)
    num_sites = columns.offsets[indices + 1] - starts
    owner = np.repeat(np.arange(len(indices)), num_sites)
    first = np.cumsum(num_sites) - num_sites
    return np.arange(len(owner)) + (starts - first)[owner], owner


def offsets_of(
    num_sites: Integer[np.ndarray, " structures"],
) -> Int[np.ndarray, " structures+1"]:
    """Number of sites of each structure → where its sites begin, and the last end.

    Raises:
        ValueError: the sites are more than 32 bits can count.
    """
    offsets = np.zeros(len(num_sites) + 1, np.int64)
    np.cumsum(num_sites, out=offsets[1:])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise errors.UserError(
            f"{offsets[-1]} sites in all; a table holds up to {np.iinfo(np.int32).max}"
        )
    return offsets.astype(np.int32)


def polymorph_groups(formulas: pa.Array) -> Int[np.ndarray, " structures"]:
    """Number of each structure's polymorph group: 0, 1, … in order of appearance."""
    return np.asarray(formulas.dictionary_encode().indices, dtype=np.int32)


def _round_below_one(frac_coords: np.ndarray) -> np.ndarray:
    """Float64 → float32 within [0, 1): 0.99999999 would round to 1, which is 0."""
    rounded = frac_coords.astype(np.float32)
    return np.where(rounded >= 1, np.float32(0), rounded)


def _concatenate(arrays: list, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    empty = np.zeros((0, *shape), dtype)
    return np.concatenate([empty, *arrays]).astype(dtype, copy=False)
