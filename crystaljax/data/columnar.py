"""Structures as columns in memory, or in memory maps: plain NumPy and Arrow arrays."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int

from crystaljax import structure

# num_sites is stored in one byte.
MAX_SITES = 255


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
        offsets=_offsets(num_sites),
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


def concatenate_columns(pieces: list[Columns]) -> Columns:
    """Joins pieces into one, in order."""
    num_sites = [np.zeros(0, np.int64), *(piece.num_sites for piece in pieces)]
    return Columns(
        id=_concatenate_strings([piece.id for piece in pieces]),
        formula=_concatenate_strings([piece.formula for piece in pieces]),
        offsets=_offsets(np.concatenate(num_sites)),
        atomic_numbers=_concatenate([p.atomic_numbers for p in pieces], (), np.uint8),
        frac_coords=_concatenate([p.frac_coords for p in pieces], (3,), np.float32),
        lattice=_concatenate([p.lattice for p in pieces], (3, 3), np.float32),
        space_group=_concatenate([p.space_group for p in pieces], (), np.uint8),
        formation_energy=_concatenate(
            [piece.formation_energy for piece in pieces], (), np.float32
        ),
    )


def filter_columns(columns: Columns, keep: Bool[np.ndarray, " structures"]) -> Columns:
    """The structures where ``keep`` is true, in order."""
    num_sites = columns.num_sites
    keep_sites = np.repeat(keep, num_sites)
    return Columns(
        id=columns.id.filter(pa.array(keep)),
        formula=columns.formula.filter(pa.array(keep)),
        offsets=_offsets(num_sites[keep]),
        atomic_numbers=columns.atomic_numbers[keep_sites],
        frac_coords=columns.frac_coords[keep_sites],
        lattice=columns.lattice[keep],
        space_group=columns.space_group[keep],
        formation_energy=columns.formation_energy[keep],
    )


def polymorph_groups(formulas: pa.Array) -> Int[np.ndarray, " structures"]:
    """Number of each structure's polymorph group: 0, 1, … in order of appearance."""
    return np.asarray(formulas.dictionary_encode().indices, dtype=np.int32)


def _offsets(num_sites: np.ndarray) -> np.ndarray:
    offsets = np.zeros(len(num_sites) + 1, np.int64)
    np.cumsum(num_sites, out=offsets[1:])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise ValueError(
            f"{offsets[-1]} sites in all; a table holds up to {np.iinfo(np.int32).max}"
        )
    return offsets.astype(np.int32)


def _round_below_one(frac_coords: np.ndarray) -> np.ndarray:
    """Float64 → float32 within [0, 1): 0.99999999 would round to 1, which is 0."""
    rounded = frac_coords.astype(np.float32)
    return np.where(rounded >= 1, np.float32(0), rounded)


def _concatenate(arrays: list, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    empty = np.zeros((0, *shape), dtype)
    return np.concatenate([empty, *arrays]).astype(dtype, copy=False)


def _concatenate_strings(arrays: list[pa.Array]) -> pa.Array:
    return pa.concat_arrays([pa.array([], pa.string()), *arrays])
