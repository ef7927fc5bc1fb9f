"""The symmetry that a crystal has within a tolerance: all calls of spglib for it.

moyopy is five times as fast and finds other space groups where deviations come near the
tolerance (experiments/symmetry_search).
"""

from typing import Any

import numpy as np
import spglib

from crystaljax.crystals import structure, validity


def find_symmetry(crystal: structure.Crystal, symprec: float) -> Any:
    """Space group, operations and primitive cell within ``symprec`` (Å).

    Returns:
        What spglib finds, an object with attributes (``number``, ``rotations``,
        ``translations``, ``mapping_to_primitive``, ``primitive_lattice``); None if it
        finds nothing, or nothing can be computed on the crystal.
    """
    if validity.find_cell_problem(crystal):
        return None
    # Releases of spglib differ in how they fail: None, or an exception of their own.
    try:
        return spglib.get_symmetry_dataset(_cell(crystal), symprec)
    except Exception:
        return None


def find_space_group(crystal: structure.Crystal, symprec: float) -> int:
    """Space-group number within ``symprec`` (Å); 0 if none is found."""
    symmetry = find_symmetry(crystal, symprec)
    return 0 if symmetry is None else int(symmetry.number)


def find_primitive_cell(
    crystal: structure.Crystal, symprec: float
) -> structure.Crystal | None:
    """The crystal in its primitive cell, where it is, not idealised; None if unknown.

    Args:
        crystal: must pass `validity.find_cell_problem`.
        symprec: Å.
    """
    try:
        cell = spglib.standardize_cell(
            _cell(crystal), to_primitive=True, no_idealize=True, symprec=symprec
        )
    except Exception:
        return None
    if cell is None:
        return None
    lattice, frac_coords, atomic_numbers = map(np.asarray, cell)
    return structure.Crystal(atomic_numbers, frac_coords, lattice)


def _cell(crystal: structure.Crystal) -> Any:
    return (
        np.asarray(crystal.lattice, dtype=np.float64),
        np.asarray(crystal.frac_coords, dtype=np.float64),
        np.asarray(crystal.atomic_numbers, dtype=int),
    )
