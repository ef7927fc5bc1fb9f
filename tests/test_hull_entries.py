import gzip
import json

import numpy as np
import pytest
from aflux_server import AfluxServer
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import (
    ComputedEntry,
    ComputedStructureEntry,
    ConstantEnergyAdjustment,
)
from test_aflow import MANNERS, make_entry

from crystaljax import prepare
from crystaljax.crystals import elements, structure, structure_files
from crystaljax.data import dataset as datasets
from crystaljax.data.readers import pages
from crystaljax.hull import convex_hull
from crystaljax.hull import entries as hull_entries

MODEL = "test model"


def computed_entries():
    """Total energies in eV per cell, as the Materials Project has them."""
    cell = Structure(Lattice.cubic(3), ["Ta", "B"], [[0] * 3, [0.5] * 3])
    return [
        ComputedEntry("Ta2", -23.6, entry_id="mp-Ta"),
        ComputedEntry("Ta1", -11.5, entry_id="worse Ta"),
        ComputedEntry("B12", -80.4, entry_id="mp-B", correction=0.6),
        ComputedStructureEntry(cell, -20.1, entry_id="mp-TaB"),
        ComputedEntry({"Ta": 2, "B": 4}, -53.0, correction=-0.3, entry_id="mp-TaB2"),
    ]


def write_json(path, value):
    text = json.dumps(value, default=lambda x: x.as_dict())
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return str(path)


def write_csv(path, text):
    path.write_text(text)
    return str(path)


def energies(found):
    return {entry.id: entry.formation_energy for entry in found.entries}


# ------------------------------------------------------------------------------- CSV


@pytest.mark.parametrize("column", ["energy", "formation_energy"])
def test_csv_is_read(tmp_path, column):
    text = f"id,formula,{column}\na,Cu3Au1,-0.03\n,Cu1 Au1,-0.1\n"
    path = write_csv(tmp_path / "known.csv", text)
    found = hull_entries.read_entries(path, energy_model=MODEL)
    assert energies(found) == {"a": -0.03, f"{path}, row 2": -0.1}
    assert found.energy_model == MODEL
    assert found.entries[1].composition.chemical_system == "Au-Cu"


def test_csv_can_say_its_energy_model(tmp_path):
    text = "formula,energy,energy_model\nCu1Au1,-0.1,PBE\nCu3Au1,0.0,PBE\n"
    path = write_csv(tmp_path / "known.csv", text)
    assert hull_entries.read_entries(path).energy_model == "PBE"
    # The user knows better.
    found = hull_entries.read_entries(path, energy_model="VASP PBE")
    assert found.energy_model == "VASP PBE"


def test_mixed_energy_models_are_refused_unless_elsewhere(tmp_path):
    text = "formula,energy,energy_model,id\nCu1Au1,-0.1,PBE,a\nNi1Pt1,0.0,SCAN,b\n"
    path = write_csv(tmp_path / "known.csv", text)
    with pytest.raises(ValueError, match=r"2 energy models.*'a' has 'PBE'.*'b'.*SCAN"):
        hull_entries.read_entries(path, energy_model=MODEL)
    assert hull_entries.read_entries(path, ["Ni2Pt1"]).energy_model == "SCAN"
    text = "formula,energy,energy_model,id\nCu1Au1,-0.1,PBE,a\nCu2Au1,0.0,,b\n"
    with pytest.raises(ValueError, match="'b' does not say"):
        hull_entries.read_entries(write_csv(tmp_path / "known.csv", text))


def test_file_that_does_not_say_its_energy_model_is_refused(tmp_path):
    path = write_csv(tmp_path / "known.csv", "formula,energy\nCu1Au1,-0.1\n")
    with pytest.raises(ValueError, match="--hull_energy_model"):
        hull_entries.read_entries(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("formula,energy\nCu1Au1,nan\n", r"row 1' has the energy 'nan'"),
        ("formula,energy\nCu1Au1,\n", r"row 1' has the energy ''"),
        ("formula,energy,id\nCu1Au1,-1.0,a\nCu1Qq1,0,b\n", "entry 'b'.*'Cu1Qq1'"),
        ("formula,energy\nCu1Au1,0.0\n,0.0\n", "row 2.*formula"),
        ("formula,energy\nCu1Au1\n", "row 1: 1 cells; expected 2"),
        ('formula,energy,id\nCu1,0,a\nAu1,0,"b\n', "row 2: .*never closed by a quote"),
        ("formula,energy\nCu1,-3.7\n", "total energies"),
        ("formula,energy\nCu1Au1,-0_1\n", "has the energy '-0_1'"),
        ("formula,energy\nCu1Au1,infinity\n", "has the energy 'infinity'"),
        ("formula,energy\nCu1Au1,True\n", "has the energy 'True'"),
        ("formula,energy,id\nNaN,-1,a\n", "entry 'a'.*'NaN'.*missing"),
        ("formula,energy,id\nnan,-1,a\n", "entry 'a'.*'nan'"),
        ("formula,energy,id\n29,-1,a\n", "entry 'a'.*'29'"),
        ("formula,energy,id\nCu1Xx1,-1,a\n", "entry 'a'.*'Xx'"),
        ("formula,energy,id\nCu1X1,-1,a\n", "entry 'a'.*'X'"),
        ("formula,energy,id\nAl2O3.2SiO2,-1,a\n", "entry 'a'.*decimal point"),
        ("composition,energy\nCu1,0\n", "no column 'formula'.*composition"),
        ("formula,gap\nCu1,0\n", "no column 'energy'"),
        ("formula,formation_energy,formation_energy_relaxed\n", "requested"),
        ("", "is empty"),
    ],
)
def test_bad_csv_is_refused_with_the_row(tmp_path, text, message):
    path = write_csv(tmp_path / "known.csv", text)
    with pytest.raises(ValueError, match=message):
        hull_entries.read_entries(path, energy_model=MODEL)


# ------------------------------------------------------------------------------ JSON


@pytest.mark.parametrize("name", ["entries.json", "entries.json.gz"])
@pytest.mark.parametrize("form", ["list", "mapping", "nested"])
def test_total_energies_become_formation_energies_as_in_pymatgen(tmp_path, name, form):
    entries = computed_entries()
    value = {
        "list": entries,
        "mapping": {e.entry_id: e for e in entries},
        "nested": {"energy_model": MODEL, "entries": entries},
    }[form]
    path = write_json(tmp_path / name, value)
    found = hull_entries.read_entries(
        path, energy_model=None if form == "nested" else MODEL
    )
    diagram = PhaseDiagram(entries)
    expected = {e.entry_id: diagram.get_form_energy_per_atom(e) for e in entries}
    assert energies(found) == pytest.approx(expected, abs=1e-12)
    assert expected["mp-TaB2"] < -0.5 and expected["worse Ta"] > 0
    assert found.energy_model == MODEL


def test_energies_above_the_hull_are_those_of_pymatgen(tmp_path):
    entries = [PDEntry(e.composition, e.energy) for e in computed_entries()]
    path = write_json(tmp_path / "entries.json", entries)
    known = convex_hull.load_hull(path, energy_model=MODEL)
    found = convex_hull.energy_above_hull(known, ["Ta1B1", "Ta3B4"], [0.0, -0.5], MODEL)
    diagram = PhaseDiagram(entries)
    references = {"Ta": -11.8, "B": -79.8 / 12}
    for formula, energy, value in (("TaB", 0.0, found[0]), ("Ta3B4", -0.5, found[1])):
        entry = PDEntry(formula, 0)
        counts = entry.composition.get_el_amt_dict()
        total = sum(n * references[e] for e, n in counts.items())
        total += energy * entry.composition.num_atoms
        above = diagram.get_e_above_hull(PDEntry(formula, total), allow_negative=True)
        assert value == pytest.approx(above, abs=1e-9)


def test_elements_outside_the_systems_in_question_may_be_missing(tmp_path):
    entries = [*computed_entries(), ComputedEntry("W1B1", -20.0, entry_id="mp-WB")]
    path = write_json(tmp_path / "entries.json", entries)
    with pytest.raises(ValueError, match="no entry of W;"):
        hull_entries.read_entries(path, energy_model=MODEL)
    found = hull_entries.read_entries(path, ["Ta1B1"], energy_model=MODEL)
    assert len(found.entries) == 5


def test_ours_is_read_and_no_class_of_a_file_is_loaded(tmp_path):
    known = convex_hull.build_hull([("Cu1Au1", -0.1, "a"), ("Cu1Ni1", 0.1, "b")], MODEL)
    path = write_json(tmp_path / "hull.json", convex_hull.to_dict(known))
    found = hull_entries.read_entries(path)
    assert found.entries == known.entries and found.energy_model == MODEL
    text = json.dumps([{"@module": "nowhere.to.be.found", "@class": "Entry"}])
    path = write_csv(tmp_path / "odd.json", text)
    with pytest.raises(ValueError, match="no 'composition'"):
        hull_entries.read_entries(path, energy_model=MODEL)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([{"composition": {"Cu": 1}, "energy": None}], "has the energy None"),
        ([{"composition": {}, "energy": 0}], "no atom"),
        ([{"composition": {"Cu": -1}, "energy": 0}], "composition"),
        ([{"composition": {"Cu": 1}, "energy": 0, "energy_adjustments": [1]}], "sum"),
        ([3], "is a int"),
        ([{"formula": "Cu1", "formation_energy": "x"}], "has the energy 'x'"),
        (
            [
                {"formula": "Cu1", "formation_energy": 0},
                {"composition": {"Cu": 1}, "energy": 0},
            ],
            "mixes",
        ),
    ],
)
def test_bad_json_is_refused(tmp_path, value, message):
    path = write_json(tmp_path / "entries.json", value)
    with pytest.raises(ValueError, match=message):
        hull_entries.read_entries(path, energy_model=MODEL)


@pytest.mark.parametrize(
    "formula", ["CuSO4.5H2O", "CuSO4·5H2O", "CuSO4*5H2O", "CuSO4(H2O)5", "Cu1S1O9H10"]
)
def test_hydrates_are_read_as_what_they_are(tmp_path, formula):
    path = write_csv(tmp_path / "known.csv", f"formula,energy\n{formula},-2\n")
    known = convex_hull.load_hull(path, energy_model=MODEL)
    above = convex_hull.energy_above_hull(known, ["CuSO4(H2O)5"], [-2.0], MODEL)
    assert above[0] == pytest.approx(0, abs=1e-9)
    assert known.entries[0].composition.get_el_amt_dict() == {
        **{"Cu": 1, "S": 1, "O": 9, "H": 10}
    }


def test_columns_that_say_how_an_energy_was_computed(tmp_path):
    text = "formula,energy,run_type,id\nCu1Au1,-0.1,GGA,a\nCu3Au1,0.0,R2SCAN,b\n"
    path = write_csv(tmp_path / "known.csv", text)
    with pytest.raises(ValueError, match=r"'a' has 'GGA'; 'b' has 'R2SCAN'"):
        hull_entries.read_entries(path, energy_model=MODEL)
    path = write_csv(tmp_path / "known.csv", text.replace("R2SCAN", "GGA"))
    assert hull_entries.read_entries(path, energy_model=MODEL).energy_model == MODEL


def iron(formula, energy, name, *, u=0.0, corrections=(), **parameters):
    """An entry as the Materials Project has it."""
    hubbards = {"Fe": u, "O": 0.0} if u else {}
    parameters = {
        "run_type": "GGA+U" if u else "GGA",
        "hubbards": hubbards,
        "is_hubbard": bool(u),
    } | parameters
    entry = ComputedEntry(formula, energy, entry_id=name, parameters=parameters)
    entry.energy_adjustments = [
        ConstantEnergyAdjustment(-1.0, name=title, cls={"@class": made_by})
        for title, made_by in corrections
    ]
    return entry


MP2020 = "MaterialsProject2020Compatibility"
OXIDE = ("MP2020 anion correction (oxide)", MP2020)
MIXING = ("MP2020 GGA/GGA+U mixing correction (Fe)", MP2020)
OLD = ("MP Anion Correction", "MaterialsProjectCompatibility")
METAL = iron("Fe", -8.3, "Fe")
OXYGEN = iron("O2", -9.8, "O2")


@pytest.mark.parametrize(
    ("entries", "names"),
    [
        # The functional, from the parameters, the data or the id.
        (
            [iron("Fe2O3", -40, "x", run_type="R2SCAN")],
            ("'Fe' has GGA", "'x' has R2SCAN"),
        ),
        (
            [iron("Fe2O3", -40, "x", run_type="r2SCAN")],
            ("'Fe' has GGA", "'x' has R2SCAN"),
        ),
        ([iron("Fe2O3", -40, "x", run_type="HSE06")], ("GGA", "'x' has HSE06")),
        ([iron("Fe2O3", -40, "x", run_type="LDA")], ("GGA", "'x' has LDA")),
        ([iron("Fe2O3", -40, "mp-5-R2SCAN", run_type=None)], ("GGA", "R2SCAN")),
        ([iron("Fe2O3", -40, "x", run_type=None)], ("GGA", "'x' does not say")),
        # +U.
        ([iron("Fe2O3", -40, "x", u=5.3)], ("'Fe' has no U", "'x' has U = 5.3 eV")),
        (
            [iron("FeO", -14, "y", u=4), iron("Fe2O3", -40, "x", u=5.3)],
            ("'y' has U = 4 eV", "'x' has U = 5.3 eV"),
        ),
        (
            [
                iron("FeO", -14, "y", u=4, corrections=[OXIDE, MIXING]),
                iron("Fe2O3", -40, "x", u=5.3, corrections=[OXIDE, MIXING]),
            ],
            ("'y' has U = 4 eV", "'x' has U = 5.3 eV"),
        ),
        (
            [iron("Fe2O3", -40, "x", run_type="GGA+U", is_hubbard=True)],
            ("'Fe' has no U", "'x' has an unknown U"),
        ),
        # Corrections.
        (
            [
                iron("FeO", -14, "y", corrections=[OLD]),
                iron("Fe2O3", -40, "x", corrections=[OXIDE]),
            ],
            ("'y' has MaterialsProjectCompatibility", f"'x' has {MP2020}"),
        ),
        (
            [iron("FeO", -14, "y"), iron("Fe2O3", -40, "x", corrections=[OXIDE])],
            ("compounds of O", f"'x' has {MP2020}", "'y' has none"),
        ),
    ],
)
def test_energies_that_do_not_belong_together_are_refused(tmp_path, entries, names):
    path = write_json(tmp_path / "entries.json", [METAL, OXYGEN, *entries])
    with pytest.raises(ValueError, match="one hull has one") as error:
        hull_entries.read_entries(path, energy_model=MODEL)
    for name in names:
        assert name in str(error.value)


@pytest.mark.parametrize(
    "entries",
    [
        [METAL, OXYGEN, iron("Fe2O3", -40, "x")],
        [METAL, OXYGEN, iron("Fe2O3", -40, "x", run_type="PBE")],
        # As the Materials Project mixes them.
        [
            METAL,
            OXYGEN,
            iron("Fe2O3", -40, "x", u=5.3, corrections=[OXIDE, MIXING]),
            iron("Li2O", -14, "y", corrections=[OXIDE]),
            iron("Li", -2, "Li"),
            iron("FeLi", -9, "z"),
        ],
        # One U throughout; oxygen has none.
        [iron("Fe", -7, "Fe", u=4), OXYGEN, iron("FeO", -14, "x", u=4)],
        # Nobody says anything.
        [PDEntry("Fe", -8.3), PDEntry("O2", -9.8), PDEntry("FeO", -14)],
    ],
)
def test_energies_that_belong_together_are_read(tmp_path, entries):
    path = write_json(tmp_path / "entries.json", entries)
    found = hull_entries.read_entries(path, energy_model=MODEL)
    assert len(found.entries) == len(entries)


def test_other_functionals_elsewhere_are_no_matter(tmp_path):
    others = [iron("W", -12, "W", run_type="R2SCAN")]
    path = write_json(tmp_path / "entries.json", [METAL, OXYGEN, *others])
    found = hull_entries.read_entries(path, ["FeO"], energy_model=MODEL)
    assert [entry.id for entry in found.entries] == ["Fe", "O2"]


def test_composition_is_that_of_the_structure(tmp_path):
    entry = computed_entries()[3].as_dict()
    others = [each.as_dict() for each in computed_entries()[:3]]
    for amounts in ({"Ta": 1, "B": 2}, {"Ta": 1, "W": 1}):
        changed = entry | {"composition": amounts}
        path = write_json(tmp_path / "entries.json", [*others, changed])
        with pytest.raises(ValueError, match=r"'mp-TaB'.* but its structure is B1Ta1"):
            hull_entries.read_entries(path, energy_model=MODEL)
    # Of a formula unit, or of two.
    changed = entry | {"composition": {"Ta": 2, "B": 2}, "energy": -40.2}
    path = write_json(tmp_path / "entries.json", [*others, changed])
    found = hull_entries.read_entries(path, energy_model=MODEL)
    expected = hull_entries.read_entries(
        write_json(tmp_path / "same.json", [*others, entry]), energy_model=MODEL
    )
    assert energies(found) == pytest.approx(energies(expected))


@pytest.mark.parametrize(
    "amounts",
    [
        {"Cu": float("nan")},
        {"Cu": float("inf")},
        {"Cu": "one"},
        {"Cu": True},
        {"Cu": 1, "X": 1},
        {"Cu": 1, "Qq": 1},
        "NaN",
        "CuX",
    ],
)
def test_compositions_that_are_none_are_refused_by_name(tmp_path, amounts):
    item = {"composition": amounts, "energy": -1.0, "entry_id": "mine"}
    path = write_json(tmp_path / "entries.json", [item])
    with pytest.raises(ValueError, match="'mine' has the composition"):
        hull_entries.read_entries(path, energy_model=MODEL)


def test_truncated_json_is_refused(tmp_path):
    path = tmp_path / "entries.json"
    text = json.dumps([entry.as_dict() for entry in computed_entries()])
    path.write_text(text[:-40])
    with pytest.raises(ValueError, match="damaged or ends early"):
        hull_entries.read_entries(str(path), energy_model=MODEL)


# ------------------------------------------------------------- data sets and services


def test_builtin_alloys_are_a_hull():
    found = convex_hull.load_hull("builtin", ["Cu3Au1"])
    assert found.energy_model == "ASE EMT"
    systems = {entry.composition.chemical_system for entry in found.entries}
    assert systems == {"Au-Cu"} and len(found.entries) > 20
    lowest = min(found.entries, key=lambda entry: entry.formation_energy)
    above = convex_hull.energy_above_hull(
        found, [lowest.composition.formula], [lowest.formation_energy], "ASE EMT"
    )
    assert above == pytest.approx([0.0], abs=1e-9)
    # No entry of these elements; whose energies they would be is known all the same.
    assert convex_hull.load_hull("builtin", ["Fe1W1"]).energy_model == "ASE EMT"


def test_dataset_is_a_hull(tmp_path):
    path = tmp_path / "alloys"
    formulas = ["Cu3Au1", "Cu1Au1", "Ni1Pt3", "Cu2"]
    crystals = [
        structure.Crystal(
            numbers := elements.formula_atomic_numbers(formula),
            np.arange(3 * len(numbers)).reshape(-1, 3) / 13,
            np.diag([4.0, 5.0, 6.0]),
        )
        for formula in formulas
    ]
    infos = [{"name": f"n{i}", "e": -0.1 * i} for i in range(len(formulas))]
    structure_files.write_extxyz(tmp_path / "alloys.extxyz", crystals, infos)
    prepare.prepare(
        prepare.PrepareOptions(
            source="extxyz",
            input=str(tmp_path / "alloys.extxyz"),
            energy_column="e",
            energy_model="ASE EMT",
            output=path,
            figures=False,
            num_workers=1,
        )
    )
    dataset = datasets.open_dataset(path)
    found = convex_hull.load_hull(f"dataset:{path}")
    assert found.energy_model == dataset.info["energy_model"] == "ASE EMT"
    expected = dict(zip(dataset.id.to_pylist(), dataset.formation_energy, strict=True))
    assert energies(found) == pytest.approx(expected)
    formula = "Au5Cu2"
    some = convex_hull.load_hull(f"dataset:{path}", [formula])
    assert len(some.entries) == 3 < len(found.entries)
    np.testing.assert_array_equal(
        convex_hull.energy_above_hull(some, [formula], [0.0], "ASE EMT"),
        convex_hull.energy_above_hull(found, [formula], [0.0], "ASE EMT"),
    )
    with pytest.raises(FileNotFoundError, match="no data set"):
        convex_hull.load_hull(f"dataset:{tmp_path / 'none'}")


@pytest.fixture
def aflow_server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    systems = [("Ta",), ("W",), ("B",), ("Ta", "W"), ("B", "W"), ("B", "Ta", "W")]
    entries = [
        make_entry(number, species) for number, species in enumerate(systems * 2)
    ]
    entries.append(make_entry(90, ("Ta", "W"), dft_type=["PAW_LDA"]))
    entries.append(make_entry(91, ("Ta", "W"), geometry=[1, 2, 3]))
    entries.append(make_entry(92, ("Cu", "W")))
    with AfluxServer(entries) as server:
        yield server


def read_aflow(server, spec, formulas, cache):
    manners = pages.Manners(**MANNERS)
    return hull_entries.read_entries(
        spec, formulas, cache=cache, server=server.server, manners=manners
    )


def test_aflow_is_asked_for_a_system_once(tmp_path, aflow_server):
    found = read_aflow(aflow_server, "aflow:W-Ta-B", (), tmp_path)
    assert len(found.entries) == 12
    assert found.energy_model == "AFLOW (PBE)"
    (left_out,) = found.left_out
    assert left_out.startswith("1 of AFLOW's entries: crystal not readable")
    num_requests = len(aflow_server.paths)
    # From the cache, and in whatever order the elements come.
    again = read_aflow(aflow_server, "aflow:B-Ta-W", ["Ta2W3"], tmp_path)
    assert len(aflow_server.paths) == num_requests
    assert {str(e.composition.chemical_system) for e in again.entries} == {
        "Ta",
        "W",
        "Ta-W",
    }
    # Ta1W4, twice, at -0.003 and -0.009 eV/atom.
    lowest = min(e.formation_energy for e in again.entries if len(e.composition) == 2)
    assert lowest == pytest.approx(-0.009)


def test_aflow_takes_the_systems_of_the_formulas(tmp_path, aflow_server):
    found = read_aflow(aflow_server, "aflow", ["Ta1W1", "B2W1", "Ta5W2"], tmp_path)
    systems = {entry.composition.chemical_system for entry in found.entries}
    assert systems == {"B", "Ta", "W", "B-W", "Ta-W"}
    ids = [entry.id for entry in found.entries]
    assert len(ids) == len(set(ids)) == 10
    with pytest.raises(ValueError, match="aflow:B-Ta-W"):
        read_aflow(aflow_server, "aflow", (), tmp_path)
    with pytest.raises(ValueError, match="unknown element 'Tungsten'"):
        read_aflow(aflow_server, "aflow:Tungsten-B", (), tmp_path)


def test_unknown_hulls_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown hull 'mp'; expected"):
        convex_hull.load_hull("mp")
    with pytest.raises(FileNotFoundError, match="no hull file"):
        convex_hull.load_hull(str(tmp_path / "none.csv"))
