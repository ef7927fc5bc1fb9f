import sys

import ase.calculators.emt
import ase.optimize
import numpy as np
import potentials
import pytest
from ase.filters import FrechetCellFilter

from crystaljax.crystals import bridge, structure
from crystaljax.relaxation import ase_relaxation, calculators
from crystaljax.system import isolation

pytestmark = pytest.mark.usefixtures("forked_workers")


@pytest.fixture(scope="module", params=["tensornet", "m3gnet"])
def potential(request, tmp_path_factory):
    pytest.importorskip("matgl")
    path = tmp_path_factory.mktemp("potentials") / request.param
    getattr(potentials, f"save_{request.param}")(path)
    return f"matgl:{path}"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes mine.py into the current directory, which is not where Python looks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    calculators.forget_calculators()

    def write(text):
        (tmp_path / "mine.py").write_text(text)
        sys.modules.pop("mine", None)

    yield write
    sys.modules.pop("mine", None)
    calculators.forget_calculators()


def cu_au(a=3.8, shift=0.06):
    sites = [[shift, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    numbers = np.array([79, 29, 29, 29])
    return structure.Crystal(numbers, np.array(sites), np.eye(3) * a)


def test_matgl_potential_relaxes_crystals(potential):
    crystals = [cu_au(3.5, 0.1), cu_au(4.0, 0.1)]
    # Few steps: these potentials are as rough as their weights are random. BFGS is that
    # of ASE; on negative curvature our L-BFGS is another.
    settings = ase_relaxation.RelaxationSettings(
        fmax=1e-4, max_steps=3, optimizer="BFGS"
    )
    if potential.endswith("tensornet"):
        # In a process of its own, where PyTorch takes seconds to load; test_funnel
        # has the other one there.
        one = isolation.WorkerOptions(num_workers=1)
        found = dict(ase_relaxation.relax_each(crystals, potential, settings, one))
    else:
        relaxed = (ase_relaxation.relax(each, potential, settings) for each in crystals)
        found = dict(enumerate(relaxed))
    for i, crystal in enumerate(crystals):
        assert (found[i].failure, found[i].num_steps) == ("", 3)
        atoms = bridge.to_ase(crystal)
        atoms.calc = calculators.build_calculator(potential)
        optimizer = ase.optimize.BFGS(FrechetCellFilter(atoms), logfile=None)
        optimizer.run(fmax=1e-4, steps=3)
        expected = atoms.get_potential_energy()
        assert 4 * found[i].energy == pytest.approx(expected, abs=1e-3)
        np.testing.assert_allclose(found[i].crystal.lattice, atoms.cell, atol=1e-4)
        assert np.abs(found[i].crystal.lattice - crystal.lattice).max() > 1e-3


def test_matgl_stress_is_the_derivative_of_the_energy(potential):
    """It would not be in matgl's default unit, which is GPa."""
    calculator = calculators.build_calculator(potential)

    def energy(scale):
        atoms = bridge.to_ase(cu_au())
        atoms.set_cell(np.asarray(atoms.cell) * scale, scale_atoms=True)
        atoms.calc = calculator
        return atoms, atoms.get_potential_energy()

    atoms, _ = energy(1.0)
    stress = np.trace(atoms.get_stress(voigt=False))
    step = 2e-3
    derivative = (energy(1 + step)[1] - energy(1 - step)[1]) / (2 * step)
    assert stress * atoms.get_volume() == pytest.approx(derivative, rel=0.03)


def test_matgl_potential_says_what_it_has(potential):
    assert calculators.supported_elements(potential) == {"Cu", "Au"}
    silver = structure.Crystal(np.array([47]), np.zeros((1, 3)), np.eye(3) * 3)
    calculators.require_elements(potential, [cu_au()])
    with pytest.raises(ValueError, match=r"no parameters for Ag; it has Au, Cu\."):
        calculators.require_elements(potential, [cu_au(), silver])
    assert calculators.energy_model(potential) == potential.replace(":", " ", 1)


def test_matgl_folders_that_hold_no_potential_are_named(tmp_path):
    pytest.importorskip("matgl")
    with pytest.raises(ValueError, match=r"there is no folder .*missing"):
        calculators.build_calculator(f"matgl:{tmp_path / 'missing'}")
    (tmp_path / "model.json").write_text("{")
    (tmp_path / "model.pt").touch()
    (tmp_path / "state.pt").touch()
    with pytest.raises(ValueError, match="cannot load the potential"):
        calculators.build_calculator(f"matgl:{tmp_path}")


def test_missing_matgl_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matgl", None)
    with pytest.raises(ImportError, match="'relax' extra"):
        calculators.build_calculator("matgl:some-model")


@pytest.mark.parametrize("name", ["vasp", "matgl", "matgl:", "EMT", "a:b:c", ":f"])
def test_unknown_calculator_lists_what_is_possible(name):
    for fn in (calculators.build_calculator, calculators.energy_model):
        with pytest.raises(ValueError, match=r"expected 'emt', .*'matgl:'.*'module:"):
            fn(name)


def test_function_in_the_current_directory_is_a_calculator(module):
    module("from ase.calculators.emt import EMT as build")
    found = calculators.build_calculator("mine:build")
    assert isinstance(found, ase.calculators.emt.EMT)
    # What is loaded once, as potentials are, is kept; but not after an error.
    assert calculators.build_calculator("mine:build") is found
    calculators.forget_calculators()
    assert calculators.build_calculator("mine:build") is not found
    assert calculators.energy_model("mine:build") == "mine:build"
    assert calculators.supported_elements("mine:build") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("import no_such_module", "importing mine from .* ModuleNotFoundError"),
        ("1 / 0", "importing mine from .* ZeroDivisionError"),
        ("other = 1", "has no function 'build'"),
        ("build = 1", "has no function 'build'"),
        ("def build(x): return x", r"calling build\(\) gives TypeError"),
        ("def build(): return 'EMT'", r"build\(\) returns a str; expected an ASE calc"),
    ],
)
def test_what_is_wrong_with_a_module_is_said(module, text, problem):
    module(text)
    with pytest.raises(ValueError, match=problem):
        calculators.build_calculator("mine:build")


def test_emt_has_its_own_elements_only():
    assert calculators.energy_model("emt") == "ASE EMT"
    assert {"Al", "Cu", "Au"} < calculators.supported_elements("emt")
    salt = structure.Crystal(np.array([11, 17]), np.zeros((2, 3)), np.eye(3) * 4)
    with pytest.raises(ValueError, match=r"emt has no parameters for Cl, Na"):
        calculators.require_elements("emt", [salt])
