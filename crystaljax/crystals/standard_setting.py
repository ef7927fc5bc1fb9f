"""Crystals brought to the standard primitive setting of their space group.

spglib finds the symmetry and idealises the crystal; here the result becomes orbits on
Wyckoff positions. What description of the crystal in this setting is taken is settled
in `standard_choice`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import spglib
from jaxtyping import Float, Int

from crystaljax.crystals import orbits, standard_groups, structure, validity
from crystaljax.system import errors

# Å. Tried in this order until the space group is the labelled one.
SYMPRECS = (0.1, 0.05, 0.01, 0.2, 0.3)
# Without a label the first is taken. Distances below this are rounding errors of
# crystals that spglib has idealised, Å.
_SITE_TOLERANCE = 0.02
# Largest change of the idealised metric under the group's rotations, of its trace.
_MAX_STRAIN = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Standardised:
    """A crystal in the standard setting, and how it came there.

    Attributes:
        crystal: the primitive cell as orbits.
        symprec: with which the symmetry was found, Å.
        num_cells: primitive cells in the cell that was given: more than 1 for a
            supercell or a conventional cell.
        agrees: whether the space group is the labelled one; True without a label.
    """

    crystal: orbits.OrbitCrystal
    symprec: float
    num_cells: int
    agrees: bool


def standardise(
    crystal: structure.Crystal,
    space_group: int | None = None,
    symprecs: Sequence[float] = SYMPRECS,
) -> Standardised:
    """A crystal in the standard primitive setting of its space group.

    Args:
        crystal: any cell and setting.
        space_group: label; the first of ``symprecs`` with which the crystal has this
            group is taken, and the first with which any is found if it never has it.
        symprecs: Å.

    Raises:
        ValueError: the crystal has no cell, spglib finds no symmetry in it, or what it
            finds is no crystal of the group it names.
    """
    problem = validity.find_cell_problem(crystal)
    if problem:
        raise errors.UserError(f"crystal has no standard setting: {problem}")
    cell = (
        np.asarray(crystal.lattice, dtype=np.float64),
        np.asarray(crystal.frac_coords, dtype=np.float64),
        np.asarray(crystal.atomic_numbers, dtype=int),
    )
    found, symprec = _search(cell, space_group, symprecs)
    group = standard_groups.load_group(found.number)
    numbers, coords, metric = _primitive_cell(group, found)
    num_cells, rest = divmod(crystal.num_sites, len(numbers))
    if rest:
        raise errors.UserError(
            f"{crystal.num_sites} sites are no multiple of the {len(numbers)} of the "
            f"primitive cell that spglib finds at symprec {symprec}; expected a cell "
            "in which all sites are apart"
        )
    return Standardised(
        crystal=find_orbits(group, numbers, coords, metric),
        symprec=symprec,
        num_cells=num_cells,
        agrees=space_group is None or space_group == group.number,
    )


def _search(
    cell: tuple[np.ndarray, np.ndarray, np.ndarray],
    space_group: int | None,
    symprecs: Sequence[float],
) -> tuple[Any, float]:
    """What of spglib is taken, and the symprec."""
    first = None
    for symprec in symprecs:
        found = _find_symmetry(cell, symprec)
        if found is None:
            continue
        if space_group is None or found.number == space_group:
            return found, symprec
        first = first or (found, symprec)
    if first is not None:
        return first
    raise errors.UserError(
        f"spglib finds no symmetry with any symprec of {tuple(symprecs)} Å; expected "
        "sites that are apart"
    )


def _find_symmetry(
    cell: tuple[np.ndarray, np.ndarray, np.ndarray], symprec: float
) -> Any:
    """What spglib finds, an object with attributes; None if it finds nothing.

    It is not asked for a setting: with one of another group than the crystal's it
    searches for up to a minute.
    """
    # Releases of spglib differ in how they fail: None, or an exception of their own.
    try:
        return spglib.get_symmetry_dataset(cell, symprec)  # type: ignore[arg-type]
    except Exception:
        return None


def _primitive_cell(
    group: standard_groups.Group, found: Any
) -> tuple[
    Int[np.ndarray, " sites"], Float[np.ndarray, "sites 3"], Float[np.ndarray, "3 3"]
]:
    """Species, coordinates and metric of the primitive cell in the standard setting."""
    assert found.hall_number == group.spglib_hall_number
    centring = group.centring
    first = np.unique(found.std_mapping_to_primitive, return_index=True)[1]
    coords = found.std_positions[first] @ np.linalg.inv(centring).T
    coords = coords + group.spglib_shift
    lattice = centring.T @ found.std_lattice
    metric = lattice @ lattice.T
    images = group.rotations.swapaxes(1, 2) @ metric @ group.rotations
    if np.abs(images - metric).max() > _MAX_STRAIN * np.trace(metric):
        raise errors.UserError(
            f"spglib's lattice is not that of space group {group.number}; expected "
            "one that all of its rotations leave alone"
        )
    return found.std_types[first].astype(int), coords, images.mean(axis=0)


def find_orbits(
    group: standard_groups.Group,
    numbers: Int[np.ndarray, " sites"],
    coords: Float[np.ndarray, "sites 3"],
    metric: Float[np.ndarray, "3 3"],
    tolerance: float = _SITE_TOLERANCE,
) -> orbits.OrbitCrystal:
    """Sites of a primitive cell in the standard setting → orbits.

    Args:
        group: whose operations bring sites to sites.
        numbers: atomic numbers.
        coords: fractional.
        metric: of the lattice, Å².
        tolerance: within which an image is at a site, and a site on a position, Å.

    Raises:
        ValueError: an operation brings a site where there is none of its species, or
            sites are on no Wyckoff position.
    """
    lattice = np.linalg.cholesky(metric)
    left = np.ones(len(numbers), bool)
    species, positions, parameters = [], [], []
    for site in range(len(numbers)):
        if not left[site]:
            continue
        images = group.rotations @ coords[site] + group.translations
        same = np.flatnonzero(numbers == numbers[site])
        apart = images[:, None] - coords[same]
        distances = np.linalg.norm((apart - np.round(apart)) @ lattice, axis=-1)
        if distances.min(axis=1).max() > tolerance:
            raise errors.UserError(
                f"an operation of space group {group.number} brings site {site} where "
                f"no site of its species is within {tolerance} Å; expected a crystal "
                "of this group in its standard setting"
            )
        members = np.unique(same[distances.argmin(axis=1)])
        index, u = _locate(group, coords[members], lattice, tolerance)
        species.append(int(numbers[site]))
        positions.append(index)
        parameters.append(u)
        left[members] = False
    return orbits.OrbitCrystal(
        space_group=group.number,
        atomic_numbers=np.array(species),
        positions=np.array(positions),
        parameters=np.array(parameters) % 1,
        strain=orbits.strain_of_metric(group, metric),
    )


def _locate(
    group: standard_groups.Group,
    coords: Float[np.ndarray, "sites 3"],
    lattice: Float[np.ndarray, "3 3"],
    tolerance: float,
) -> tuple[int, Float[np.ndarray, "3"]]:
    """The Wyckoff position of an orbit, and its parameters."""
    best = (tolerance, -1, np.zeros(3))
    for index, position in enumerate(group.positions):
        if position.multiplicity != len(coords):
            continue
        shifted = coords - position.offset
        steps = np.round(shifted @ position.inverse.T)
        steps[:, : position.freedom] = 0
        shifted = shifted - steps @ np.linalg.inv(position.inverse).T
        on_position = shifted @ position.projector.T
        distances = np.linalg.norm((shifted - on_position) @ lattice, axis=1)
        nearest = int(np.argmin(distances))
        if distances[nearest] < best[0]:
            u = position.inverse @ on_position[nearest]
            u[position.freedom :] = 0
            best = (float(distances[nearest]), index, u)
    if best[1] < 0:
        raise errors.UserError(
            f"an orbit of {len(coords)} sites is on no Wyckoff position of space group "
            f"{group.number} within {tolerance} Å; expected a crystal of this group in "
            "its standard setting"
        )
    return best[1], best[2]
