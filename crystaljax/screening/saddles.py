"""Is a crystal that was relaxed within its space group a minimum, or a saddle?

Forces that would break the symmetry vanish at a symmetric crystal, also where it is the
top of a hill. So it is disturbed first, sites and cell, and relaxed without its
symmetry: from a minimum it comes back, from a saddle it goes to a lower energy in
another space group.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from crystaljax.crystals import structure, symmetry_search
from crystaljax.relaxation import ase_relaxation, kept_symmetry
from crystaljax.screening import stages
from crystaljax.system import isolation

# Standard deviations of what disturbs it: Å of a coordinate, and of the strain. Less
# than that leaves soft modes below the force threshold; samples relax from further.
DISPLACEMENT = 0.05
STRAIN = 0.01
# A relaxation to `fmax` ends up to 1 meV/atom above its minimum.
MIN_ENERGY_LOSS = 0.002  # eV/atom
# Of the screening's force threshold: near a saddle forces are small.
_SHARE_OF_FMAX = 0.2
# It gathers speed down from a saddle, where L-BFGS, which forgets steps of negative
# curvature, crawls.
_DOWNHILL = "FIRE"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What became of one crystal without its symmetry.

    Attributes:
        is_saddle: whether it lost energy and its space group; None where it could not
            be relaxed without it.
        energy_change: eV/atom, at most about 0; NaN where there is none.
        space_group: within 0.1 Å, of the crystal without kept symmetry; 0 for none.
        crystal: what it relaxed to without it; None where there is none.
    """

    is_saddle: bool | None
    energy_change: float
    space_group: int
    crystal: structure.Crystal | None = None


def release(
    crystals: Mapping[int, structure.Crystal],
    calculator: str,
    settings: ase_relaxation.RelaxationSettings,
    method: str,
    worker_options: isolation.WorkerOptions = isolation.ALL_CPUS,
) -> Iterator[tuple[int, ase_relaxation.Relaxation, str]]:
    """Disturbs symmetric crystals, and relaxes them without their symmetry.

    Args:
        crystals: by number, as relaxed within their space groups.
        calculator: see `calculators.build_calculator`.
        settings: those of the relaxation within the groups.
        method: of `stages.choose_method`.
        worker_options: where they are relaxed one at a time.

    Yields:
        Number, relaxation and method, as they are finished.
    """
    free = dataclasses.replace(
        settings,
        keep_symmetry=False,
        fmax=_SHARE_OF_FMAX * settings.fmax,
        optimizer=_DOWNHILL,
    )
    disturbed = {
        number: disturb(crystal, number, with_cell=settings.relax_cell)
        for number, crystal in crystals.items()
    }
    return stages.relax(disturbed, calculator, free, method, worker_options)


def disturb(
    crystal: structure.Crystal, seed: int, *, with_cell: bool = True
) -> structure.Crystal:
    """The crystal with random shifts and, optionally, a random strain."""
    random = np.random.default_rng(seed)
    lattice = np.asarray(crystal.lattice, dtype=float)
    shifts = random.normal(0, DISPLACEMENT, (crystal.num_sites, 3))
    strain = random.normal(0, STRAIN, (3, 3))
    if with_cell:
        # Without a rotation.
        lattice = lattice @ (np.eye(3) + (strain + strain.T) / 2)
    coords = np.asarray(crystal.frac_coords) + shifts @ np.linalg.inv(lattice)
    return structure.Crystal(crystal.atomic_numbers, coords, lattice)


def judge(
    kept: ase_relaxation.Relaxation, released: ase_relaxation.Relaxation
) -> Finding:
    """Compares a crystal with what it became without its symmetry."""
    if released.problem or not np.isfinite(released.energy):
        return Finding(None, np.nan, 0)
    change = released.energy - kept.energy
    before, after = (
        symmetry_search.find_space_group(each.crystal, kept_symmetry.SYMPREC)
        for each in (kept, released)
    )
    is_saddle = bool(change < -MIN_ENERGY_LOSS and after != before)
    return Finding(is_saddle, float(change), after, released.crystal)
