"""One place for the names of a screening's columns; what had others is still read."""

import json
import pathlib
import re

import numpy as np
import pyarrow.parquet
import pytest

from crystaljax.crystals import structure, structure_files
from crystaljax.dft import handover
from crystaljax.screening import columns, html_report
from crystaljax.screening.report import contents

DOCS = pathlib.Path(__file__).parents[1] / "docs" / "screening_columns.md"
# A table as it was written before columns said what they are of.
BEFORE = {
    "name": ["a", "b", "c"],
    "formula": ["Cu3Au1", "Cu1Au1", "Cu1"],
    "space_group": [221, 123, 225],
    "formation_energy": [-0.05, -0.06, 0.0],
    "valid": [True, True, False],
    "shortest_distance": [2.5, 2.6, 0.3],
    "shortest_distance_ratio": [0.9, 1.0, 0.1],
    "volume_per_atom": [14.0, 14.5, 3.0],
    "space_group_found_0.1": [221, 1, 0],
    "space_group_found_0.01": [1, 1, 0],
    "space_group_found_0.001": [1, 1, 0],
    "duplicate_of": ["", "", ""],
    "known_as": ["known-7", "", ""],
    "relaxation_method": ["ase", "ase", ""],
    "relaxation_converged": [True, True, False],
    "relaxation_steps": [5, 6, 0],
    "max_force": [0.01, 0.02, float("nan")],
    "relaxation_seconds": [0.1, 0.2, float("nan")],
    "formation_energy_relaxed": [-0.04, -0.05, float("nan")],
    "energy_model_relaxed": ["ASE EMT"] * 3,
    "energy_above_hull": [0.3, 0.0, float("nan")],
    "space_group_relaxed_0.1": [221, 123, 0],
    "space_group_relaxed_0.01": [221, 123, 0],
    "fell_out_at": ["", "", "validity"],
    "fell_out": ["", "", "two atoms are 0.3 Å apart"],
    "rank": [2, 1, 0],
}


@pytest.fixture
def before(tmp_path):
    """The folder of a screening of an earlier release, with its two candidates."""
    folder = tmp_path / "screening"
    for suffix in ("csv", "parquet"):
        structure_files.write_table(folder / f"screening.{suffix}", BEFORE)
    numbers = {"a": [79, 29, 29, 29], "b": [29, 79]}
    fcc = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    best = [BEFORE["rank"].index(rank) for rank in (1, 2)]
    crystals = [
        structure.Crystal(
            np.array(numbers[name]), fcc[: len(numbers[name])], 3.8 * np.eye(3)
        )
        for name in (BEFORE["name"][row] for row in best)
    ]
    infos = [
        {key.replace(".", "_"): values[row] for key, values in BEFORE.items()}
        for row in best
    ]
    structure_files.write_extxyz(folder / "candidates.extxyz", crystals, infos)
    summary = {"energy_model": "ASE EMT", "request": {}, "counts": {"inputs": 3}}
    (folder / "screening.json").write_text(json.dumps(summary))
    return folder


def test_the_documentation_is_that_of_the_columns():
    assert DOCS.read_text("utf-8").endswith(columns.format_table())
    assert all(each.meaning and each.unit is not None for each in columns.ALL)
    assert len(set(columns.ALL)) == len(columns.ALL)


def test_every_former_column_has_a_present_one():
    renamed = columns.rename_former(BEFORE)
    assert list(renamed.values()) == list(BEFORE.values())
    assert set(renamed) <= set(columns.ALL)
    # What is named already stays, also beside the former name.
    assert columns.rename_former(renamed) == renamed
    both = {"fell_out": ["then"], "rejected_reason": ["now"], "seed": [1]}
    assert columns.rename_former(both) == {"rejected_reason": ["now"], "seed": [1]}


@pytest.mark.parametrize("with_table", [True, False])
def test_candidates_of_an_earlier_screening_are_exported(before, with_table):
    if not with_table:
        (before / "screening.parquet").unlink()
    items = handover.read_items(before)
    assert [item.name for item in items] == ["b", "a"]
    assert [item.row["relaxed_energy_above_hull"] for item in items] == [0.0, 0.3]
    assert items[1].row["relaxed_space_group_0.1"] == 221
    assert [item.name for item in handover.read_items(before, new_only=True)] == ["b"]
    (item,) = handover.read_items(before, max_above_hull=0.1)
    assert item.name == "b"


def test_a_manifest_of_an_earlier_export_is_read(tmp_path):
    fixed = {"folder": ["001_b"], "kind": ["candidate"], "problem": [""]}
    rows = {key: values[1:2] for key, values in BEFORE.items()}
    structure_files.write_table(tmp_path / "manifest.csv", fixed | rows)
    (handed,) = handover.read_manifest(tmp_path)
    assert handed.row["relaxed_formation_energy"] == -0.05
    assert handed.row["relaxed_energy_model"] == "ASE EMT"
    assert handed.row["requested_space_group"] == 123


def test_the_page_of_an_earlier_screening_is_that_of_its_table(before):
    table = pyarrow.parquet.read_table(before / "screening.parquet").to_pydict()
    now = contents.describe({}, columns.rename_former(table), {}, None)
    assert now["energies"]["count"] == 2
    assert now["space_groups"]["all"][-1] == [2, 2]
    assert now["reasons"] == [
        {"stage": "validity", "reason": "two atoms are 0.3 Å apart", "count": 1}
    ]
    page = html_report.write_report(before).read_text("utf-8")
    assert '"relaxed_energy_above_hull":[0.3,0.0,null]' in page
    assert '"energy_above_hull"' not in page and "fell_out" not in page


def test_the_page_gets_its_names_from_the_columns(before):
    described = contents.describe({}, columns.rename_former(BEFORE), {}, None)
    known = set(described["columns"])
    scripts = (pathlib.Path(html_report.__file__).parent / "report").glob("*.js")
    text = "\n".join(path.read_text("utf-8") for path in scripts)
    used = set(re.findall(r"\bCOLUMN\.([A-Z_]+)", text))
    assert used and used <= known
    # And none is spelled out.
    others = {"name", "rank", "formula", "valid", "input"}
    assert not [each for each in set(columns.ALL) - others if f'"{each}"' in text]
