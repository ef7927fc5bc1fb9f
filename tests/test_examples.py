"""The scripts of examples/, as users run them."""

import importlib.util
import pathlib

import numpy as np
import pandas as pd
import pytest
import tiny

from crystaljax import screen
from crystaljax.crystals import elements, structure, structure_files
from crystaljax.data import dataset as datasets
from crystaljax.data import figures
from crystaljax.data.sources import emt
from crystaljax.system import workers

pytestmark = pytest.mark.usefixtures("forked_workers")

EXAMPLES = tiny.ROOT / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty current directory; a process that has to start takes longer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers, "default_num_workers", lambda: 1)


def test_every_example_is_tested():
    tested = {"formula_to_vasp", "own_data", "read_screening"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


def test_from_a_formula_to_inputs_for_vasp(capsys):
    asked = ["--formulas=Cu3Au", "--num_samples=2"]
    hull = ["--calculator=emt", "--hull=builtin"]
    manifest = load("formula_to_vasp").main([*asked, *hull, "--output=made"])
    assert "2 of 2 crystals are candidates" in capsys.readouterr().out
    assert manifest["kind"] == ["candidate"] * 2 + ["reference"] * 2
    assert not any(manifest["problem"])
    for folder in manifest["folder"]:
        assert "ENCUT = 500" in pathlib.Path("made/dft", folder, "INCAR").read_text()
        assert pathlib.Path("made/dft", folder, "POSCAR").stat().st_size > 100
    # L1_2 and D0_22 are known, and 13 meV/atom apart or less by EMT.
    assert max(manifest["relaxed_energy_above_hull"][:2]) < 0.02


def test_own_data_in_a_few_lines(monkeypatch):
    # As test_prepare and test_report draw them.
    monkeypatch.setattr(figures, "draw", lambda *_: [])
    tiny.write_dataset(pathlib.Path("crystals"))
    dataset = datasets.open_dataset("crystals")
    crystals = [datasets.crystal(dataset, i) for i in range(24)]
    names = [f"crystal-{i}" for i in range(24)]
    structure_files.write_cifs(pathlib.Path("cifs"), crystals, names)
    energies = {
        "material_id": names,
        "formation_energy_per_atom": dataset.formation_energy[:24].tolist(),
    }
    pd.DataFrame(energies).to_csv("energies.csv", index=False)

    flags = tiny.flags("ddim", "", evaluation__num_structures=2)
    flags = [flag for flag in flags if not flag.startswith("--config.data.path")]
    load("own_data").main("cifs", "energies.csv", "Cu3Au1", *flags)

    made = datasets.open_dataset("outputs/own_data/data")
    assert set(made.id.to_pylist()) == {f"{name}.cif" for name in names}
    table = pd.read_csv("outputs/own_data/new/samples.csv")
    assert table["formula"].tolist() == ["Au1Cu3"] * 4


@pytest.fixture
def screening(tmp_path):
    """Four alloys, two of one composition, and one that is no crystal."""
    records = [r for r in emt.load_builtin() if r.crystal.num_sites == 2][:4]
    crystals = [record.crystal for record in records]
    crystals.append(
        structure.Crystal(
            crystals[0].atomic_numbers,
            np.zeros_like(crystals[0].frac_coords),
            crystals[0].lattice,
        )
    )
    infos = [
        {
            "name": f"c{i}",
            "formula": elements.cell_formula(crystal.atomic_numbers.astype(int)),
            "space_group": records[i % 4].space_group,
            "formation_energy": records[i % 4].formation_energy,
        }
        for i, crystal in enumerate(crystals)
    ]
    structure_files.write_extxyz(tmp_path / "samples.extxyz", crystals, infos)
    screen.screen(
        screen.ScreenOptions(
            samples="samples.extxyz",
            calculator="emt",
            hull="builtin",
            known="none",
            output="screening",
            report=False,
        )
    )
    return tmp_path / "screening"


def test_a_screening_is_read_with_pandas(screening, capsys):
    reading = load("read_screening")
    reading.main(str(screening))
    printed = capsys.readouterr().out
    assert "validity" in printed and "space group kept by 100%" in printed
    table = reading.read(screening)
    assert (table["stage"] == "ranked").sum() == 4
    best = pd.read_csv(screening / "best.csv")
    assert best["reduced_formula"].is_unique
    # The lowest of its composition, and as near to the request as EMT is to itself.
    for _, row in best.iterrows():
        same = table[table["reduced_formula"] == row["reduced_formula"]]
        lowest = same["relaxed_formation_energy"].min()
        assert row["relaxed_formation_energy"] == pytest.approx(lowest)
        assert abs(row["energy_off"]) < 1e-3
