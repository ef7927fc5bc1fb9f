"""Files that end within their last number: 0.33 of 0.33333333 is a number too."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crystaljax.crystals import cif, extxyz, inputs, poscar, structure, structure_files
from crystaljax.data.readers import csv_rows
from crystaljax.data.sources import cif_csv, record
from crystaljax.data.sources import extxyz as extxyz_source
from crystaljax.hull import entries as hull_entries
from crystaljax.screening import inputs as screening_inputs
from crystaljax.system import cut_ends

CRYSTAL = structure.Crystal(
    np.array([11, 17, 17]),
    np.array([[0.1, 0.2, 0.3], [0.41234567, 0.5, 0.5], [0.75, 0.8, 0.87654321]]),
    5 * np.eye(3) + 0.1,
)


@pytest.mark.parametrize(
    ("last", "others", "is_cut"),
    [
        ("0.333", ["0.333333", "0.666667", "0.500000"], True),
        ("0.5", ["0.333333", "0.666667", "0.500000"], True),
        ("0", ["0.333333", "0.666667", "0.500000"], True),
        ("0.333333", ["0.333333", "0.666667", "0.500000"], False),
        ("0.", ["0.3", "0.7"], True),
        ("0.", ["0.", "1."], False),
        # As many digits as each needs.
        ("0.5", ["0", "0", "0", "0.25", "0.75"], False),
        ("0.5", ["0.25", "0.75"], False),
        ("0.5", ["0.25", "0.75"] * 3, True),
        ("-0.1", ["-0.1234567", "-0.123456", "-0.12345678"], True),
        ("-0.12345", ["-0.1234567", "-0.123456", "-0.12345678"], False),
        ("1.5e-0", ["1.5e-05", "2.5e-01"], True),
        ("1.5", ["1.5e-05", "2.5e-01"], True),
        ("1.5e-05", ["1.5e-05", "2.5e-01"], False),
        ("0.5", ["0.333333"], False),
        ("0.5", [], False),
        ("225", ["1", "12"], False),
        ("C", ["Na", "Cl"], True),
        ("C", ["C", "Cl"], False),
        ("C", ["Na", "O"], False),
    ],
)
def test_the_like_of_a_number_tell(last, others, is_cut):
    assert cut_ends.is_cut(last, others) == is_cut


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9), st.integers(1, 8))
def test_whole_numbers_of_one_format_are_never_cut(values, digits):
    *others, last = (f"{value:.{digits}f}" for value in values)
    assert not cut_ends.is_cut(last, others)


def write(folder, name):
    path = folder / name
    structure_files.write_extxyz(path, [CRYSTAL] * 2, [{"id": "a"}, {"id": "b"}])
    return path


READERS = {
    "x.vasp": (structure_files.poscar_text, poscar.parse_poscar),
    "x.cif": (structure_files.cif_text, cif.parse_cif),
}


@pytest.mark.parametrize("name", READERS)
def test_crystals_cut_anywhere_in_their_last_number(name):
    write_text, read = READERS[name]
    text = write_text(CRYSTAL, "x").rstrip("\n")
    if name == "x.vasp":
        # Without the species behind each site.
        text = re.sub(r"(\d) (Na|Cl)(?=\n|$)", r"\1", text)
    else:
        # Without the occupancies.
        text = text.replace("_atom_site_occupancy\n", "")
        text = re.sub(r"(\d) 1(?=\n|$)", r"\1", text)
    whole = read(text)
    assert sorted(whole.atomic_numbers) == [11, 17, 17]
    for end in range(1, 8):
        with pytest.raises(ValueError, match="seems to be cut off; end its last line"):
            read(text[:-end])
        # Another number, which only its author can know.
        np.testing.assert_allclose(
            read(text[:-end] + "\n").frac_coords, whole.frac_coords, atol=0.1
        )


def test_extxyz_cut_in_its_last_number(tmp_path):
    text = write(tmp_path, "x.extxyz").read_text().rstrip("\n")
    assert text.endswith("4.62537037")
    path = tmp_path / "cut.extxyz"
    for end in (0, 1, 5, 8):
        path.write_text(text[: len(text) - end])
        source = extxyz_source.ExtXyz(str(path))
        rows = [source.parse_row(row) for row in source.read_rows()]
        found, unreadable = inputs.read_inputs(path)
        candidates = screening_inputs.read_candidates(path)
        if not end:
            assert len(rows) == len(found) == len(candidates.crystals) == 2
            assert not any(isinstance(row, record.Failure) for row in rows)
            continue
        assert isinstance(rows[0], record.Record)
        assert "cut off" in rows[1].detail
        assert len(found) == 1 and "cut off" in unreadable[0].reason
        assert [bool(each) for each in candidates.problems] == [False, True]


@pytest.mark.parametrize("last", ["C", "Cl"])
def test_extxyz_cut_in_its_last_symbol(last):
    head = '3\nLattice="5 0 0 0 5 0 0 0 5" Properties=pos:R:3:species:S:1\n'
    text = f"{head}0 0 0 Na\n2 2 2 Cl\n1 2 3 {last}"
    if last == "Cl":
        assert extxyz.parse_frame(text).atoms.numbers.tolist() == [11, 17, 17]
        return
    with pytest.raises(ValueError, match="it ends with 'C', which is shorter"):
        extxyz.parse_frame(text)
    assert extxyz.parse_frame(text + "\n").atoms.numbers.tolist() == [11, 17, 6]


def test_files_of_other_hands_that_are_not_ended():
    poscar.parse_poscar("Mg\n1\n3 0 0\n0 3 0\n0 0 5\nMg\n2\nD\n0 0 0\n0.33 0.67 0.5")
    poscar.parse_poscar("Cu\n1\n2 2 0\n0 2 2\n2 0 2\nCu\n1\nD\n0.25 0.25 0.25 T T T")
    frame = '1\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3\nCu 0 0 0'
    assert len(extxyz.parse_frame(frame).atoms) == 1


def test_tables_cut_in_their_last_number(tmp_path):
    rows = [f"m-{i},{-0.1 * i:.6f}" for i in range(1, 9)]
    path = tmp_path / "x.csv"
    for text, reason in (
        ("\n".join(rows), None),
        ("\r\n".join(rows) + "\r\n", None),
        ("\n".join(rows)[:-3], record.CUT),
        ("\r\n".join(rows)[:-7], record.CUT),
        ("\n".join(rows)[:-3] + "\n", None),
        ('\n'.join(rows)[:-9] + '"-0.8"', None),
    ):  # fmt: skip
        path.write_text("id,e\n" + text, newline="")
        *found, last = csv_rows.read_rows(path, ["id", "e"])
        assert len(found) == 7
        assert getattr(last, "reason", None) == reason
    # Names are as long as they are.
    path.write_text("e,id\n" + "\n".join(f"1,mp-{i}" for i in (1234, 1256, 12)))
    assert len(list(csv_rows.read_rows(path, ["id", "e"]))) == 3


def test_a_label_that_is_cut_is_counted_and_a_hull_refused(tmp_path):
    text = json.dumps(structure_files.cif_text(CRYSTAL, "x"))[1:-1].replace("\\n", "\n")
    rows = [f'a{i},"{text}",{-0.25 - 0.01 * i:.5f}' for i in range(4)]
    path = tmp_path / "x.csv"
    path.write_text("\n".join(["material_id,cif,e", *rows])[:-3])
    source = cif_csv.CifCsv(str(path), energy_column="e")
    found = [source.parse_row(row) for row in source.read_rows()]
    assert [isinstance(each, record.Record) for each in found] == [True] * 3 + [False]
    assert found[3].reason == record.CUT and "row 4" in found[3].detail
    path.write_text("formula,formation_energy\nCuAu,-0.0512\nCu3Au,-0.0614\nCuAu3,-0.0")
    with pytest.raises(ValueError, match=r"row 3: '-0\.0' at its end is shorter"):
        hull_entries.read_entries(str(path), energy_model="x")
