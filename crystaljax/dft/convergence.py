"""Is a run of VASP relaxed, by its own EDIFFG?

That a run ended before its last step says nothing: a STOPCAR, a time limit or an error
ends it as well. What counts are the forces, the stress and the energies of its steps.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

# Values of IBRION that look for a minimum: RMM-DIIS, conjugate gradients, damped
# molecular dynamics.
_MINIMIZERS = (1, 2, 3)
_OTHER_RUNS = {
    -1: "static",
    0: "molecular dynamics",
    **dict.fromkeys((5, 6, 7, 8), "vibrations"),
    40: "a reaction path",
    44: "a transition state",
}
# What ISIF lets move.
_IONS = (0, 1, 2, 3, 4, 8)
_SHAPE = (3, 4, 5, 6)
_VOLUME = (3, 6, 7, 8)
_EV_PER_KBAR_A3 = 6.241509e-4
# Files have eight decimals.
_ROUNDING = 1e-6


def find_problems(vasprun: Any) -> list[str]:
    """Why a run with at least one ionic step is not relaxed; nothing if it is.

    Args:
        vasprun: pymatgen's Vasprun.
    """
    if kind := _find_other_kind(vasprun):
        return [f"not relaxed: {kind}"]
    problems = []
    num_steps, max_steps = len(vasprun.ionic_steps), _setting(vasprun, "NSW", 0)
    if not vasprun.converged_electronic:
        steps = len(vasprun.ionic_steps[-1]["electronic_steps"])
        problems.append(f"not converged electronically in {steps} steps")
    reason = "" if num_steps >= max_steps else _find_excess(vasprun)
    if reason or num_steps >= max_steps:
        text = f"not converged ionically in {num_steps} steps"
        problems.append(f"{text}: {reason}" if reason else text)
    return problems


def find_max_force(vasprun: Any, step: Any) -> float:
    """Largest force on a site, eV/Å, in directions that are free; NaN if unknown."""
    forces = _free_forces(vasprun, step)
    if forces is None:
        return float("nan")
    return float(np.linalg.norm(forces, axis=1).max(initial=0.0))


def _find_other_kind(vasprun: Any) -> str:
    """What the run is, if it is no relaxation to an accuracy."""
    max_steps = _setting(vasprun, "NSW", 0)
    method = _setting(vasprun, "IBRION", 0 if max_steps > 0 else -1)
    isif = _isif(vasprun)
    if max_steps <= 0 or method == -1:
        return f"a static run (NSW = {max_steps:g}, IBRION = {method:g})"
    if method not in _MINIMIZERS:
        kind = _OTHER_RUNS.get(int(method), "no minimizer")
        return f"{kind} (IBRION = {method:g})"
    if max_steps == 1:
        return "a run of one step (NSW = 1)"
    if _ediffg(vasprun) == 0:
        return "a run that aims at nothing (EDIFFG = 0)"
    free = _free_directions(vasprun)
    is_fixed = isif not in _IONS or (free is not None and not free.any())
    if is_fixed and isif not in (*_SHAPE, *_VOLUME):
        return f"a run in which nothing may move (ISIF = {isif:g}, all sites fixed)"
    return ""


def _find_excess(vasprun: Any) -> str:
    """What is above EDIFFG, in words; "" if nothing is."""
    limit = _ediffg(vasprun)
    last = vasprun.ionic_steps[-1]
    if limit > 0:
        if len(vasprun.ionic_steps) < 2:
            return "one step has no change of the energy to compare with EDIFFG"
        change = abs(_free_energy(last) - _free_energy(vasprun.ionic_steps[-2]))
        if not change <= limit + _ROUNDING:
            return f"the energy changed by {change:.2g} eV, EDIFFG = {limit:g}"
        return ""
    if _isif(vasprun) in _IONS:
        force = find_max_force(vasprun, last)
        if not force <= -limit + _ROUNDING:
            return f"the largest force is {force:.2g} eV/Å, EDIFFG = {limit:g}"
    stress = _stress_per_atom(vasprun, last)
    if not stress <= -limit + _ROUNDING:
        return f"the stress is {stress:.2g} eV/atom, EDIFFG = {limit:g}"
    return ""


def _free_forces(vasprun: Any, step: Any) -> Float[np.ndarray, "sites 3"] | None:
    """Forces, eV/Å, without what selective dynamics holds."""
    forces = step.get("forces")
    if forces is None or not len(forces):
        return None
    forces = np.asarray(forces, dtype=float)
    free = _free_directions(vasprun)
    if free is None or free.shape != forces.shape:
        return forces
    # The flags are of directions along the lattice vectors.
    lattice = (step.get("structure") or vasprun.initial_structure).lattice.matrix
    return np.where(free, forces @ np.linalg.inv(lattice), 0.0) @ lattice


def _free_directions(vasprun: Any) -> np.ndarray | None:
    """Whether each coordinate may change; None without selective dynamics."""
    for structure in (vasprun.initial_structure, vasprun.ionic_steps[0]["structure"]):
        flags = (structure.site_properties if structure else {}).get(
            "selective_dynamics"
        )
        if flags is not None:
            return np.asarray(flags, dtype=bool)
    return None


def _stress_per_atom(vasprun: Any, step: Any) -> float:
    """Largest row of the stress that the cell could follow, times volume per site, eV.

    This is what VASP compares with EDIFFG; a stress that the cell cannot follow is
    none.
    """
    isif = _isif(vasprun)
    if isif not in (*_SHAPE, *_VOLUME):
        return 0.0
    if step.get("stress") is None:
        return float("nan")
    structure = step.get("structure") or vasprun.final_structure
    scale = _EV_PER_KBAR_A3 * structure.volume / len(structure)
    stress = np.asarray(step["stress"], dtype=float)
    # Whether the external pressure is in it depends on the version.
    pressure = np.eye(3) * _setting(vasprun, "PSTRESS", 0.0)
    found = []
    for each in (stress, stress - pressure, stress + pressure):
        mean = np.eye(3) * np.trace(each) / 3
        part = np.zeros((3, 3))
        if isif in _VOLUME:
            part = part + mean
        if isif in _SHAPE:
            part = part + each - mean
        found.append(float(np.linalg.norm(part, axis=1).max() * scale))
    return min(found)


def _free_energy(step: Any) -> float:
    # What VASP compares between two steps.
    value = step.get("e_fr_energy", step.get("e_0_energy"))
    return float("nan") if value is None else float(value)


def _ediffg(vasprun: Any) -> Any:
    return _setting(vasprun, "EDIFFG", 10 * _setting(vasprun, "EDIFF", 1e-4))


def _isif(vasprun: Any) -> Any:
    return _setting(vasprun, "ISIF", 2)


def _setting(vasprun: Any, name: str, default: Any) -> Any:
    """A tag as VASP took it, or as the INCAR has it."""
    for place in (vasprun.parameters, vasprun.incar):
        value = place.get(name)
        if isinstance(value, int | float):
            return value
    return default
