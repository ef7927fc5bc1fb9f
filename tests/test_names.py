"""Names are text from the file to the last table."""

import csv
import json
import os
import re
import zipfile

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pyarrow.parquet
import pytest

from crystaljax import export, screen
from crystaljax.crystals import inputs, names, structure, structure_files
from crystaljax.data.sources import extxyz, folder
from crystaljax.dft import handover
from crystaljax.screening import html_report
from crystaljax.screening import inputs as screening_inputs

# Python, NumPy, ASE, pyarrow or pandas take each of these for something else.
HOSTILE = [
    "1_23",
    "123",
    "00042",
    "42",
    "NaN",
    "nan",
    "NA",
    "null",
    "None",
    "InF",
    "inf",
    "7e2",
    "700.0",
    "1e5",
    "True",
    "T",
    "false",
    "[1, 2]",
    "{a}",
    "2024-01-02",
    "12:30",
    "0x10",
    "1,5",
    "a b",
    " a",
    "'q'",
    'say "x"',
    "back\\slash",
    "back\\",
    "a=b",
    "two\nlines",
    "tab\there",
    "_JSON [1]",
    "\N{GREEK SMALL LETTER ALPHA}-Fe",
    "<b>&amp;",
    "-",
    "",
    "123456789012345678901234567890",
]
METALS = (29, 47, 79, 28)


def alloy(first, second, a=3.8):
    """An alloy of L1_2's kind: one of the first element, three of the second."""
    coords = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    return structure.Crystal(
        np.array([first, second, second, second]), coords, a * np.eye(3)
    )


def crystals(number):
    """As many crystals that differ in their cells."""
    return [alloy(79, 29, 3.5 + i / 100) for i in range(number)]


@hypothesis.settings(deadline=None)
@hypothesis.given(st.lists(st.text(max_size=200), max_size=8))
def test_stems_are_safe_and_unique(texts):
    used = set()
    stems = [names.unique_stem(text, used) for text in texts]
    assert len({stem.lower() for stem in stems}) == len(texts)
    for stem in stems:
        assert stem.isascii()
        assert os.path.basename(stem) == stem
        assert not stem.startswith(".")
        assert len(stem) < 120


def test_stems_are_names_that_windows_has():
    stems = [names.unique_stem(text, set()) for text in ("CON", "nul.x", "CoN2")]
    assert stems == ["_CON", "_nul.x", "CoN2"]


@hypothesis.given(st.lists(st.sampled_from(["a", "a-2", "a-2-2", "b", ""])))
def test_unique_names_keep_what_is_unique_already(texts):
    unique = names.make_unique(texts)
    assert len(set(unique)) == len(texts)
    for text, name in zip(texts, unique, strict=True):
        assert re.fullmatch(re.escape(text) + r"(-\d+)*", name)
    assert names.make_unique(unique) == unique


def screening_folder(path, texts):
    """The folder of a screening whose crystals have these names."""
    num = len(texts)
    table = {
        "name": list(texts),
        "formula": ["Au1Cu3"] * num,
        "known_as": list(texts),
        "rank": list(range(1, num + 1)),
    }
    structure_files.write_table(path / "screening.parquet", table)
    infos = [{key: table[key][i] for key in table} for i in range(num)]
    structure_files.write_extxyz(path / "candidates.extxyz", crystals(num), infos)
    (path / "screening.json").write_text(json.dumps({"counts": {}}))
    return str(path)


def test_names_stay_themselves_from_the_screening_to_what_dft_gets(tmp_path):
    source = screening_folder(tmp_path / "screening", HOSTILE)
    output = tmp_path / "dft"
    manifest = export.export(
        export.ExportOptions(
            screening=source, output=str(output), format="cif", top=None
        )
    )
    assert manifest["name"] == HOSTILE
    assert manifest["known_as"] == HOSTILE
    assert not any(manifest["problem"])
    # Which file is whose.
    assert len(set(manifest["folder"])) == len(HOSTILE)
    for place, crystal in zip(manifest["folder"], crystals(99), strict=False):
        found = inputs.read_inputs(output / place)[0][0].crystal
        np.testing.assert_allclose(found.lattice, crystal.lattice, atol=1e-6)
    handed = handover.read_manifest(output)
    assert [each.row["name"] for each in handed] == HOSTILE
    assert [each.row["known_as"] for each in handed] == HOSTILE
    for each, crystal in zip(handed, crystals(99), strict=False):
        np.testing.assert_allclose(each.crystal.lattice, crystal.lattice, atol=1e-6)


def test_names_stay_themselves_in_the_report(tmp_path):
    path = html_report.write_report(screening_folder(tmp_path / "s", HOSTILE))
    page = path.read_text(encoding="utf-8")
    data = json.loads(
        re.search(r'<script[^>]*json"[^>]*>(.*?)</script>', page, re.S)[1]
    )
    assert data["table"]["name"] == HOSTILE
    assert len(data["structures"]) == len(HOSTILE)


@hypothesis.settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(st.lists(st.text(max_size=30), min_size=1, max_size=4, unique=True))
def test_any_text_is_read_back_from_every_table(tmp_path, texts):
    infos = [{"name": text, "known_as": text, "note": text} for text in texts]
    path = tmp_path / "x.extxyz"
    structure_files.write_extxyz(path, crystals(len(texts)), infos, overwrite=True)
    assert structure_files.read_extxyz(path)[1] == infos
    rows = screening_inputs.read_candidates(path)
    assert rows.names == texts
    assert rows.columns["known_as"] == rows.columns["note"] == texts
    source = extxyz.ExtXyz(str(path), id_key="note")
    assert [source.parse_row(row).id for row in source.read_rows()] == texts
    table = {"name": texts, "known_as": texts}
    for suffix in ("csv", "parquet"):
        structure_files.write_table(tmp_path / f"x.{suffix}", table, overwrite=True)
    read = pyarrow.parquet.read_table(tmp_path / "x.parquet")
    assert read.to_pydict() == table
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as file:
        # The csv module of Python 3.11 reads everything as text.
        assert [row["name"] for row in csv.DictReader(file)] == texts


def write_cif(path, crystal):
    path.write_text(structure_files.cif_text(crystal, "x"))


def test_as_generated_is_the_crystal_of_that_name(tmp_path):
    samples = tmp_path / "in"
    samples.mkdir()
    # 1_23 is 123 to Python.
    write_cif(samples / "1_23.cif", alloy(47, 79, 4.05))
    write_cif(samples / "123.cif", alloy(29, 28, 3.6))
    options = screen.ScreenOptions(
        samples=str(samples),
        calculator="emt",
        hull="none",
        output=str(tmp_path / "out"),
        known="none",
        max_steps=5,
        num_workers=1,
        relaxation="ase",
    )
    _, table = screen.screen(options)
    assert dict(zip(table["name"], table["formula"], strict=True)) == {
        "1_23": "Ag1Au3",
        "123": "Cu1Ni3",
    }
    assert dict(zip(table["name"], table["file"], strict=True)) == {
        "1_23": "1_23.cif",
        "123": "123.cif",
    }
    for name, place, formula in zip(
        table["name"], table["candidate_file"], table["formula"], strict=True
    ):
        (found,), _ = inputs.read_inputs(tmp_path / "out" / "candidates" / place)
        assert screening_inputs.formula(found.crystal) == formula, name
    for structures in ("relaxed", "as_generated"):
        manifest = export.export(
            export.ExportOptions(
                screening=str(tmp_path / "out"),
                output=str(tmp_path / structures),
                format="poscar",
                structures=structures,
            )
        )
        found = dict(zip(manifest["name"], manifest["formula"], strict=True))
        assert found == {"1_23": "Ag1Au3", "123": "Cu1Ni3"}
        ranks = {
            name: rank for name, rank in zip(table["name"], table["rank"], strict=True)
        }
        for name, place in zip(manifest["name"], manifest["folder"], strict=True):
            assert place.startswith(f"{ranks[name]:03d}_{name}")


def test_as_generated_refuses_samples_that_are_others_now(tmp_path):
    samples = tmp_path / "in"
    samples.mkdir()
    write_cif(samples / "a.cif", alloy(29, 28))
    path = tmp_path / "screening"
    screening_folder(path, ["a"])
    request = {"request": {"samples": str(samples)}}
    (path / "screening.json").write_text(json.dumps(request))
    (item,) = handover.read_items(path, structures="as_generated")
    assert "'a'" in item.problem and "Cu1Ni3" in item.problem
    assert not item.crystal.num_sites


def test_files_that_differ_in_their_suffix_are_two_crystals(tmp_path):
    write_cif(tmp_path / "a.cif", alloy(47, 79))
    (tmp_path / "a.vasp").write_text(structure_files.poscar_text(alloy(29, 28), "x"))
    rows = screening_inputs.read_candidates(tmp_path)
    assert rows.names == ["a", "a-2"]
    assert rows.files == ["a.cif", "a.vasp"]
    assert [each.name for each in inputs.read_inputs(tmp_path)[0]] == ["a", "a-2"]


def test_members_of_an_archive_that_share_a_name_are_two_crystals(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for place in ("one/007.cif", "two/007.cif"):
            archive.writestr(place, structure_files.cif_text(alloy(47, 79), "x"))
    rows = screening_inputs.read_candidates(path)
    assert rows.names == ["007", "007-2"]
    assert rows.files == ["one/007.cif", "two/007.cif"]


def test_names_that_are_not_unicode_are_written_out(tmp_path):
    write_cif(tmp_path / os.fsdecode(b"caf\xe9.cif"), alloy(47, 79))
    write_cif(tmp_path / os.fsdecode(b"caf\xe8.cif"), alloy(47, 79))
    rows = screening_inputs.read_candidates(tmp_path)
    assert rows.names == ["caf\\udce8", "caf\\udce9"]
    structure_files.write_table(tmp_path / "x.parquet", rows.table())


def test_labels_are_joined_by_text(tmp_path):
    for name in ("1_23.cif", "123.cif", "00123.cif", "1e2.cif", "100.cif"):
        write_cif(tmp_path / name, alloy(47, 79))
    table = tmp_path / "labels.csv"
    rows = ["123,-0.1", "1_23,-0.2", "00123,-0.3", "1e2,-0.4", "100,-0.5"]
    table.write_text("\n".join(["material_id,formation_energy_per_atom", *rows]))
    source = folder.Folder(str(tmp_path), str(table))
    found = [source.parse_row(row) for row in source.read_rows()]
    assert {each.id: each.formation_energy for each in found} == {
        "123.cif": -0.1,
        "1_23.cif": -0.2,
        "00123.cif": -0.3,
        "1e2.cif": -0.4,
        "100.cif": -0.5,
    }


def test_columns_of_text_are_written_as_they_were(tmp_path):
    """A value that looks like a number among texts is not made one on the way."""
    path = tmp_path / "x.extxyz"
    frame = (
        '1\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3 {}\nCu 0 0 0\n'
    )
    notes = ["7e2", "abc", "T", '"1 2"']
    path.write_text("".join(frame.format(f"note={note} count=2") for note in notes))
    rows = screening_inputs.read_candidates(path)
    assert rows.columns["note"] == ["7e2", "abc", "T", "1 2"]
    assert rows.columns["count"] == [2] * 4


@pytest.mark.parametrize("text", ["1_23", "007"])
def test_collect_reads_names_as_text(tmp_path, text):
    output = tmp_path / "dft"
    export.export(
        export.ExportOptions(
            screening=screening_folder(tmp_path / "s", [text]), output=str(output)
        )
    )
    (handed,) = handover.read_manifest(output)
    assert handed.row["name"] == text and handed.folder == f"001_{text}"
    assert handed.crystal is not None
