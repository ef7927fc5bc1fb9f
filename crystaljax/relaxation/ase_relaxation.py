"""Relaxation of crystals with any ASE calculator, in worker processes.

A crystal that cannot be relaxed costs its own row and nothing else: the row says why.
A request that makes no sense (an unknown calculator, an element it does not have) is a
``ValueError`` before anything runs.
"""

import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ase
import numpy as np
from ase import optimize
from ase.calculators import calculator as ase_calculator
from ase.filters import Filter, FrechetCellFilter
from ase.optimize.optimize import Optimizer

from crystaljax.crystals import bridge, structure, validity
from crystaljax.relaxation import calculators, kept_symmetry
from crystaljax.system import errors, isolation


class DescendingLbfgs(optimize.LBFGS):
    """ASE's L-BFGS without the steps along which the gradient fell.

    It takes their curvature, which is negative, for what it is, and goes uphill: beyond
    an inflection of the energy it returns again and again. See
    `minimizers.step_lbfgs`.
    """

    def update(self, *args: Any) -> None:
        """As ASE's; such a step weighs nothing."""
        super().update(*args)
        # ASE before 3.28 had it in the optimizer itself.
        weights = getattr(self, "state", self).rho
        if weights and not 0 < weights[-1] < np.inf:
            weights[-1] = 0.0


OPTIMIZERS: Mapping[str, type[Optimizer]] = {
    "LBFGS": DescendingLbfgs,
    "FIRE": optimize.FIRE,
    "BFGS": optimize.BFGS,
}

# What a relaxation may do before it counts as diverged. Generated crystals start with
# volumes that are off by tens of percent; beyond these factors a crystal has come apart
# or collapsed, and potentials are not to be trusted there.
MIN_VOLUME_RATIO = 0.25
MAX_VOLUME_RATIO = 4.0
MAX_DISPLACEMENT = 5.0  # Å, of a site against the cell
# Sites on top of each other, which potentials may find millions of eV too low.
MAX_FORCE_LEFT = 10.0  # eV/Å, of a relaxation that ran out of steps


def _optimizer(name: str) -> type[Optimizer]:
    if name not in OPTIMIZERS:
        raise errors.UserError(
            f"unknown optimizer {name!r}; expected one of {', '.join(OPTIMIZERS)}"
        )
    return OPTIMIZERS[name]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RelaxationSettings:
    """How crystals are relaxed.

    Attributes:
        fmax: convergence threshold, eV/Å.
        max_steps: optimizer steps at most.
        relax_cell: relax the lattice too (``FrechetCellFilter``), else sites only.
        optimizer: of `OPTIMIZERS`.
        timeout: seconds that a crystal may take; then it has failed.
        keep_symmetry: relax within the space group that the crystal has within 0.1 Å,
            which it is given exactly first; see `kept_symmetry`.

    Raises:
        ValueError: a number that is not positive, or an unknown optimizer.
    """

    fmax: float = 0.05
    max_steps: int = 500
    relax_cell: bool = True
    optimizer: str = "LBFGS"
    timeout: float = 600.0
    keep_symmetry: bool = False

    def __post_init__(self):
        for name in ("fmax", "max_steps", "timeout"):
            value = getattr(self, name)
            if not value > 0:
                raise errors.UserError(f"{name} is {value}; expected a positive number")
        _optimizer(self.optimizer)


# The paper's candidates were relaxed "using the PyMatGen structure relaxation method",
# with m3gnet "with default parameters" (section 7.1): pymatgen's `Structure.relax` has
# these. Its calculator was matgl's M3GNet.
PRESETS = {
    "default": RelaxationSettings(),
    "paper": RelaxationSettings(fmax=0.1, max_steps=500, optimizer="FIRE"),
}


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
        seconds: that it took; NaN if not measured.
    """

    crystal: structure.Crystal
    energy: float
    max_force: float
    num_steps: int
    converged: bool
    failure: str = ""
    seconds: float = float("nan")

    @property
    def problem(self) -> str:
        """Why the energy is that of no crystal; "" where it is of one."""
        if self.failure or self.converged or not self.max_force > MAX_FORCE_LEFT:
            return self.failure
        return (
            f"forces of {self.max_force:.3g} eV/Å are left after {self.num_steps} steps"
        )


def relax(
    crystal: structure.Crystal,
    calculator: str,
    settings: RelaxationSettings = PRESETS["default"],
) -> Relaxation:
    """Relaxes one crystal, here; a bad crystal is a result, not an exception.

    Args:
        crystal: where to start; sites keep their order.
        calculator: see `calculators.build_calculator`.
        settings: how to relax; without a time limit.

    Raises:
        ValueError: unknown calculator, or it has no parameters for an element.
        ImportError: the calculator's package is not installed.
    """
    start = time.perf_counter()
    calculators.require_elements(calculator, [crystal])
    ase_calc = calculators.build_calculator(calculator)
    failure = validity.find_relaxation_problem(crystal)
    result = Relaxation(crystal, np.nan, np.nan, 0, False, failure)
    if not failure:
        # Potentials and optimizers are other people's code, at configurations that
        # they were not made for: whatever they raise is this crystal's result.
        try:
            with np.errstate(all="ignore"):
                result = _relax(crystal, ase_calc, settings)
        except Exception as error:
            calculators.forget_calculators()
            failure = f"{type(error).__name__}: {' '.join(str(error).split())}"
            result = dataclasses.replace(result, failure=failure)
    return dataclasses.replace(result, seconds=time.perf_counter() - start)


def relax_many(
    crystals: Sequence[structure.Crystal],
    calculator: str,
    settings: RelaxationSettings = PRESETS["default"],
    worker_options: isolation.WorkerOptions = isolation.ALL_CPUS,
) -> list[Relaxation]:
    """Relaxes many crystals in processes of their own; results in the order given.

    Args:
        crystals: where to start.
        calculator: see `calculators.build_calculator`.
        settings: how to relax.
        worker_options: where.

    Raises:
        ValueError, ImportError: as `relax_each`.
    """
    relaxed = dict(relax_each(crystals, calculator, settings, worker_options))
    return [relaxed[i] for i in range(len(crystals))]


def relax_each(
    crystals: Sequence[structure.Crystal],
    calculator: str,
    settings: RelaxationSettings,
    worker_options: isolation.WorkerOptions = isolation.ALL_CPUS,
) -> Iterator[tuple[int, Relaxation]]:
    """Yields (index, relaxation) as they are finished.

    A crystal that takes longer than ``settings.timeout``, or whose process dies with
    it, has failed, and says so.

    Args:
        crystals: where to start.
        calculator: see `calculators.build_calculator`.
        settings: how to relax.
        worker_options: where.

    Raises:
        ValueError: unknown calculator, it has no parameters for an element of any
            crystal, or there is no such cluster; before anything is relaxed.
        ImportError: the calculator's package is not installed, or Dask; likewise.
    """
    calculators.build_calculator(calculator)
    calculators.require_elements(calculator, crystals)
    relax_one = functools.partial(relax, calculator=calculator, settings=settings)
    for index, result in isolation.map_isolated(
        relax_one, crystals, timeout=settings.timeout, worker_options=worker_options
    ):
        if isinstance(result, isolation.Lost):
            result = Relaxation(
                crystals[index], np.nan, np.nan, 0, False, result.reason
            )
        yield index, result


def _relax(
    crystal: structure.Crystal,
    ase_calc: ase_calculator.Calculator,
    settings: RelaxationSettings,
) -> Relaxation:
    crystal = structure.wrapped_if_far(crystal)
    projection = None
    if settings.keep_symmetry:
        crystal = kept_symmetry.symmetrize(crystal)
        projection = kept_symmetry.build(crystal)
    atoms = bridge.to_ase(crystal)
    atoms.calc = ase_calc
    target: Any = atoms
    if settings.relax_cell:
        target = _CellFilter(atoms)
        target.projection = projection
    elif projection is not None:
        target = _SymmetricAtoms(atoms, projection)
    optimizer = _optimizer(settings.optimizer)(target, logfile=None)  # type: ignore[arg-type]
    start_volume = atoms.get_volume()
    start_coords = np.asarray(crystal.frac_coords)
    last = Relaxation(crystal, np.nan, np.nan, 0, False)
    for converged in optimizer.irun(fmax=settings.fmax, steps=settings.max_steps):
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
    projection: kept_symmetry.Projection | None = None

    def set_positions(self, *args, **kwargs):
        self._forces = None
        super().set_positions(*args, **kwargs)

    def get_forces(self, *args, **kwargs):
        forces = self._forces
        if forces is None:
            forces = super().get_forces(*args, **kwargs)
            if self.projection is not None:
                forces = self.projection.apply(forces)
            self._forces = forces
        return forces.copy()


class _SymmetricAtoms(Filter):
    """Sites in a cell that stays, with symmetric forces."""

    def __init__(self, atoms: ase.Atoms, projection: kept_symmetry.Projection):
        super().__init__(atoms, indices=range(len(atoms)))
        self._projection = projection

    def get_forces(self, *args, **kwargs):
        return self._projection.apply(super().get_forces(*args, **kwargs))


def _diverged(atoms: ase.Atoms, start_volume: float, start_coords: np.ndarray) -> str:
    ratio = atoms.get_volume() / start_volume
    if not np.isfinite(ratio) or not np.isfinite(atoms.positions).all():
        return "positions are not finite"
    if not MIN_VOLUME_RATIO < ratio < MAX_VOLUME_RATIO:
        return f"volume went to {ratio:.2g} times what it was"
    shift = atoms.get_scaled_positions(wrap=False) - start_coords
    # A drift of all sites together has no consequence: displacements are relative.
    shift = (shift - shift.mean(axis=0)) @ np.asarray(atoms.cell)
    displacement = np.linalg.norm(shift, axis=1).max()
    if displacement > MAX_DISPLACEMENT:
        return f"a site moved by {displacement:.1f} Å"
    return ""
