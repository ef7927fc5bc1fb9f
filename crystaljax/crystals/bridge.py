"""Crystals between arrays, pymatgen and ASE. Imports both, so keep it off hot paths."""

import ase
import numpy as np
from pymatgen.core import Element, Lattice, Structure

from crystaljax.crystals import structure, validity
from crystaljax.system import errors


def to_pymatgen(crystal: structure.Crystal) -> Structure:
    """Crystal → pymatgen Structure, sites in the same order.

    Raises:
        ValueError: a coordinate or lattice entry is not finite.
    """
    require_finite(crystal)
    return Structure(
        Lattice(crystal.lattice),
        [Element.from_Z(int(number)) for number in crystal.atomic_numbers],
        crystal.frac_coords,
    )


def from_pymatgen(pymatgen_structure: Structure) -> structure.Crystal:
    """Pymatgen Structure → crystal, sites in the same order, cell as it is.

    Raises:
        ValueError: a site is disordered, partly occupied, or not an element.
    """
    if not pymatgen_structure.is_ordered:
        raise errors.UserError(
            f"{pymatgen_structure.formula} has partly occupied sites; expected an "
            "ordered crystal: choose one ordering first"
        )
    return structure.Crystal(
        atomic_numbers=np.array([site.specie.Z for site in pymatgen_structure]),
        frac_coords=np.array(pymatgen_structure.frac_coords, dtype=float),
        lattice=np.array(pymatgen_structure.lattice.matrix, dtype=float),
    )


def to_ase(crystal: structure.Crystal) -> ase.Atoms:
    """Crystal → periodic ASE Atoms, sites in the same order.

    Raises:
        ValueError: a coordinate or lattice entry is not finite.
    """
    require_finite(crystal)
    return ase.Atoms(
        numbers=np.asarray(crystal.atomic_numbers, dtype=int),
        scaled_positions=crystal.frac_coords,
        cell=crystal.lattice,
        pbc=True,
    )


def from_ase(atoms: ase.Atoms) -> structure.Crystal:
    """ASE Atoms → crystal, sites in the same order, cell as it is.

    Raises:
        ValueError: the atoms are not periodic in three directions.
    """
    if not (atoms.pbc.all() and abs(atoms.cell.volume) > 0):
        raise errors.UserError(
            f"{atoms.get_chemical_formula()} has pbc {atoms.pbc.tolist()} and cell "
            f"{atoms.cell.cellpar().tolist()}; expected a cell periodic in three "
            "directions"
        )
    return structure.Crystal(
        atomic_numbers=np.array(atoms.numbers),
        frac_coords=atoms.get_scaled_positions(wrap=False),
        lattice=np.array(atoms.cell),
    )


def require_finite(crystal: structure.Crystal) -> None:
    """Raises ValueError if a coordinate or lattice entry is not finite."""
    if not validity.is_finite(crystal):
        raise errors.UserError("a coordinate or lattice entry is not finite")
