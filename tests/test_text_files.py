"""Text of any encoding and with any line ends says the same everywhere."""

import codecs
import csv
import zipfile

import ase.io
import numpy as np
import pytest
from ase import Atoms

from crystaljax.crystals import inputs, structure_files
from crystaljax.data.readers import archives, csv_rows, json_items
from crystaljax.data.sources import extxyz
from crystaljax.relaxation import references
from crystaljax.screening import inputs as screening_inputs
from crystaljax.system import text_files

ENCODINGS = {
    "utf-8": lambda text: text.encode(),
    "utf-8 with mark": lambda text: text.encode("utf-8-sig"),
    "utf-16 LE with mark": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "utf-16 BE with mark": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "utf-16 LE": lambda text: text.encode("utf-16-le"),
    "utf-16 BE": lambda text: text.encode("utf-16-be"),
    "utf-32": lambda text: text.encode("utf-32"),
    "latin-1": lambda text: text.encode("latin-1"),
}
LINE_ENDS = ["\n", "\r\n", "\r"]
every_encoding = pytest.mark.parametrize("encoding", ENCODINGS)
every_line_end = pytest.mark.parametrize("line_end", LINE_ENDS)

CIF = """# Müller, Ångström
data_x
_cell_length_a 3.7
_cell_length_b 3.8
_cell_length_c 3.9
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Au1 Au 0 0 0
Cu1 Cu 0 0.5 0.5
"""
POSCAR = "Müller\n1.0\n3.7 0 0\n0 3.8 0\n0 0 3.9\nAu Cu\n1 1\nDirect\n0 0 0\n0 .5 .5\n"
EXTXYZ = (
    '2\nLattice="3.7 0 0 0 3.8 0 0 0 3.9" Properties=species:S:1:pos:R:3 id=Müller '
    'e=-0.5 pbc="T T T"\nAu 0 0 0\nCu 0 1.9 1.95\n'
)


def write(path, text, encoding, line_end):
    path.write_bytes(ENCODINGS[encoding](text.replace("\n", line_end)))


def assert_is_the_crystal(crystal):
    assert crystal.atomic_numbers.tolist() == [79, 29]
    np.testing.assert_allclose(np.diag(crystal.lattice), [3.7, 3.8, 3.9])
    np.testing.assert_allclose(crystal.frac_coords, [[0, 0, 0], [0, 0.5, 0.5]])


@every_encoding
@every_line_end
def test_crystal_files_say_the_same_in_every_command(encoding, line_end, tmp_path):
    write(tmp_path / "a.cif", CIF, encoding, line_end)
    write(tmp_path / "b.vasp", POSCAR, encoding, line_end)
    write(tmp_path / "c.extxyz", EXTXYZ, encoding, line_end)
    found, unreadable = inputs.read_inputs(tmp_path)
    assert not unreadable
    assert [each.path.name for each in found] == ["a.cif", "b.vasp", "c.extxyz"]
    for each in found:
        assert_is_the_crystal(each.crystal)
    candidates = screening_inputs.read_candidates(tmp_path)
    assert not any(candidates.problems)
    for crystal in candidates.crystals:
        assert_is_the_crystal(crystal)
    texts = dict(archives.read_texts(tmp_path, lambda name: "extxyz" not in name))
    assert texts == {"a.cif": CIF, "b.vasp": POSCAR}
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / "c.extxyz", "c.extxyz")
    for path in (tmp_path / "c.extxyz", tmp_path / "x.zip"):
        source = extxyz.ExtXyz(str(path), energy_key="e")
        (record,) = map(source.parse_row, source.read_rows())
        assert (record.id, record.formation_energy) == ("Müller", -0.5)
        assert_is_the_crystal(record.crystal)
    crystals, infos = structure_files.read_extxyz(tmp_path / "c.extxyz")
    assert_is_the_crystal(crystals[0])
    assert infos[0]["id"] == "Müller"


@every_encoding
@every_line_end
def test_tables_and_json_say_the_same(encoding, line_end, tmp_path):
    path = tmp_path / "a.csv"
    write(path, "id,e\nMüller,1\n", encoding, line_end)
    assert list(csv_rows.read_rows(path, ["e", "id"])) == [("1", "Müller")]
    write(path, "element,energy\nCu,-3.5\n", encoding, line_end)
    assert references.load_references(path).energies == {29: -3.5}
    path = tmp_path / "a.json"
    write(path, '[\n"Müller"\n]', encoding, line_end)
    assert list(json_items.read_items(path)) == [(None, '"Müller"')]


def test_every_byte_is_decoded_alike_at_once_and_piece_by_piece(tmp_path):
    path = tmp_path / "a.txt"
    content = bytes(range(1, 256)) * 40 + "Ångström".encode() * 3000
    path.write_bytes(content)
    with text_files.open_text(path.open("rb")) as file:
        piecewise = "".join(iter(lambda: file.read(7), ""))
    assert piecewise == text_files.read_text(path)
    assert "Ångström" in piecewise


def test_binary_files_are_no_text(tmp_path):
    for content in (b"PK\3\4\0\0\0\0", codecs.BOM_UTF16_LE + b"a"):
        (tmp_path / "a.cif").write_bytes(content)
        with pytest.raises(ValueError, match="not text"):
            text_files.read_text(tmp_path / "a.cif")
        _, (unreadable,) = inputs.read_inputs(tmp_path)
        assert "not text" in unreadable.reason


def test_cells_of_csv_keep_their_line_breaks(tmp_path):
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-16") as file:
        csv.writer(file).writerows([["id", "cif"], ["a", "x\ny"], ["b", "z\r\n"]])
    assert list(csv_rows.read_rows(path, ["cif"])) == [("x\ny",), ("z\r\n",)]


def test_ase_writes_what_is_read(tmp_path):
    path = tmp_path / "a.extxyz"
    ase.io.write(path, [Atoms("Cu", cell=[3, 3, 3], pbc=True)] * 3)
    assert len(structure_files.read_extxyz(path)[0]) == 3
