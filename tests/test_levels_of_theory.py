"""Energies of two functionals make neither a hull nor a data set."""

import csv
import json

import ase.db
import ase.io
import numpy as np
import pytest

from crystaljax import prepare
from crystaljax.crystals import bridge, structure, structure_files
from crystaljax.data.sources import levels_of_theory
from crystaljax.hull import entries as hull_entries

CU3AU = structure.Crystal(
    np.array([79, 29, 29, 29]),
    np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]),
    3.7 * np.eye(3),
)
GGA, R2SCAN = "GGA Structure Optimization", "r2SCAN Structure Optimization"


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"task_type": R2SCAN}, ["R2SCAN"]),
        ({"calc_type": "GGA+U Static"}, ["GGA+U"]),
        ({"task_type": "PBE NSCF Line"}, ["GGA"]),
        ({"task_type": "PBEsol+U NMR Nuclear Shielding"}, ["PBESOL+U"]),
        ({"task_type": "optFOO-vdW Static"}, ["OPTFOO-VDW"]),
        ({"task_type": "Structure Optimization"}, []),
        ({"task_type": "double relax"}, []),
        ({"task_type": ["a"]}, []),
        # The run type says more of U than the task.
        ({"run_type": "GGA+U", "task_type": GGA}, ["GGA+U"]),
        ({"run_type": "GGA", "task_type": R2SCAN}, ["GGA", "R2SCAN"]),
    ],
)
def test_run_types_of_tasks(said, found):
    assert levels_of_theory.read_run_types(said) == found


def test_tags_of_vasp():
    bare = levels_of_theory.read_words({"incar": {"ENCUT": 520, "GGA": "--"}})
    assert bare == levels_of_theory.read_words({"incar": {"GGA": "PE"}})
    for tags in ({"METAGGA": "R2scan"}, {"GGA": "PS"}, {"LHFCALC": True}):
        assert levels_of_theory.read_words({"incar": tags}) != bare
    hybrid = levels_of_theory.read_words({"incar": {"LHFCALC": ".TRUE."}})
    assert hybrid == levels_of_theory.read_words({"incar": {"LHFCALC": True}})
    assert levels_of_theory.read_words({"incar": {}}) == {}


@pytest.mark.parametrize(
    ("one", "other", "match"),
    [
        ({"data": {"task_type": GGA}}, {"data": {"task_type": R2SCAN}}, "functionals"),
        ({"data": {"calc_type": GGA}}, {"task_type": R2SCAN}, "functionals"),
        ({"parameters": {"run_type": "GGA"}}, {"task_type": R2SCAN}, "functionals"),
        (
            {"parameters": {"incar": {"ENCUT": 520}}},
            {"parameters": {"incar": {"ENCUT": 680, "METAGGA": "R2scan"}}},
            "METAGGA",
        ),
        ({"data": {"functional": "PBE"}}, {"data": {"functional": "SCAN"}}, "hull has"),
        ({"data": {"dft_type": ["PAW_PBE"]}}, {"dft_type": ["PAW_LDA"]}, "hull has"),
        (
            {"parameters": {"calculator": "a"}},
            {"data": {"calculator": "b"}},
            "hull has",
        ),
        (
            {"parameters": {"potcar_symbols": ["PBE Cu", "PBE Au"]}},
            {"parameters": {"potcar_symbols": ["LDA Cu", "LDA Au"]}},
            "hull has",
        ),
        (
            {"parameters": {"pseudo_potential": {"functional": "PBE"}}},
            {"parameters": {"potcar_spec": [{"titel": "PAW Cu 05Jan2001"}]}},
            "hull has",
        ),
        ({"functional": "pbe"}, {"parameters": {"functional": "PBE"}}, None),
        ({"data": {"thermo_type": "R2SCAN"}}, {}, None),
        (
            {"parameters": {"potcar_spec": [{"titel": "PAW_PBE Cu 05Jan2001"}]}},
            {"parameters": {"potcar_symbols": ["PBE Cu"]}},
            None,
        ),
        ({"task_type": GGA}, {"task_type": "GGA Static"}, None),
        ({"task_type": GGA}, {"parameters": {"run_type": "PBE"}}, None),
    ],
)
def test_hulls(tmp_path, one, other, match):
    entries = []
    for changes, shift in ((one, 0), (other, -9)):
        for formula, energy in (("Cu", -4), ("Au", -3), ("Cu3Au", -15.5)):
            made = {"composition": formula, "energy": energy + shift}
            entries.append(made | {"entry_id": f"e{len(entries)}"} | changes)
    path = tmp_path / "x.json"
    path.write_text(json.dumps(entries))
    if match is None:
        assert len(hull_entries.read_entries(str(path), energy_model="x").entries) == 6
        return
    with pytest.raises(ValueError, match=f"{match}.*split the file"):
        hull_entries.read_entries(str(path), energy_model="x")


def test_hulls_of_formation_energies(tmp_path):
    entries = [
        {"formula": "CuAu", "formation_energy": -0.1, "id": "a", "task_type": GGA},
        {"formula": "Cu3Au", "formation_energy": -0.2, "id": "b", "task_type": R2SCAN},
    ]
    path = tmp_path / "x.json"
    path.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=r"'a' has GGA; 'b' has R2SCAN"):
        hull_entries.read_entries(str(path), energy_model="x")
    for column in ("task_type", "xc", "thermo_type", "functional"):
        path = tmp_path / "x.csv"
        head = f"id,formula,formation_energy,run_type,{column}\n"
        rows = f"a,CuAu,-0.1,,{GGA}\nb,Cu3Au,-0.2,,{R2SCAN}\n"
        path.write_text(head + rows)
        with pytest.raises(ValueError, match="2 energy models"):
            hull_entries.read_entries(str(path), energy_model="x")
        path.write_text(head + rows.replace(R2SCAN, GGA))
        assert len(hull_entries.read_entries(str(path), energy_model="x").entries) == 2


def write_entries(folder, key, values):
    made = bridge.to_pymatgen(CU3AU).as_dict()
    data = [{"mat_id": each, "e_form": -0.1, key: each} for each in values]
    entries = [{"structure": made, "data": each} for each in data]
    text = json.dumps({"entries": entries}, default=float)
    (folder / "x.json").write_text(text)
    return ["--source=entries_json", f"--input={folder / 'x.json'}"]


def write_csv(folder, key, values):
    text = structure_files.cif_text(CU3AU, "x")
    with (folder / "x.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["material_id", "cif", "e", key])
        rows.writerows([each, text, -0.1, each] for each in values)
    return ["--source=cif_csv", f"--input={folder / 'x.csv'}", "--energy_column=e"]


def write_extxyz(folder, key, values):
    infos = [{"id": each, "e": -0.1, key: each} for each in values]
    structure_files.write_extxyz(folder / "x.extxyz", [CU3AU] * len(infos), infos)
    return ["--source=extxyz", f"--input={folder / 'x.extxyz'}", "--energy_column=e"]


def write_database(folder, key, values):
    with ase.db.connect(folder / "x.db") as database:
        for each in values:
            database.write(bridge.to_ase(CU3AU), data={"e": -0.1, key: each})
    return ["--source=ase_db", f"--input={folder / 'x.db'}", "--energy_column=e"]


def write_folder(folder, key, values):
    (folder / "cifs").mkdir()
    rows = [f"material_id,e,{key}\n"]
    for number, each in enumerate(values):
        text = structure_files.cif_text(CU3AU, "x")
        (folder / "cifs" / f"{number}.cif").write_text(text)
        rows.append(f"{number},-0.1,{each}\n")
    (folder / "labels.csv").write_text("".join(rows))
    flags = ["--source=folder", f"--input={folder / 'cifs'}", "--energy_column=e"]
    return [*flags, f"--labels={folder / 'labels.csv'}"]


@pytest.mark.parametrize("key", ["task_type", "functional"])
@pytest.mark.parametrize(
    "write", [write_entries, write_csv, write_extxyz, write_database, write_folder]
)
def test_data_sets(tmp_path, write, key):
    flags = write(tmp_path, key, [GGA, R2SCAN])
    flags = [*flags, "--num_workers=1", "--nofigures", f"--output={tmp_path / 'out'}"]
    for _ in range(2):
        # The second one goes on after the rows that the first has read.
        with pytest.raises(SystemExit) as raised:
            prepare.main(flags)
        assert "2 kinds by their" in str(raised.value)
        assert "split the input" in str(raised.value)
    assert not (tmp_path / "out").exists()
