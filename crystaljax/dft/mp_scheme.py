"""Runs on the Materials Project's hull: do their inputs fit, and with what correction?

Total energies compare only between runs of one functional, one U, one set of potentials
and settings that converge alike. What is asked is what the Materials Project's own
validation asks of a task against ``MPRelaxSet``: PBE, its U, its potentials, and at
least its cutoff, spin, aspherical terms and nine tenths of its k-points. To a run that
fits come the corrections of MP2020.
"""

import math

from pymatgen.io.vasp.inputs import Kpoints
from pymatgen.io.vasp.sets import MPRelaxSet

from crystaljax.crystals import bridge, elements
from crystaljax.dft import vasp_runs
from crystaljax.hull import compositions, corrections

_SET = MPRelaxSet.CONFIG
_CUTOFF = float(_SET["INCAR"]["ENCUT"])  # eV
_POTENTIALS = _SET["POTCAR"]
_KPOINTS = _SET["KPOINTS"]["reciprocal_density"]  # per Å⁻³
# Grids of releases differ in how they round.
_MIN_SHARE_OF_KPOINTS = 0.9
_SAME = 1e-3  # eV


def find_problems(run: vasp_runs.Run) -> list[str]:
    """In what the inputs of a run do not fit MPRelaxSet, in words; nothing if they do.

    Args:
        run: with a crystal.
    """
    problems = []
    # U stands in brackets; hybrids and dispersion have longer names.
    functional = run.energy_model.partition(" (")[0]
    if functional not in ("VASP PBE", "VASP PBE+U"):
        problems.append(f"its functional is {run.energy_model or 'unknown'}, not PBE")
    problems += _find_hubbard_problems(run) + _find_potential_problems(run)
    # Where the file does not say, nothing fits.
    if not run.cutoff >= _CUTOFF - _SAME:
        problems.append(f"ENCUT = {run.cutoff:g} eV, expected {_CUTOFF:g} or more")
    if run.is_spin_polarized is not True:
        problems.append("ISPIN = 1, expected 2")
    if run.has_aspherical_terms is not True:
        problems.append("LASPH is off, expected on")
    return problems + _find_kpoint_problems(run)


def correction(run: vasp_runs.Run) -> float:
    """What MP2020 adds to the energy of a run that fits, eV/atom.

    Raises:
        ValueError: the scheme says nothing of this crystal.
    """
    return corrections.mp2020_correction(run.crystal)


def _find_hubbard_problems(run: vasp_runs.Run) -> list[str]:
    composition = compositions.parse_composition(run.crystal.atomic_numbers)
    expected = corrections.hubbards_of_scheme(composition)
    problems = []
    for symbol in sorted(expected.keys() | run.hubbards.keys()):
        found, wanted = run.hubbards.get(symbol, 0.0), expected.get(symbol, 0.0)
        if abs(found - wanted) > _SAME:
            problems.append(f"U of {symbol} is {found:g} eV, expected {wanted:g}")
    return problems


def _find_potential_problems(run: vasp_runs.Run) -> list[str]:
    problems = []
    for number in sorted({int(n) for n in run.crystal.atomic_numbers}):
        symbol = elements.symbol(number)
        words = run.potentials.get(symbol, "").split()
        found, wanted = (words[1] if len(words) > 1 else ""), _POTENTIALS.get(symbol)
        if wanted is None:
            problems.append(f"MPRelaxSet has no potential of {symbol}")
        elif found != wanted:
            problems.append(
                f"the potential of {symbol} is {found or 'unknown'}, expected {wanted}"
            )
    return problems


def _find_kpoint_problems(run: vasp_runs.Run) -> list[str]:
    grid = Kpoints.automatic_density_by_vol(
        bridge.to_pymatgen(run.crystal), _KPOINTS
    ).kpts[0]
    wanted = math.prod(int(n) for n in grid)
    if run.num_kpoints is None:
        return ["its grid of k-points is unknown"]
    if run.num_kpoints < _MIN_SHARE_OF_KPOINTS * wanted:
        return [
            f"a grid of {run.num_kpoints} k-points, expected {wanted} "
            f"({'×'.join(str(int(n)) for n in grid)})"
        ]
    return []
