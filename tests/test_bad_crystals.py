"""Crystals, potentials and hulls that are bad: a reason each, and nothing else lost."""

import dataclasses
import sys

import ase.build
import numpy as np
import pytest

from crystaljax import screen
from crystaljax.crystals import bridge, elements, structure, structure_files
from crystaljax.hull import convex_hull, energy_scale
from crystaljax.relaxation import ase_relaxation, batches, calculators, pretrained
from crystaljax.screening import funnel

pytestmark = pytest.mark.usefixtures("forked_workers")

# EMT, but for some pairs of elements: what potentials do that are asked for what they
# never saw. p V falls apart or collapses.
CALCULATOR = """
import numpy as np
from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT

PRESSURES = {("Ag", "Au"): -0.5, ("Ag", "Pd"): 0.5}  # eV/Å³
ENERGIES = {("Ni", "Pt"): -1e6, ("Pd", "Pt"): float("nan")}  # eV


class Mad(EMT):
    def calculate(self, atoms=None, properties=(), system_changes=all_changes):
        symbols = tuple(sorted(set(atoms.symbols)))
        if symbols in PRESSURES or symbols in ENERGIES:
            pressure = PRESSURES.get(symbols, 0.0)
            self.atoms = atoms.copy()
            energy = ENERGIES.get(symbols, 0.0) + pressure * atoms.get_volume()
            self.results = {
                "energy": energy,
                "free_energy": energy,
                "forces": np.zeros((len(atoms), 3)),
                "stress": pressure * np.array([1.0, 1, 1, 0, 0, 0]),
            }
            return
        super().calculate(atoms, properties, system_changes)


def build():
    return Mad()
"""
FCC = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])


def alloy(formula, length=4.0):
    numbers = elements.formula_atomic_numbers(formula).astype(int)
    return structure.Crystal(numbers, FCC, length * np.eye(3))


def large():
    """200 atoms with all the symmetry that they can have."""
    return bridge.from_ase(ase.build.bulk("Cu", "fcc", 3.62) * (5, 5, 8))


CRYSTALS = {
    "good": alloy("Cu3Au1", 3.8),
    "falls apart": alloy("Ag3Au1"),
    "collapses": alloy("Ag3Pd1"),
    "blows up": alloy("Ni3Pt1"),
    "not a number": alloy("Pd3Pt1"),
    "without parameters": alloy("Fe3Au1"),
    "large": large(),
    "twin": alloy("Au3Cu1", 3.95),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "mad.py").write_text(CALCULATOR)
    calculators.forget_calculators()
    yield tmp_path
    sys.modules.pop("mad", None)
    calculators.forget_calculators()


def test_each_has_its_reason_and_the_others_are_ranked(here, capsys):
    crystals = [*CRYSTALS.values(), alloy("Au3Cu1", 4.3)]
    infos = [{"name": name} for name in [*CRYSTALS, "twin"]]
    structure_files.write_extxyz(here / "samples.extxyz", crystals, infos)
    known = {"known": alloy("Cu2Au2", 3.9), "unknown to it": alloy("Pd2Pt2")}
    structure_files.write_extxyz(
        here / "known.extxyz", list(known.values()), [{"name": name} for name in known]
    )
    references = ["element,energy"]
    references += [f"{s},0.0" for s in ("Ag", "Au", "Cu", "Fe", "Ni", "Pd", "Pt")]
    (here / "references.csv").write_text("\n".join(references))
    result, table = screen.screen(
        screen.ScreenOptions(
            samples="samples.extxyz",
            calculator="mad:build",
            hull="relaxed:known.extxyz",
            references="references.csv",
            output="out",
            relaxation="ase",
            # L-BFGS goes uphill where the curvature is negative.
            optimizer="FIRE",
            num_workers=1,
            relax_duplicates=True,
        )
    )
    # Of two with one name both stay, with names that tell them apart.
    assert len(set(table["name"])) == len(crystals)
    reasons = dict(zip(table["name"], table["rejected_reason"], strict=True))
    stages = dict(zip(table["name"], table["rejected_stage"], strict=True))
    expected = {
        "falls apart": ("relaxation", "volume went to 4"),
        "collapses": ("relaxation", "volume went to 0.2"),
        "blows up": ("energy", "formation energy -2.5e+05 eV/atom"),
        "not a number": ("relaxation", "not finite"),
        "without parameters": ("relaxation", "Fe"),
    }
    for name, (stage, reason) in expected.items():
        assert stages[name] == stage and reason in reasons[name], (name, reasons[name])
    ranked = [
        name for name, rank in zip(table["name"], table["rank"], strict=True) if rank
    ]
    # The twins relax to one.
    assert set(ranked) >= {"good", "large"} and len(ranked) == 3
    assert np.isfinite(result.above_hull[result.ranking()]).all()
    assert (here / "out" / "report.html").exists()
    # Of the known crystals too.
    notes = capsys.readouterr().err
    assert "hull: 1 known crystals" in notes
    assert "not on the hull: unknown to it: energy or forces are not finite" in notes


def test_elements_outside_a_potential_cost_their_rows():
    crystals = [CRYSTALS["good"], CRYSTALS["without parameters"]]
    result = funnel.screen(crystals, "emt", None)
    assert result.rejected_stage == ["", "energy"]
    assert result.rejected_reason[1] == "emt has no parameters for Fe"


def test_large_cells_relax_both_ways():
    settings = ase_relaxation.RelaxationSettings(fmax=0.02)
    kept = dataclasses.replace(settings, keep_symmetry=True)
    alone = ase_relaxation.relax(large(), "emt", kept)
    (together,) = batches.relax_many([large()], "emt", settings)
    assert alone.converged and together.converged and alone.crystal.num_sites == 200
    assert together.energy == pytest.approx(alone.energy, abs=1e-4)


def test_a_hull_without_an_element_says_which():
    hull = convex_hull.Hull(
        (), "MP", dft=pretrained.MP_PBE, element_energies={"Cu": -4.1}
    )
    scale = energy_scale.EnergyScale("CHGNet", {29: -4.0, 79: -3.2})
    with pytest.raises(ValueError, match="the hull has no entry of Au"):
        scale.energy_on(hull, CRYSTALS["good"], -4.0)
    copper = bridge.from_ase(ase.build.bulk("Cu"))
    assert scale.energy_on(hull, copper, -4.0) == pytest.approx(0.1)
