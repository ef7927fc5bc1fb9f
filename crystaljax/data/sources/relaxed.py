"""Relaxed crystals → records: what the sources that make their structures share."""

import collections
from collections.abc import Mapping, Sequence

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher

from crystaljax.crystals import bridge, symmetry_search
from crystaljax.data.sources import record
from crystaljax.relaxation import ase_relaxation, references
from crystaljax.system import workers

SYMPREC = 0.1  # Å

# Two results are one crystal if all of this holds; relaxations that end in the same
# minimum differ by less.
SAME_ENERGY = 0.005  # eV/atom
SAME_VOLUME = 0.02  # relative
_MATCHER = {"ltol": 0.1, "stol": 0.15, "angle_tol": 3.0, "scale": False}


def label(
    id: str,
    relaxed: ase_relaxation.Relaxation,
    energies: Mapping[int, float],
    max_volume: float,
) -> record.Record | record.Failure:
    """A relaxation with its formation energy and space group, or why it is left out.

    Args:
        id: of the record.
        relaxed: what came out.
        energies: of the elements in their reference states, eV/atom, by atomic number.
        max_volume: Å³; a cell that is larger has come apart.
    """
    if relaxed.failure:
        return record.Failure(id, "relaxation failed", relaxed.failure)
    if not relaxed.converged:
        return record.Failure(id, "relaxation did not converge")
    crystal = relaxed.crystal
    if abs(np.linalg.det(crystal.lattice)) > max_volume:
        return record.Failure(id, "swollen")
    symmetry = symmetry_search.find_symmetry(crystal, SYMPREC)
    if symmetry is None:
        return record.Failure(id, "no space group")
    if len(set(symmetry.mapping_to_primitive)) < crystal.num_sites:
        return record.Failure(id, "relaxed to a smaller primitive cell")
    return record.Record(
        id=id,
        crystal=crystal,
        space_group=int(symmetry.number),
        formation_energy=references.formation_energy(
            energies, crystal.atomic_numbers, relaxed.energy
        ),
    )


def drop_duplicates(
    records: Sequence[record.Record], *, num_workers: int | None = None
) -> list[record.Record]:
    """Keeps the first of every set of equal crystals, in the order given."""
    groups: dict[tuple, list[int]] = collections.defaultdict(list)
    for i, item in enumerate(records):
        groups[_reduced_formula(item.crystal.atomic_numbers)].append(i)
    members = [[records[i] for i in indices] for indices in groups.values()]
    kept = workers.map_in_workers(_first_of_equals, members, num_workers=num_workers)
    kept_ids = {item.id for group in kept for item in group}
    return [item for item in records if item.id in kept_ids]


def _reduced_formula(atomic_numbers: np.ndarray) -> tuple[tuple[int, int], ...]:
    elements, counts = np.unique(atomic_numbers, return_counts=True)
    counts = counts // np.gcd.reduce(counts)
    return tuple(zip(elements.tolist(), counts.tolist(), strict=True))


def _first_of_equals(records: list[record.Record]) -> list[record.Record]:
    matcher = StructureMatcher(**_MATCHER)
    kept: list[tuple[record.Record, float, float]] = []
    for item in records:
        energy = item.formation_energy
        assert energy is not None, f"{item.id} has no energy"
        lattice = item.crystal.lattice
        volume = abs(np.linalg.det(lattice)) / item.crystal.num_sites
        rivals = [
            other
            for other, other_energy, other_volume in kept
            if abs(other_energy - energy) < SAME_ENERGY
            and abs(other_volume / volume - 1) < SAME_VOLUME
        ]
        here = bridge.to_pymatgen(item.crystal)
        if not any(matcher.fit(here, bridge.to_pymatgen(o.crystal)) for o in rivals):
            kept.append((item, energy, volume))
    return [item for item, _, _ in kept]
