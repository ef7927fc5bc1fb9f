"""CHGNet and SevenNet as they are installed: their weights come with the packages."""

import sys

import numpy as np
import pytest

from crystaljax.crystals import bridge, structure
from crystaljax.relaxation import ase_relaxation, calculators, pretrained

# TaW is B2-like in DFT: mp-979289, a = 3.26 Å.
TAW = structure.Crystal(
    np.array([73, 74]), np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]), np.eye(3) * 3.1
)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("chgnet", "CHGNet 0.3.0"),
        ("sevenn:7net-0", "SevenNet 7net-0"),
        ("chgnet:r2scan@cpu", "CHGNet r2scan"),
    ],
)
def test_potentials_that_carry_their_weights_relax(name, model):
    relaxed = ase_relaxation.relax(TAW, name)
    assert relaxed.failure == "" and relaxed.converged
    lengths = np.linalg.norm(relaxed.crystal.lattice, axis=1)
    np.testing.assert_allclose(lengths, 3.25, atol=0.05)
    assert calculators.energy_model(name) == model
    supported = calculators.supported_elements(name)
    assert supported is not None and len(supported) == 89
    assert {"H", "B", "Pu"} < supported and "Po" not in supported


@pytest.mark.parametrize("name", ["chgnet", "sevenn:7net-0"])
def test_stress_is_the_derivative_of_the_energy(name):
    calculator = calculators.build_calculator(name)

    def energy(scale):
        atoms = bridge.to_ase(TAW)
        atoms.set_cell(np.asarray(atoms.cell) * scale, scale_atoms=True)
        atoms.calc = calculator
        return atoms, atoms.get_potential_energy()

    atoms, _ = energy(1.0)
    stress = np.trace(atoms.get_stress(voigt=False))
    step = 5e-3
    derivative = (energy(1 + step)[1] - energy(1 - step)[1]) / (2 * step)
    assert stress * atoms.get_volume() == pytest.approx(derivative, rel=0.03)


def test_usual_models_are_those_of_the_documentation():
    names = ["chgnet", "sevenn", "mace", "orb", "mattersim", "nequix"]
    found = {name: calculators.energy_model(name) for name in names}
    assert found == {
        "chgnet": "CHGNet 0.3.0",
        "sevenn": "SevenNet 7net-l3i5",
        "mace": "MACE medium-mpa-0",
        "orb": "Orb orb-v3-conservative-inf-mpa",
        "mattersim": "MatterSim MatterSim-v1.0.0-1M",
        "nequix": "Nequix nequix-mp-1",
    }
    assert calculators.energy_model("sevenn:SevenNet-0") == "SevenNet 7net-0"


def test_what_is_reproduced_is_known_of_models_and_of_no_files():
    chgnet = calculators.reproduced_energies("chgnet@cuda:0")
    assert (chgnet.dft, chgnet.corrected) == (pretrained.MP_PBE, True)
    sevenn = calculators.reproduced_energies("sevenn")
    assert (sevenn.dft, sevenn.corrected) == (pretrained.MP_PBE, False)
    matgl = calculators.reproduced_energies("matgl:TensorNet-PES-MatPES-PBE-2025.2")
    assert matgl.dft == pretrained.MATPES_PBE
    for name in ("sevenn:my.pth", "matgl:./folder", "emt", "mine:build"):
        assert calculators.reproduced_energies(name).dft == ""


def test_files_of_weights_go_by_their_content(tmp_path):
    contents = {"a": b"1", "b": b"2"}
    models = set()
    for folder, content in contents.items():
        path = tmp_path / folder / "checkpoint.pth"
        path.parent.mkdir()
        path.write_bytes(content)
        models.add(calculators.energy_model(f"sevenn:{path}"))
    assert len(models) == 2
    assert all(name.startswith("SevenNet checkpoint.pth (") for name in models)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (
            "sevenn:7net-9",
            r"unknown model '7net-9' of SevenNet; expected one of 7n",
        ),
        ("chgnet:./no.pth.tar", r"there is no file no.pth.tar"),
        ("chgnet@cuda:7", r"device 'cuda:7' cannot be used .* leave '@cuda:7' out"),
        ("sevenn:7net-mf-0/hse", "unknown model '7net-mf-0/hse'"),
    ],
)
def test_what_is_not_there_is_named(name, problem):
    with pytest.raises(ValueError, match=problem):
        calculators.build_calculator(name)


def test_damaged_weights_are_named(tmp_path):
    path = tmp_path / "mine.pth"
    path.write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"SevenNet cannot load .*mine.pth.*is the"):
        calculators.build_calculator(f"sevenn:{path}")


@pytest.mark.parametrize("family", list(pretrained.FAMILIES))
def test_missing_packages_say_what_to_install(family, monkeypatch):
    package = pretrained.FAMILIES[family].package
    monkeypatch.setitem(sys.modules, package, None)
    calculators.forget_calculators()
    with pytest.raises(ImportError, match=rf"needs {package}.*pip install 'crystaljax"):
        calculators.build_calculator(f"{family}:" if family != "matgl" else "matgl:a")


def test_elements_that_no_potential_has_are_named():
    polonium = structure.Crystal(np.array([84]), np.zeros((1, 3)), np.eye(3) * 3.3)
    with pytest.raises(ValueError, match=r"chgnet has no parameters for Po; .*89 othe"):
        calculators.require_elements("chgnet", [polonium])
