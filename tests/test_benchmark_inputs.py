"""Files of samples, read as LeMat-GenBench, MatterGen and matbench-genmetrics do."""

import os
import pathlib
import runpy
import zipfile

import ase.io
import numpy as np
import pandas
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from crystaljax.crystals import bridge, structure
from crystaljax.sampling import conditions as conditions_lib
from crystaljax.sampling import samples as samples_lib

COORDS = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
CRYSTALS = [
    structure.Crystal(np.array([55, 17]), COORDS, 4.1 * np.eye(3)),
    # Triclinic, its volume negative: a left-handed description of a cell.
    structure.Crystal(
        np.array([11, 17]),
        COORDS + 0.1,
        np.array([[3.0, 0.2, 0.1], [0.3, -4.0, 0.5], [0.2, 0.4, 5.0]]),
    ),
    structure.Crystal(np.array([29, 79]), COORDS * np.nan, 3.0 * np.eye(3)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("samples")
    count = len(CRYSTALS)
    samples = samples_lib.Samples(
        crystals=CRYSTALS,
        conditions=conditions_lib.Conditions(
            np.array([each.atomic_numbers for each in CRYSTALS], np.uint8),
            np.full(count, 2, np.int32),
            np.full(count, 221, np.uint8),
            np.full(count, -0.5, np.float32),
        ),
        notes=[],
        provenance={"seed": 0},
    )
    left_out = samples_lib.write_samples(samples, path, table_cifs=True)
    assert len(left_out) == 1
    samples_lib.write_samples(samples, path / "zipped", cifs="zip")
    return path


def assert_same(read, left_out_at=2):
    """The same crystals in the same order, but for what no file can hold."""
    expected = [bridge.to_pymatgen(each) for each in CRYSTALS[:left_out_at]]
    assert len(read) == len(expected)
    matcher = StructureMatcher(primitive_cell=False, scale=False, stol=1e-4)
    for one, other in zip(read, expected, strict=True):
        assert matcher.fit(one, other)


def test_csv_is_read_by_lemat_genbench(folder):
    # load_structures_from_wycoff_csv: the first of three columns; empty cells are
    # skipped; what does not begin with a brace is a CIF. Rows with a false
    # structural_validity or smact_validity would be skipped.
    table = pandas.read_csv(folder / "samples.csv")
    columns = ("structure", "LeMatStructs", "cif_string")
    column = next(each for each in columns if each in table.columns)
    assert column == "cif_string" and "structural_validity" not in table.columns
    cells = [each for each in table[column] if not pandas.isna(each)]
    assert len(table) == 3 and not any(each.strip().startswith("{") for each in cells)
    assert_same([Structure.from_str(each, fmt="cif") for each in cells])


def test_folder_is_read_by_lemat_genbench(folder):
    # load_cif_files: all *.cif below the folder.
    paths = sorted((folder / "cifs").rglob("*.cif"))
    assert_same([Structure.from_file(str(path)) for path in paths])


def test_extxyz_and_zip_are_read_by_mattergen(folder, tmp_path):
    # load_structures: all frames of an extxyz; of a zip, the CIFs at its top.
    frames = ase.io.read(folder / "samples.extxyz", ":")
    assert_same([AseAtomsAdaptor.get_structure(each) for each in frames])
    with zipfile.ZipFile(folder / "zipped" / "cifs.zip") as archive:
        archive.extractall(tmp_path)
    names = sorted(each for each in os.listdir(tmp_path) if each.endswith(".cif"))
    assert_same([Structure.from_file(f"{tmp_path}/{name}") for name in names])


def test_crystals_are_structures_for_matbench_genmetrics(folder, tmp_path, monkeypatch):
    # GenMetrics takes lists of pymatgen structures; docs/benchmarks.md makes them so.
    page = pathlib.Path(__file__).parents[1] / "docs" / "benchmarks.md"
    text = page.read_text("utf-8")
    script = text.split("```python\n")[1].split("```")[0]
    assert "samples.extxyz" in script
    monkeypatch.chdir(tmp_path)
    os.symlink(folder, "samples")
    pathlib.Path("from_the_page.py").write_text(script, "utf-8")
    assert_same(runpy.run_path("from_the_page.py")["structures"])


def test_cifs_are_in_the_table_only_if_asked_for(folder):
    assert "cif_string" not in pandas.read_csv(folder / "zipped" / "samples.csv")
    table = pandas.read_parquet(folder / "samples.parquet")
    assert "cif_string" not in table and not table["written"].all()
