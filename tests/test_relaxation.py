import sys
import types

import ase.build
import ase.calculators.emt
import numpy as np
import pytest
import scipy.optimize

from crystaljax import bridge, relaxation, structure


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


@pytest.mark.parametrize("start", [3.3, 3.6, 3.9])
def test_strained_copper_relaxes_to_the_emt_lattice_constant(start):
    relaxed = relaxation.relax(fcc("Cu", start), "emt", fmax=0.01)
    _, scale = emt_minimum(fcc("Cu", 3.6))
    assert relaxed.converged and relaxed.failure == ""
    assert relaxed.max_force < 0.01
    a = (4 * volume(relaxed.crystal)) ** (1 / 3)
    assert a == pytest.approx(3.6 * scale, abs=0.005)


def test_l1_2_reaches_the_minimum_and_keeps_its_cell_cubic():
    relaxed = relaxation.relax(l1_2(3.5), "emt", fmax=0.005)
    energy, scale = emt_minimum(l1_2(3.73))
    assert relaxed.energy == pytest.approx(energy, abs=1e-4)
    parameters = structure.lattice_parameters(relaxed.crystal.lattice)
    np.testing.assert_allclose(parameters[:3], 3.73 * scale, atol=0.01)
    np.testing.assert_allclose(parameters[3:], 90, atol=1e-3)
    assert list(relaxed.crystal.atomic_numbers) == [79, 29, 29, 29]


def test_sites_relax_in_a_fixed_cell():
    crystal = l1_2(3.7)
    crystal.frac_coords[1] += 0.05
    relaxed = relaxation.relax(crystal, "emt", relax_cell=False)
    np.testing.assert_array_equal(relaxed.crystal.lattice, crystal.lattice)
    offsets = relaxed.crystal.frac_coords - relaxed.crystal.frac_coords[0]
    np.testing.assert_allclose(offsets[1], [0.5, 0.5, 0], atol=0.01)
    assert relaxed.converged


def test_out_of_steps_is_not_converged_and_not_a_failure():
    relaxed = relaxation.relax(fcc("Cu", 3.9), "emt", max_steps=1)
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
        "flat: volume 0": collapsed,
        "per site": l1_2(40.0),
        "no sites": structure.Crystal(
            np.zeros(0, int), np.zeros((0, 3)), np.eye(3) * 4.0
        ),
    }


@pytest.mark.parametrize("reason", bad_crystals())
def test_bad_crystal_is_a_result_with_a_reason(reason):
    crystal = bad_crystals()[reason]
    relaxed = relaxation.relax(crystal, "emt")
    assert reason in relaxed.failure
    assert relaxed.crystal is crystal
    assert np.isnan(relaxed.energy) and not relaxed.converged


def test_volume_that_changes_too_much_is_stopped():
    relaxed = relaxation.relax(fcc("Cu", 5.9), "emt")
    assert "volume went to" in relaxed.failure
    assert not relaxed.converged


def test_sites_that_wander_are_stopped(monkeypatch):
    monkeypatch.setattr(relaxation, "MAX_DISPLACEMENT", 0.05)
    crystal = l1_2(3.7)
    crystal.frac_coords[1] += 0.08
    assert "a site moved by" in relaxation.relax(crystal, "emt").failure


def test_calculator_that_raises_costs_one_row(monkeypatch):
    class Broken(ase.calculators.emt.EMT):
        def calculate(self, *args, **kwargs):
            raise RuntimeError("no neighbours")

    monkeypatch.setattr(relaxation.emt, "EMT", Broken)
    relaxed = relaxation.relax(l1_2(3.7), "emt")
    assert relaxed.failure == "RuntimeError: no neighbours"


@pytest.mark.parametrize("num_workers", [1, 2])
def test_many_keep_their_order_around_a_bad_one(num_workers):
    bad = bad_crystals()["not finite"]
    crystals = [fcc("Au", 4.2), bad, l1_2(3.6), fcc("Cu", 3.5)]
    results = relaxation.relax_many(crystals, "emt", num_workers=num_workers)
    assert [r.failure != "" for r in results] == [False, True, False, False]
    for crystal, result in zip(crystals, results, strict=True):
        alone = relaxation.relax(crystal, "emt")
        np.testing.assert_array_equal(
            result.crystal.atomic_numbers, crystal.atomic_numbers
        )
        assert result.energy == pytest.approx(alone.energy, abs=1e-9, nan_ok=True)


def test_elements_without_emt_parameters_are_named_before_anything_runs():
    salt = structure.Crystal(np.array([11, 17]), np.zeros((2, 3)), np.eye(3) * 4)
    with pytest.raises(ValueError, match=r"no parameters for Cl, Na"):
        relaxation.relax_many([l1_2(3.7), salt], "emt", num_workers=1)


@pytest.mark.parametrize("name", ["vasp", "matgl", "matgl:", "EMT"])
def test_unknown_calculator_lists_what_is_possible(name):
    for build in (relaxation.build_calculator, relaxation.energy_model):
        with pytest.raises(ValueError, match="expected 'emt', or 'matgl:'"):
            build(name)


def test_missing_matgl_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matgl", None)
    monkeypatch.setitem(sys.modules, "matgl.ext.ase", None)
    with pytest.raises(ImportError, match="'relax' extra"):
        relaxation.relax_many([l1_2(3.7)], "matgl:some-model", num_workers=1)


def test_matgl_stress_is_in_the_unit_ase_expects(monkeypatch):
    class FakeCalculator(ase.calculators.emt.EMT):
        def __init__(self, potential, stress_unit="GPa"):
            self.made_of = (potential, stress_unit)

    package, module = types.ModuleType("matgl"), types.ModuleType("matgl.ext.ase")
    package.load_model = lambda name: f"potential {name}"
    module.PESCalculator = FakeCalculator
    monkeypatch.setitem(sys.modules, "matgl", package)
    monkeypatch.setitem(sys.modules, "matgl.ext", types.ModuleType("matgl.ext"))
    monkeypatch.setitem(sys.modules, "matgl.ext.ase", module)
    made = relaxation.build_calculator("matgl:some/path")
    assert made.made_of == ("potential some/path", "eV/A3")


def test_energy_models_have_names():
    assert relaxation.energy_model("emt") == "ASE EMT"
    assert relaxation.energy_model("matgl:TensorNet-PES") == "matgl TensorNet-PES"


def test_formation_energy_is_against_the_relaxed_elements():
    relaxed = relaxation.relax(l1_2(3.7), "emt", fmax=0.005)
    references = {s: emt_minimum(fcc(s, a))[0] for s, a in [("Cu", 3.6), ("Au", 4.06)]}
    expected = relaxed.energy - 0.75 * references["Cu"] - 0.25 * references["Au"]
    found = relaxation.formation_energy("emt", [79, 29, 29, 29], relaxed.energy)
    assert found == pytest.approx(expected, abs=5e-4)
    assert found < 0


def test_element_without_a_simple_reference_structure_is_named():
    with pytest.raises(ValueError, match="Mn has no reference structure"):
        relaxation.elemental_energy("emt", 25)
