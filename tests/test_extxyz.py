import io

import ase.io
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from crystaljax.crystals import extxyz

LATTICE = 'Lattice="3 0 0 0 3.1 0 0.5 0 3.2"'
HEAD = f"{LATTICE} Properties=species:S:1:pos:R:3"


def frame(rest):
    return f"1\n{HEAD} {rest}\nCu 0 0 0\n"


@pytest.mark.parametrize(
    "written, text",
    [
        *((each, each) for each in ("1_23", "12_3", "00042", "NaN", "InF", "7e2")),
        *((each, each) for each in ("True", "T", "[1, 2]", "2024-01-02", "-", "1,2")),
        ('"a b"', "a b"),
        ("'a b'", "a b"),
        ('"12"', "12"),
        (r'"say \"x\""', 'say "x"'),
        (r"a\b", r"a\b"),
        ("don't", "don't"),
        ('"_JSON \\"1_23\\""', "1_23"),
        ('"_JSON [1, 2]"', "[1, 2]"),
        ("a=b", "a=b"),
    ],
)
def test_names_are_text(written, text):
    found = extxyz.parse_frame(frame(f"id={written} count=3"))
    assert found.texts["id"] == text
    assert found.atoms.info == {"id": text, "count": 3}
    other = extxyz.parse_frame(frame(f"mine={written} count=3"), text_keys=["mine"])
    assert other.atoms.info == {"mine": text, "count": 3}


@pytest.mark.parametrize(
    "written, value",
    [
        ("3", 3),
        ("-0.05", -0.05),
        ("1e-3", 1e-3),
        (".5", 0.5),
        ("T", True),
        ("false", False),
        # Written as no program writes a number.
        ("1_000", "1_000"),
        ("00042", "00042"),
        ("InF", "InF"),
        ("infinity", "infinity"),
        ("0x10", "0x10"),
        ("12345678901234567890", "12345678901234567890"),
        ('"_JSON {\\"a\\": 1}"', {"a": 1}),
    ],
)
def test_other_values_are_numbers_if_they_are_written_as_such(written, value):
    info = extxyz.parse_frame(frame(f"x={written}")).atoms.info
    assert info["x"] == value and type(info["x"]) is type(value)


def test_what_is_not_finite_and_lists_of_numbers():
    info = extxyz.parse_frame(
        frame('a=nan b=-inf c="1 2.5" d={1 2} e=[T, F]')
    ).atoms.info
    assert np.isnan(info["a"]) and info["b"] == -np.inf
    assert info["c"].tolist() == [1, 2.5]
    assert info["d"].tolist() == [1, 2] and info["e"].tolist() == [True, False]


def test_frames_are_what_ase_reads():
    text = frame('name=x energy=-1.5 pbc="T T T" flag z = 4')
    found = extxyz.parse_frame(text).atoms
    expected = ase.io.read(io.StringIO(text), format="extxyz")
    np.testing.assert_array_equal(found.cell, expected.cell)
    np.testing.assert_array_equal(found.positions, expected.positions)
    assert found.pbc.all() and found.info == expected.info
    assert found.calc.results == expected.calc.results


@hypothesis.settings(deadline=None, max_examples=300)
@hypothesis.given(st.text(max_size=40))
def test_any_text_is_read_back_by_this_module_and_by_ase(text):
    atoms = ase.Atoms("Cu", cell=np.eye(3), pbc=True)
    atoms.info = {"name": extxyz.format_text(text), "after": 1}
    file = io.StringIO()
    ase.io.write(file, atoms, format="extxyz")
    expected = {"name": text, "after": 1}
    assert extxyz.parse_frame(file.getvalue()).atoms.info == expected
    read = ase.io.read(io.StringIO(file.getvalue()), format="extxyz")
    assert read.info == expected


@pytest.mark.parametrize("text", ["AgAu3", "Au1Cu3 / 221", "x-00", "equals: a b"])
def test_plain_text_is_written_plainly(text):
    assert extxyz.format_text(text) == text


@pytest.mark.parametrize("written", ['id="a b', "id=[1, 2", 'id="_JSON [1"'])
def test_comment_that_is_cut_off_is_refused(written):
    with pytest.raises(ValueError, match="not readable as extxyz"):
        extxyz.parse_frame(frame(written))


def test_lattice_that_is_none():
    with pytest.raises(ValueError, match="expected nine numbers"):
        extxyz.parse_frame(frame("").replace("3.1", "3_1"))
