import inspect
import sys

import ase.build
import ase.calculators.emt
import numpy as np
import pymatgen.core
import pytest
import scipy.optimize

from crystaljax.crystals import bridge, structure
from crystaljax.relaxation import ase_relaxation, calculators
from crystaljax.system import isolation

pytestmark = pytest.mark.usefixtures("forked_workers")

ELEMENTS = {"Cu": 3.7, "Ag": 4.0, "Au": 4.2, "Pt": 3.9, "Ni": 3.5}


def settings(**changes):
    return ase_relaxation.RelaxationSettings(**changes)


def workers(num_workers):
    return isolation.WorkerOptions(num_workers=num_workers)


def fcc(symbol, a):
    return bridge.from_ase(ase.build.bulk(symbol, a=a))


def l1_2(a):
    sites = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    numbers = np.array([79, 29, 29, 29])
    return structure.Crystal(numbers, np.array(sites, float), np.eye(3) * a)


def volume(crystal):
    return abs(np.linalg.det(crystal.lattice)) / crystal.num_sites


def emt_minimum(crystal, span=0.015):
    """Lowest EMT energy (eV/atom) over isotropic scalings, and where it is."""

    def energy(scale):
        atoms = bridge.to_ase(crystal)
        atoms.set_cell(np.asarray(atoms.cell) * scale, scale_atoms=True)
        atoms.calc = ase.calculators.emt.EMT()
        return atoms.get_potential_energy() / len(atoms)

    found = scipy.optimize.minimize_scalar(energy, bounds=(1 - span, 1 + span))
    return found.fun, found.x


# From 4.6 Å on the energy curves downwards, and ASE's L-BFGS goes apart.
@pytest.mark.parametrize("start", [3.3, 3.6, 3.9, 4.8])
def test_strained_copper_relaxes_to_the_emt_lattice_constant(start):
    relaxed = ase_relaxation.relax(fcc("Cu", start), "emt", settings(fmax=0.01))
    _, scale = emt_minimum(fcc("Cu", 3.6))
    assert relaxed.converged and relaxed.failure == ""
    assert relaxed.max_force < 0.01
    a = (4 * volume(relaxed.crystal)) ** (1 / 3)
    assert a == pytest.approx(3.6 * scale, abs=0.005)


def test_l1_2_reaches_the_minimum_and_keeps_its_cell_cubic():
    relaxed = ase_relaxation.relax(l1_2(3.5), "emt", settings(fmax=0.005))
    energy, scale = emt_minimum(l1_2(3.73))
    assert relaxed.energy == pytest.approx(energy, abs=1e-4)
    parameters = structure.lattice_parameters(relaxed.crystal.lattice)
    np.testing.assert_allclose(parameters[:3], 3.73 * scale, atol=0.01)
    np.testing.assert_allclose(parameters[3:], 90, atol=1e-3)
    assert list(relaxed.crystal.atomic_numbers) == [79, 29, 29, 29]


def test_sites_relax_in_a_fixed_cell():
    crystal = l1_2(3.7)
    crystal.frac_coords[1] += 0.05
    relaxed = ase_relaxation.relax(crystal, "emt", settings(relax_cell=False))
    np.testing.assert_array_equal(relaxed.crystal.lattice, crystal.lattice)
    offsets = relaxed.crystal.frac_coords - relaxed.crystal.frac_coords[0]
    np.testing.assert_allclose(offsets[1], [0.5, 0.5, 0], atol=0.01)
    assert relaxed.converged


def test_out_of_steps_is_not_converged_and_not_a_failure():
    relaxed = ase_relaxation.relax(fcc("Cu", 3.9), "emt", settings(max_steps=1))
    assert (relaxed.converged, relaxed.num_steps, relaxed.failure) == (False, 1, "")
    assert relaxed.max_force > 0.05


def bad_crystals():
    nan = l1_2(3.7)
    nan.frac_coords[2, 1] = np.nan
    clash = l1_2(3.7)
    clash.frac_coords[1] = clash.frac_coords[0] + 1e-3
    flat = l1_2(3.7)
    flat.lattice[2] *= 1e-3
    collapsed = l1_2(3.7)
    collapsed.lattice[2] = collapsed.lattice[0]
    return {
        "not finite": nan,
        "apart": clash,
        "flat": flat,
        "its volume is 0": collapsed,
        "per site": l1_2(40.0),
        "no sites": structure.Crystal(
            np.zeros(0, int), np.zeros((0, 3)), np.eye(3) * 4.0
        ),
    }


@pytest.mark.parametrize("reason", bad_crystals())
def test_bad_crystal_is_a_result_with_a_reason(reason):
    crystal = bad_crystals()[reason]
    relaxed = ase_relaxation.relax(crystal, "emt")
    assert reason in relaxed.failure
    assert relaxed.crystal is crystal
    assert np.isnan(relaxed.energy) and not relaxed.converged


def test_volume_that_changes_too_much_is_stopped():
    relaxed = ase_relaxation.relax(fcc("Cu", 5.9), "emt")
    assert "volume went to" in relaxed.failure
    assert not relaxed.converged


def test_sites_that_wander_are_stopped(monkeypatch):
    monkeypatch.setattr(ase_relaxation, "MAX_DISPLACEMENT", 0.05)
    crystal = l1_2(3.7)
    crystal.frac_coords[1] += 0.08
    assert "a site moved by" in ase_relaxation.relax(crystal, "emt").failure


def test_calculator_that_raises_costs_one_row(monkeypatch):
    class Broken(ase.calculators.emt.EMT):
        def calculate(self, *args, **kwargs):
            raise RuntimeError("no neighbours")

    monkeypatch.setattr(calculators.emt, "EMT", Broken)
    relaxed = ase_relaxation.relax(l1_2(3.7), "emt")
    assert relaxed.failure == "RuntimeError: no neighbours"


@pytest.mark.parametrize("num_workers", [1, 2])
def test_many_keep_their_order_around_a_bad_one(num_workers):
    bad = bad_crystals()["not finite"]
    crystals = [fcc("Au", 4.2), bad, l1_2(3.6), fcc("Cu", 3.5)]
    results = ase_relaxation.relax_many(
        crystals, "emt", worker_options=workers(num_workers)
    )
    assert [r.failure != "" for r in results] == [False, True, False, False]
    for crystal, result in zip(crystals, results, strict=True):
        alone = ase_relaxation.relax(crystal, "emt")
        np.testing.assert_array_equal(
            result.crystal.atomic_numbers, crystal.atomic_numbers
        )
        assert result.energy == pytest.approx(alone.energy, abs=1e-9, nan_ok=True)


def test_elements_without_emt_parameters_are_named_before_anything_runs():
    salt = structure.Crystal(np.array([11, 17]), np.zeros((2, 3)), np.eye(3) * 4)
    with pytest.raises(ValueError, match=r"no parameters for Cl, Na"):
        ase_relaxation.relax_many([l1_2(3.7), salt], "emt", worker_options=workers(1))


def module_calculator(tmp_path, monkeypatch, body):
    """Writes odd.py with ``build`` into the current directory; gives its name."""
    (tmp_path / "odd.py").write_text(
        "import os, time\n"
        "from ase.calculators import emt\n\n\n"
        "class Odd(emt.EMT):\n"
        "    def calculate(self, atoms, *args, **kwargs):\n"
        f"        {body}\n"
        "        super().calculate(atoms, *args, **kwargs)\n\n\n"
        "def build():\n"
        "    return Odd()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "odd", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    calculators.forget_calculators()
    return "odd:build"


def test_crystal_that_hangs_or_kills_its_process_costs_one_row(tmp_path, monkeypatch):
    name = module_calculator(
        tmp_path,
        monkeypatch,
        "symbols = str(atoms.symbols); "
        "'Ag' in symbols and time.sleep(60); 'Pt' in symbols and os._exit(1)",
    )
    crystals = [fcc(symbol, a) for symbol, a in ELEMENTS.items()]
    chosen = settings(timeout=2.5)
    found = dict(ase_relaxation.relax_each(crystals, name, chosen, workers(2)))
    failures = {symbol: found[i].failure for i, symbol in enumerate(ELEMENTS)}
    assert failures.pop("Ag") == "timed out after 2.5 s"
    assert "died with exit code 1" in failures.pop("Pt")
    assert set(failures.values()) == {""}
    for i, symbol in enumerate(ELEMENTS):
        if symbol in failures:
            alone = ase_relaxation.relax(crystals[i], "emt", settings(max_steps=500))
            assert found[i].energy == pytest.approx(alone.energy, abs=1e-9)
            assert 0 < found[i].seconds < 2.5
        else:
            assert found[i].crystal is crystals[i]


@pytest.mark.parametrize("optimizer", ase_relaxation.OPTIMIZERS)
def test_optimizers_find_the_same_minimum(optimizer):
    crystal = l1_2(3.7)
    crystal.frac_coords[1] += 0.02
    relaxed = ase_relaxation.relax(
        crystal, "emt", settings(fmax=0.01, optimizer=optimizer)
    )
    assert relaxed.converged
    assert relaxed.energy == pytest.approx(emt_minimum(l1_2(3.73))[0], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "value"),
    [("fmax", 0.0), ("max_steps", 0), ("timeout", -1.0), ("optimizer", "GPMin")],
)
def test_settings_that_make_no_sense_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}.*expected"):
        ase_relaxation.RelaxationSettings(**{name: value})


def test_paper_preset_is_pymatgens_default():
    default = inspect.signature(pymatgen.core.Structure.relax).parameters
    paper = ase_relaxation.PRESETS["paper"]
    assert paper.fmax == default["fmax"].default
    assert paper.max_steps == default["steps"].default
    assert paper.relax_cell == default["relax_cell"].default
    assert paper.optimizer == default["optimizer"].default
