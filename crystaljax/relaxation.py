"""Relaxation of crystals with any ASE calculator, in worker processes.

A crystal that cannot be relaxed costs its own row and nothing else: the row says why.
A request that makes no sense (an unknown calculator, an element it does not have) is a
``ValueError`` before anything runs.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import ase
import ase.build
import ase.data
import numpy as np
from ase.calculators import calculator as ase_calculator
from ase.calculators import emt
from ase.filters import FrechetCellFilter
from ase.geometry import minkowski_reduce
from ase.optimize import LBFGS

from crystaljax import bridge, structure, workers

MATGL_PREFIX = "matgl:"

# What a relaxation may do before it counts as diverged. Generated crystals start with
# volumes that are off by tens of percent; beyond these factors a crystal has come apart
# or collapsed, and potentials are not to be trusted there.
MIN_VOLUME_RATIO = 0.25
MAX_VOLUME_RATIO = 4.0
MAX_DISPLACEMENT = 5.0  # Å, of a site against the cell

# What it takes to start. A thin cell or coinciding sites give neighbour lists that fill
# the memory, or infinite forces. H2, the shortest bond there is, has 0.74 Å.
MIN_DISTANCE = 0.5  # Å
MIN_HEIGHT = 1.0  # Å, between opposite faces of the reduced cell
MAX_VOLUME_PER_SITE = 1000.0  # Å³


@dataclasses.dataclass(frozen=True, eq=False)
class Relaxation:
    """What became of one crystal.

    Attributes:
        crystal: the relaxed crystal; the last good one if it failed on the way.
        energy: total energy of ``crystal``, eV/atom; NaN if it never had one.
        max_force: largest force on a site or, where the cell relaxes too, largest
            generalised force on the cell, eV/Å: what is compared with ``fmax``.
        num_steps: optimizer steps taken.
        converged: whether ``max_force`` fell below ``fmax``.
        failure: why it failed; "" if it did not. A crystal that ran out of steps has
            not failed, it is just not converged.
    """

    crystal: structure.Crystal
    energy: float
    max_force: float
    num_steps: int
    converged: bool
    failure: str = ""


def build_calculator(name: str) -> ase_calculator.Calculator:
    """Name → ASE calculator.

    Args:
        name: "emt", ASE's effective medium theory for alloys of Al, Ni, Cu, Pd, Ag, Pt
            and Au; or "matgl:" and the name of a pretrained matgl potential, which is
            downloaded, or the path of one on disk.

    Raises:
        ValueError: the name is none of these.
        ImportError: matgl is not installed.
    """
    if name == "emt":
        return emt.EMT()
    if name.startswith(MATGL_PREFIX) and name != MATGL_PREFIX:
        return _build_matgl_calculator(name.removeprefix(MATGL_PREFIX))
    raise ValueError(
        f"unknown calculator {name!r}; expected 'emt', or 'matgl:' followed by the "
        "name or local path of a matgl potential"
    )


def energy_model(calculator: str) -> str:
    """Name of the energy model behind a calculator, to be recorded beside energies.

    Energies of two different models must never meet in one hull.

    Raises:
        ValueError: there is no such calculator.
    """
    if calculator == "emt":
        return "ASE EMT"
    if calculator.startswith(MATGL_PREFIX) and calculator != MATGL_PREFIX:
        return f"matgl {calculator.removeprefix(MATGL_PREFIX)}"
    build_calculator(calculator)  # raises with the possible names
    raise AssertionError(f"{calculator!r} has no energy model")


def require_elements(calculator: str, crystals: Iterable[structure.Crystal]) -> None:
    """Raises ValueError if ``calculator`` has no parameters for an element.

    matgl potentials say so themselves, when they meet the element.
    """
    if calculator != "emt":
        return
    numbers = {int(n) for crystal in crystals for n in crystal.atomic_numbers}
    symbols = {ase.data.chemical_symbols[n] for n in sorted(numbers)}
    missing = sorted(symbols - set(emt.parameters))
    if missing:
        raise ValueError(
            f"EMT has no parameters for {', '.join(missing)}; it has "
            f"{', '.join(emt.parameters)}. Choose a matgl potential for others"
        )


def relax(
    crystal: structure.Crystal,
    calculator: str,
    *,
    fmax: float = 0.05,
    max_steps: int = 100,
    relax_cell: bool = True,
) -> Relaxation:
    """Relaxes one crystal by LBFGS; a bad crystal is a result, not an exception.

    Args:
        crystal: where to start; sites keep their order.
        calculator: see ``build_calculator``.
        fmax: convergence threshold, eV/Å.
        max_steps: optimizer steps at most.
        relax_cell: relax the lattice too (``FrechetCellFilter``), else sites only.

    Raises:
        ValueError: unknown calculator, or it has no parameters for an element.
        ImportError: the calculator's package is not installed.
    """
    require_elements(calculator, [crystal])
    ase_calc = build_calculator(calculator)
    failure = _unfit_to_start(crystal)
    if failure:
        return Relaxation(crystal, np.nan, np.nan, 0, False, failure)
    # Potentials and optimizers are other people's code, at configurations that nobody
    # foresaw: whatever they raise is this crystal's result.
    try:
        with np.errstate(all="ignore"):
            return _relax(crystal, ase_calc, fmax, max_steps, relax_cell)
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
        return Relaxation(crystal, np.nan, np.nan, 0, False, failure)


def relax_many(
    crystals: Sequence[structure.Crystal],
    calculator: str,
    *,
    fmax: float = 0.05,
    max_steps: int = 100,
    relax_cell: bool = True,
    num_workers: int | None = None,
    description: str | None = None,
) -> list[Relaxation]:
    """Relaxes many crystals in worker processes; results in the order given.

    Args:
        crystals: where to start.
        calculator: see ``build_calculator``.
        fmax: convergence threshold, eV/Å.
        max_steps: optimizer steps at most.
        relax_cell: relax the lattices too.
        num_workers: processes; all CPUs if None.
        description: label of a progress bar; none if None.

    Raises:
        ValueError: unknown calculator, or it has no parameters for an element of any
            crystal; before anything is relaxed.
        ImportError: the calculator's package is not installed; likewise.
    """
    build_calculator(calculator)
    require_elements(calculator, crystals)
    relax_one = functools.partial(
        relax,
        calculator=calculator,
        fmax=fmax,
        max_steps=max_steps,
        relax_cell=relax_cell,
    )
    return list(
        workers.map_in_workers(
            relax_one, crystals, num_workers=num_workers, description=description
        )
    )


@functools.cache
def relax_element(calculator: str, atomic_number: int) -> Relaxation:
    """The relaxed element in its reference state, computed once per process.

    The reference state is the structure ASE's tables give the element at room
    temperature: fcc for Al, Ni, Cu, Pd, Ag, Pt and Au.

    Raises:
        ValueError: ASE's tables give no simple structure, the calculator does not know
            the element, or the relaxation fails.
    """
    symbol = ase.data.chemical_symbols[atomic_number]
    state = ase.data.reference_states[atomic_number]
    simple = ("fcc", "bcc", "hcp", "diamond", "sc")
    if state is None or state["symmetry"] not in simple:
        raise ValueError(
            f"{symbol} has no reference structure that ASE can build; expected an "
            f"element that is {', '.join(simple)}. Give its energy yourself"
        )
    crystal = bridge.from_ase(ase.build.bulk(symbol))
    # Tighter than for compounds: an error here shifts every formation energy.
    relaxed = relax(crystal, calculator, fmax=1e-3, max_steps=300)
    if not relaxed.converged:
        raise ValueError(
            f"the reference structure of {symbol} did not relax with {calculator!r}: "
            f"{relaxed.failure or 'out of steps'}"
        )
    return relaxed


def elemental_energy(calculator: str, atomic_number: int) -> float:
    """Energy of the relaxed element in its reference state, eV/atom.

    Raises:
        ValueError: as ``relax_element``.
    """
    return relax_element(calculator, atomic_number).energy


def formation_energy(
    calculator: str, atomic_numbers: Sequence[int] | np.ndarray, energy: float
) -> float:
    """Total energy (eV/atom) → formation energy (eV/atom) against the elements.

    Args:
        calculator: what gave ``energy``; the elements are relaxed with it, once.
        atomic_numbers: of all sites.
        energy: total energy, eV/atom, such as ``Relaxation.energy``.

    Raises:
        ValueError: an element has no reference energy (see ``elemental_energy``).
    """
    references = [elemental_energy(calculator, int(n)) for n in atomic_numbers]
    return float(energy - np.mean(references))


def _unfit_to_start(crystal: structure.Crystal) -> str:
    """Why a crystal cannot be handed to a potential; "" if it can."""
    if not (
        np.isfinite(crystal.frac_coords).all() and np.isfinite(crystal.lattice).all()
    ):
        return "a coordinate or lattice entry is not finite"
    if crystal.num_sites == 0:
        return "no sites"
    volume = abs(np.linalg.det(crystal.lattice))
    if volume / crystal.num_sites > MAX_VOLUME_PER_SITE:
        return f"volume {volume / crystal.num_sites:.3g} Å³ per site"
    if volume < 1e-3 or not _thick_enough(crystal.lattice):
        return f"cell is flat: volume {volume:.3g} Å³"
    distances = bridge.to_pymatgen(crystal).distance_matrix
    closest = np.min(distances + np.diag(np.full(crystal.num_sites, np.inf)))
    if closest < MIN_DISTANCE:
        return f"two sites are {closest:.3g} Å apart"
    return ""


def _thick_enough(lattice: np.ndarray) -> bool:
    # Reduced first: a skewed description of a good lattice has small heights too.
    reduced, _ = minkowski_reduce(lattice)
    heights = 1 / np.linalg.norm(np.linalg.inv(reduced), axis=0)
    return bool(heights.min() > MIN_HEIGHT)


def _relax(
    crystal: structure.Crystal,
    ase_calc: ase_calculator.Calculator,
    fmax: float,
    max_steps: int,
    relax_cell: bool,
) -> Relaxation:
    atoms = bridge.to_ase(crystal)
    atoms.calc = ase_calc
    target = _CellFilter(atoms) if relax_cell else atoms
    optimizer = LBFGS(target, logfile=None)  # type: ignore[arg-type]
    start_volume = atoms.get_volume()
    start_coords = np.asarray(crystal.frac_coords)
    last = Relaxation(crystal, np.nan, np.nan, 0, False)
    for converged in optimizer.irun(fmax=fmax, steps=max_steps):
        failure = _diverged(atoms, start_volume, start_coords)
        if failure:
            return dataclasses.replace(last, converged=False, failure=failure)
        energy = atoms.get_potential_energy() / len(atoms)
        max_force = np.linalg.norm(target.get_forces(), axis=1).max()
        if not np.isfinite([energy, max_force]).all():
            failure = "energy or forces are not finite"
            return dataclasses.replace(last, converged=False, failure=failure)
        last = Relaxation(
            crystal=bridge.from_ase(atoms),
            energy=float(energy),
            max_force=float(max_force),
            num_steps=optimizer.nsteps,
            converged=bool(converged),
        )
    return last


class _CellFilter(FrechetCellFilter):
    """FrechetCellFilter that computes its forces once a step.

    The optimizer asks for them four times, and their matrix logarithms take longer
    than EMT itself.
    """

    _forces: np.ndarray | None = None

    def set_positions(self, *args, **kwargs):
        self._forces = None
        super().set_positions(*args, **kwargs)

    def get_forces(self, *args, **kwargs):
        forces = self._forces
        if forces is None:
            forces = self._forces = super().get_forces(*args, **kwargs)
        return forces.copy()


def _diverged(atoms: ase.Atoms, start_volume: float, start_coords: np.ndarray) -> str:
    ratio = atoms.get_volume() / start_volume
    if not np.isfinite(ratio) or not np.isfinite(atoms.positions).all():
        return "positions are not finite"
    if not MIN_VOLUME_RATIO < ratio < MAX_VOLUME_RATIO:
        return f"volume went to {ratio:.2g} times what it was"
    shift = atoms.get_scaled_positions(wrap=False) - start_coords
    # Sites drift together without consequence; what counts is against the others.
    shift = (shift - shift.mean(axis=0)) @ np.asarray(atoms.cell)
    displacement = np.linalg.norm(shift, axis=1).max()
    if displacement > MAX_DISPLACEMENT:
        return f"a site moved by {displacement:.1f} Å"
    return ""


def _build_matgl_calculator(model: str) -> ase_calculator.Calculator:
    try:
        from matgl.ext.ase import PESCalculator  # type: ignore[import-not-found]
    except ImportError as error:
        raise ImportError(
            f"'matgl:{model}' needs matgl, which is not installed; install the "
            "'relax' extra: pip install 'crystaljax[relax]'"
        ) from error
    # Its default is GPa, with which ASE's cell filters go wrong by a factor of 160.
    return PESCalculator(_load_matgl_potential(model), stress_unit="eV/A3")


@functools.lru_cache(maxsize=1)
def _load_matgl_potential(model: str):
    import matgl  # type: ignore[import-not-found]

    return matgl.load_model(model)
