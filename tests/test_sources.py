import contextlib
import csv
import gzip
import io
import itertools

import ase.build
import ase.io
import hypothesis
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from crystaljax.crystals import cif, elements, structure
from crystaljax.data.readers import csv_rows
from crystaljax.data.sources import aflow_csv, cif_csv, extxyz, record

TRICLINIC = Structure(
    Lattice.from_parameters(4.1, 5.2, 6.3, 81.5, 92.25, 103.75),
    ["Ba", "Ti", "O", "O"],
    [[0.1, 0.2, 0.3], [0.51, 0.49, 0.77], [0.2, 0.9, 0.15], [0.85, 0.35, 0.05]],
)


def write_csv(path, header, rows):
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def parse_all(source):
    return [source.parse_row(row) for row in source.read_rows()]


def assert_is_triclinic(crystal):
    np.testing.assert_array_equal(crystal.atomic_numbers, [56, 22, 8, 8])
    np.testing.assert_allclose(crystal.frac_coords, TRICLINIC.frac_coords, atol=1e-6)
    np.testing.assert_allclose(
        structure.lattice_parameters(crystal.lattice),
        TRICLINIC.lattice.parameters,
        atol=1e-5,
    )


# ------------------------------------------------------------------------------- CIF


def test_plain_cif():
    assert_is_triclinic(cif.parse_cif(TRICLINIC.to(fmt="cif")))


@pytest.mark.parametrize(
    "old, new",
    [
        ("4.10000000", "4.10000000(12)"),
        ("  Ba  Ba0", "  Ba2+  Ba0"),
        ("'x, y, z'", "x,y,z"),
        ("data_BaTiO2", "\n# comment\ndata_BaTiO2"),
    ],
)
def test_variants_of_a_cif(old, new):
    text = TRICLINIC.to(fmt="cif")
    assert old in text
    assert_is_triclinic(cif.parse_cif(text.replace(old, new)))


def test_cif_with_symmetry():
    caesium_chloride = Structure(
        Lattice.cubic(4.1), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    text = caesium_chloride.to(fmt="cif", symprec=0.01)
    assert cif.parse_cif(text).num_sites == 2


@pytest.mark.parametrize("text", ["", "hello", "data_x\nloop_\n_atom_site_fract_x\n1"])
def test_text_that_is_no_cif_is_refused(text):
    with pytest.raises(ValueError, match="not readable as CIF"):
        cif.parse_cif(text)


def test_partly_occupied_site_is_refused():
    text = TRICLINIC.to(fmt="cif").replace("0.30000000  1", "0.30000000  0.5")
    with pytest.raises(ValueError, match="occupied"):
        cif.parse_cif(text)


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(st.data())
def test_damaged_cif_gives_a_crystal_or_a_value_error(data):
    lines = TRICLINIC.to(fmt="cif").splitlines()
    position = data.draw(st.integers(0, len(lines) - 1))
    lines[position] = data.draw(
        st.one_of(st.text(max_size=20), st.permutations(lines[position]).map("".join))
    )
    with contextlib.suppress(ValueError):
        assert isinstance(cif.parse_cif("\n".join(lines)), structure.Crystal)


# ------------------------------------------------------------------- CSV with CIFs


@pytest.mark.parametrize("name", ["data.csv", "data.csv.gz"])
def test_cif_csv(tmp_path, name):
    text = TRICLINIC.to(fmt="cif")
    path = write_csv(
        tmp_path / name,
        ["", "material_id", "cif", "energy", "spacegroup.number"],
        [
            ["0", "good", text, "-1.5", "1.0"],
            ["1", "no-energy", text, "", "1"],
            ["2", "nan-energy", text, "nan", "1"],
            ["3", "bad-group", text, "0", "231"],
            ["4", "bad-cif", "oops", "0", "1"],
            ["5", "short"],
        ],
    )
    found = parse_all(cif_csv.CifCsv(path, "energy", "spacegroup.number"))
    assert isinstance(found[0], record.Record)
    assert (found[0].id, found[0].space_group) == ("good", 1)
    assert found[0].formation_energy == -1.5
    assert_is_triclinic(found[0].crystal)
    assert [failure.reason for failure in found[1:]] == [
        "formation energy missing or not a number",
        "formation energy missing or not a number",
        "space group missing or not in 1-230",
        "crystal not readable",
        "row with missing or superfluous cells",
    ]
    assert [failure.id for failure in found[1:3]] == ["no-energy", "nan-energy"]


def test_cif_csv_without_ids_counts_rows(tmp_path):
    path = write_csv(tmp_path / "x.csv", ["cif"], [[TRICLINIC.to(fmt="cif")]] * 2)
    found = parse_all(cif_csv.CifCsv(path))
    assert [one.id for one in found] == ["0", "1"]
    assert found[0].space_group is None
    assert found[0].formation_energy is None


def test_missing_column_lists_those_present(tmp_path):
    path = write_csv(tmp_path / "x.csv", ["cif", "heat_all"], [])
    with pytest.raises(ValueError, match=r"no column 'energy'.*cif, heat_all"):
        list(cif_csv.CifCsv(path, "energy").read_rows())


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="--input"):
        list(cif_csv.CifCsv(str(tmp_path / "x.csv"), "energy").read_rows())


def test_truncated_gzip_is_reported(tmp_path):
    rng = np.random.default_rng(0)
    rows = [[rng.bytes(40).hex(), "0"] for _ in range(2000)]
    path = tmp_path / "x.csv.gz"
    write_csv(path, ["cif", "energy"], rows)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="ends early or is damaged"):
        list(csv_rows.read_rows(path, ["cif"]))


def test_empty_file_and_binary_file(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        csv_rows.read_header(tmp_path / "x.csv")
    (tmp_path / "y.csv").write_bytes(b"\x1f\x8b\x08\x00\x81")
    with pytest.raises(ValueError, match="not CSV"):
        csv_rows.read_header(tmp_path / "y.csv")


def test_cells_beyond_the_limit_of_the_csv_module(tmp_path):
    path = write_csv(tmp_path / "x.csv", ["cif"], [["x" * 300_000]])
    assert len(next(csv_rows.read_rows(path, ["cif"]))[0]) == 300_000


# ---------------------------------------------------------------------------- AFLOW

AFLOW_HEADER = [
    "auid",
    "pretty_formula",
    "elements",
    "nsites",
    "enthalpy_formation_atom",
    "spacegroup_relax",
    "geometry",
    "positions_fractional",
    "cif",
]


def aflow_row(**changed):
    row = {
        "auid": "aflow:1",
        "pretty_formula": "Ba1O2Ti1",
        "elements": "['Ba', 'O', 'Ti']",
        "nsites": "4",
        "enthalpy_formation_atom": "-0.25",
        "spacegroup_relax": "1",
        "geometry": "[4.1,5.2,6.3,81.5,92.25,103.75]",
        "positions_fractional": "[[0.1,0.2,0.3],[0.2,0.9,0.15],[0.85,0.35,0.05],"
        "[0.51,0.49,0.77]]",
        "cif": "",
    }
    return list((row | changed).values())


def test_aflow_csv(tmp_path):
    bad = {
        "positions_fractional": "[[0,0,0]]",
        "geometry": "[1,1,1,10,10,170]",
        "pretty_formula": "Xx1",
    }
    rows = [aflow_row(), aflow_row(auid="2", geometry="(4, 4, 4, 90, 90, 90)")]
    rows += [aflow_row(**{name: value}) for name, value in bad.items()]
    path = write_csv(tmp_path / "aflow.csv", AFLOW_HEADER, rows)
    found = parse_all(aflow_csv.AflowCsv(path))
    first = found[0]
    assert (first.id, first.space_group, first.formation_energy) == (
        "aflow:1",
        1,
        -0.25,
    )
    # Species are in alphabetical order: Ba, O, O, Ti.
    order = [0, 3, 1, 2]
    numbers, coords = first.crystal.atomic_numbers, first.crystal.frac_coords
    assert_is_triclinic(
        structure.Crystal(numbers[order], coords[order], first.crystal.lattice)
    )
    np.testing.assert_allclose(found[1].crystal.lattice, 4 * np.eye(3), atol=1e-12)
    assert [failure.reason for failure in found[2:]] == ["crystal not readable"] * 3


def test_aflow_formula_keeps_the_order_in_which_it_is_written():
    crystal = aflow_csv.parse_crystal(
        "Ti1Ba2", "[4,4,4,90,90,90]", "[[0,0,0],[0.5,0,0],[0,0.5,0]]"
    )
    np.testing.assert_array_equal(crystal.atomic_numbers, [22, 56, 56])


def test_aflow_space_group_can_be_left_to_spglib(tmp_path):
    path = write_csv(tmp_path / "aflow.csv", AFLOW_HEADER, [aflow_row()])
    source = aflow_csv.AflowCsv(path, space_group_column=None)
    assert parse_all(source)[0].space_group is None


def test_cells_are_never_run(tmp_path):
    target = tmp_path / "target"
    attack = f"__import__('pathlib').Path({str(target)!r}).touch() or [[0,0,0]]"
    with pytest.raises(ValueError, match="not a list of numbers"):
        aflow_csv.parse_crystal("Cu1", "[4,4,4,90,90,90]", attack)
    assert not target.exists()


@hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
@hypothesis.given(st.text(), st.text(), st.text())
def test_any_cells_give_a_crystal_or_a_value_error(formula, geometry, positions):
    for cells in itertools.product(
        (formula, "Cu1"), (geometry, "[4,4,4,90,90,90]"), (positions, "[[0,0,0]]")
    ):
        with contextlib.suppress(ValueError):
            assert isinstance(aflow_csv.parse_crystal(*cells), structure.Crystal)


# --------------------------------------------------------------------------- extxyz


@pytest.mark.parametrize("name", ["data.xyz", "data.extxyz.gz"])
def test_extxyz(tmp_path, name):
    gold = ase.build.bulk("Au")
    gold.info |= {"heat": -0.5, "space_group": 225, "id": "gold"}
    copper = ase.build.bulk("Cu", cubic=True)
    copper.info |= {"heat": 0.5, "space_group": 225}
    unlabelled = ase.build.bulk("Ni")
    molecule = ase.build.molecule("H2O")
    molecule.info |= {"heat": 0.0, "space_group": 1}
    plain = tmp_path / "data.xyz"
    ase.io.write(plain, [gold, copper, unlabelled, molecule], format="extxyz")
    path = tmp_path / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(plain.read_bytes()))
    found = parse_all(extxyz.ExtXyz(str(path), "heat", "space_group"))
    assert [one.id for one in found] == ["gold", "1", "2", "3"]
    assert [one.formation_energy for one in found[:2]] == [-0.5, 0.5]
    assert found[1].space_group == 225
    np.testing.assert_allclose(found[0].crystal.lattice, gold.cell.array, atol=1e-8)
    assert found[1].crystal.num_sites == 4
    assert [failure.reason for failure in found[2:]] == [
        "formation energy missing or not a number",
        "crystal not readable",
    ]


def test_energy_that_ase_takes_for_a_result_is_found(tmp_path):
    gold = ase.build.bulk("Au")
    gold.calc = SinglePointCalculator(gold, energy=-3.5)
    ase.io.write(tmp_path / "x.xyz", gold, format="extxyz")
    found = parse_all(extxyz.ExtXyz(str(tmp_path / "x.xyz"), "energy"))
    assert found[0].formation_energy == -3.5


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no frame"),
        ("hello\n", "expected its number of atoms"),
        ("3\ncomment\nCu 0 0 0\n", "middle of frame 0"),
    ],
)
def test_file_that_is_no_extxyz(tmp_path, text, message):
    path = tmp_path / "x.xyz"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        list(extxyz.ExtXyz(str(path)).read_rows())


def test_bad_frame_is_a_failure_and_the_next_is_read(tmp_path):
    path = tmp_path / "x.xyz"
    good = '1\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3\nCu 0 0 0\n'
    path.write_text(good.replace("Cu 0 0", "Cu zero 0") + good)
    bad, found = parse_all(extxyz.ExtXyz(str(path)))
    assert bad.reason == "frame not readable"
    assert elements.cell_formula(found.crystal.atomic_numbers) == "Cu1"


# ---------------------------------------------------------------------- damaged files
def read_all(source):
    """Parses whatever rows there are; a ValueError may end them."""
    with contextlib.suppress(ValueError):
        for row in source.read_rows():
            assert isinstance(source.parse_row(row), record.Record | record.Failure)


AFLOW_ROW = (
    "auid,pretty_formula,geometry,positions_fractional,enthalpy_formation_atom,"
    'spacegroup_relax\naflow:1,Cu1Zr1,"[3,3,3,90,90,90]","[[0,0,0],[0.5,0.5,0.5]]",'
    "-0.1,221\n"
)
FRAME = (
    '2\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3 energy=-1\n'
    "Cu 0 0 0\nZr 1.5 1.5 1.5\n"
)
damages = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.binary(max_size=20)), max_size=4
)
fuzz = hypothesis.settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)


def damage(content, damages):
    """Replaces stretches of bytes by others."""
    for begin, length, new in damages:
        start = int(begin * len(content))
        end = start + int(length * 30)
        content = content[:start] + new + content[end:]
    return content


@fuzz
@hypothesis.given(damages)
def test_damaged_csv_gives_rows_or_a_value_error(tmp_path, damages):
    path = tmp_path / "rows.csv"
    path.write_bytes(damage((AFLOW_ROW * 3).encode(), damages))
    read_all(aflow_csv.AflowCsv(str(path)))


@fuzz
@hypothesis.given(damages)
def test_damaged_extxyz_gives_frames_or_a_value_error(tmp_path, damages):
    path = tmp_path / "frames.extxyz"
    path.write_bytes(damage((FRAME * 3).encode(), damages))
    read_all(extxyz.ExtXyz(str(path), "energy"))


# --------------------------------------------------------------- CSVs that are cut off
QUOTED = "material_id,e,cif\n" + "".join(
    f'm-{i},-0.{i},"# made by hand\nline {i}\n"\n' for i in range(1, 5)
)


def cells_and_reasons(path):
    rows = list(csv_rows.read_rows(path, ["material_id", "e", "cif"]))
    good = [row[0] for row in rows if not isinstance(row, record.Failure)]
    return good, [row.reason for row in rows if isinstance(row, record.Failure)]


def test_last_cell_that_is_not_closed_costs_its_row(tmp_path):
    path = tmp_path / "x.csv"
    start = QUOTED.index("line 4")
    for end in range(start, len(QUOTED) - 2):
        path.write_text(QUOTED[:end])
        good, reasons = cells_and_reasons(path)
        assert good == ["m-1", "m-2", "m-3"]
        assert reasons == [record.NOT_CLOSED]
    path.write_text(QUOTED[: len(QUOTED) - 1])
    assert cells_and_reasons(path) == (["m-1", "m-2", "m-3", "m-4"], [])


def test_row_that_is_cut_off_in_the_middle_of_a_file_costs_itself(tmp_path):
    path = tmp_path / "x.csv"
    start = QUOTED.index("line 2")
    path.write_text(QUOTED[:start] + "lin\n" + QUOTED[QUOTED.index("m-3") :])
    assert cells_and_reasons(path) == (["m-1", "m-3", "m-4"], [record.NOT_CLOSED])


def test_quotes_within_a_line_are_read_as_before(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('material_id,e,cif\n"a" ,1,"x"\nb,2,5" disk\n"c",3,"say ""y"""\n')
    rows = list(csv_rows.read_rows(path, ["material_id", "cif"]))
    assert rows == [("a ", "x"), ("b", '5" disk'), ("c", 'say "y"')]


def test_of_truncated_gzip_the_whole_rows_are_used_and_the_rest_is_one_failure(
    tmp_path,
):
    rng = np.random.default_rng(0)
    rows = [[rng.bytes(40).hex(), "0"] for _ in range(2000)]
    path = tmp_path / "x.csv.gz"
    write_csv(path, ["cif", "energy"], rows)
    path.write_bytes(path.read_bytes()[:-2000])
    source = cif_csv.CifCsv(str(path), "energy")
    *found, rest = source.read_rows()
    assert [cells["cif"] for _, cells in found] == [
        cif for cif, _ in rows[: len(found)]
    ]
    assert 1900 < len(found) < 2000
    assert rest.reason == record.DAMAGED and str(path) in rest.detail
    assert f"after row {len(found)} is missing" in rest.detail


def test_gzip_with_a_wrong_checksum_is_refused(tmp_path):
    path = tmp_path / "x.csv.gz"
    write_csv(path, ["cif", "energy"], [["a", "0"]] * 2000)
    raw = path.read_bytes()
    path.write_bytes(raw[:-8] + bytes(4) + raw[-4:])
    with pytest.raises(ValueError, match="ends early or is damaged"):
        list(cif_csv.CifCsv(str(path), "energy").read_rows())
