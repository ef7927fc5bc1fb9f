"""What a screening says of itself: each sentence is of what was done."""

import dataclasses

import pytest
from ase.build import bulk

from crystaljax.crystals import bridge
from crystaljax.hull import convex_hull
from crystaljax.relaxation import ase_relaxation, pretrained
from crystaljax.screening import funnel, methods

COPPER = bridge.from_ase(bulk("Cu", "fcc", 3.6))
VERSIONS = {"ase": "3.26", "chgnet": "0.4.0", "sevenn": "not installed"}
SETUP = methods.Setup(
    calculator="emt",
    settings=ase_relaxation.PRESETS["default"],
    tolerance=funnel.SAME,
)


@pytest.fixture(scope="module")
def result():
    return funnel.screen([COPPER], "emt", None)


def describe(result, known_hull=None, **changes):
    setup = dataclasses.replace(SETUP, **changes)
    return methods.describe(setup, result, known_hull, VERSIONS)


def test_emt_and_no_hull(result):
    found = describe(result)
    assert "effective medium theory (EMT; ASE 3.26)" in found["Energies"]
    assert "LBFGS" in found["Relaxation"] and "below 0.05 eV/Å" in found["Relaxation"]
    assert "1 one at a time (ASE 3.26)" in found["Relaxation"]
    assert "No symmetry was imposed" in found["Relaxation"]
    assert f"Cu {result.element_energies[29]:.4f}" in found["Elements"]
    assert "There was no hull" in found["Hull"]
    assert "ltol 0.1, stol 0.15, angle_tol 3" in found["Equal crystals"]
    assert "Universal potentials" not in found["Limits"]


@pytest.mark.parametrize(
    ("calculator", "said", "unsaid"),
    [
        (
            "chgnet",
            [
                "CHGNet 0.3.0 (package chgnet 0.4.0)",
                f"reproduce {pretrained.MP_PBE} with",
            ],
            ["are added"],
        ),
        (
            "sevenn",
            [f"reproduce {pretrained.MP_PBE}; to its", "are added"],
            ["package"],
        ),
        ("matgl:mine", ["matgl mine", "is not known here"], ["MP2020"]),
        ("mine:build", ["the ASE calculator 'mine:build'"], ["MP2020", "pretrained"]),
    ],
)
def test_potentials_say_what_they_reproduce(result, calculator, said, unsaid):
    found = describe(result, calculator=calculator)
    assert all(text in found["Energies"] for text in said)
    assert not any(text in found["Energies"] for text in unsaid)
    is_potential = not calculator.startswith("mine")
    assert ("Universal potentials" in found["Limits"]) == is_potential


def test_hulls_say_what_they_are_of(result):
    hull = convex_hull.build_hull([("Cu1Au1", -0.1, "a"), ("Cu1", 0.0, "b")], "model")
    notes = ("hull: 2 known crystals", "not on the hull: x: volume went to 9 times")
    found = describe(result, hull, hull="relaxed:known.csv", hull_notes=notes)
    assert "2 entries (Au-Cu, Cu) from known.csv, relaxed" in found["Hull"]
    assert "Left out: x: volume went to 9 times." in found["Hull"]
    found = describe(result, hull, hull="entries.csv")
    assert "formation energies of 'model', on whose word" in found["Hull"]
    dft = dataclasses.replace(
        hull, dft=pretrained.MP_PBE, element_energies={"Cu": -4.1}
    )
    found = describe(result, dft, hull="mp.json", calculator="chgnet")
    assert "DFT total energies of model" in found["Hull"]
    assert "these have no part" in found["Elements"]


def test_kept_symmetry_and_saddles(result):
    settings = dataclasses.replace(SETUP.settings, keep_symmetry=True, relax_cell=False)
    found = describe(result, settings=settings, references="elements.csv")
    assert "within 0.1 Å was kept" in found["Relaxation"]
    assert "disturbed" not in found["Relaxation"]
    assert found["Relaxation"].startswith("Sites in fixed cells were relaxed")
    assert "against those of elements.csv" in found["Elements"]
    released = dataclasses.replace(result, released={})
    found = describe(released, settings=settings)
    assert "over 2 meV/atom and their group are called saddles" in found["Relaxation"]
