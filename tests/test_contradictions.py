"""Files that contradict themselves are refused, with what they say and what is read."""

import json
import sqlite3

import ase.db
import ase.io
import numpy as np
import pytest
import vasprun_xml

from crystaljax import command_line, prepare
from crystaljax.crystals import (
    bridge,
    inputs,
    refusals,
    space_groups,
    stated_formulas,
    structure,
    structure_files,
)
from crystaljax.data import dataset as datasets
from crystaljax.data.sources import (
    aflow_csv,
    ase_db,
    building,
    cif_csv,
    entries_json,
    extxyz,
    optimade,
    record,
)
from crystaljax.dft import handover, vasp_runs
from crystaljax.hull import entries as hull_entries
from crystaljax.relaxation import references
from crystaljax.screening import html_report
from crystaljax.screening import inputs as screening_inputs

CU3AU = structure.Crystal(
    np.array([79, 29, 29, 29]),
    np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]),
    3.7 * np.eye(3),
)
FORMULA = "sites contradict the formula of the file"
VOLUME = "cell contradicts the volume of the file"
PLACES = "coordinates of the file contradict each other"


def parse(source):
    return [source.parse_row(row) for row in source.read_rows()]


def entry(**changes):
    made = bridge.to_pymatgen(CU3AU).as_dict()
    made["lattice"] |= changes.pop("lattice", {})
    for index, site in changes.pop("sites", {}).items():
        made["sites"][index] |= site
    return json.loads(json.dumps({"structure": made, "data": {"e_form": -0.1}}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"lattice": {"volume": 50.9}}, None),
        ({"lattice": {"volume": 60.0}}, VOLUME),
        ({"lattice": {"a": 3.9}}, VOLUME),
        ({"lattice": {"beta": 100.0}}, VOLUME),
        # The fractional coordinates are those of another place.
        ({"sites": {2: {"abc": [0.5, 0.0, 0.25]}}}, PLACES),
        # Another image of it is the same place.
        ({"sites": {2: {"abc": [1.5, 0.0, -0.5]}}}, None),
    ],
)
def test_entries(tmp_path, changes, reason):
    (tmp_path / "x.json").write_text(json.dumps([entry(**changes)]))
    (found,) = parse(entries_json.EntriesJson(str(tmp_path / "x.json")))
    assert getattr(found, "reason", None) == reason
    assert isinstance(found, record.Record) == (reason is None)


@pytest.mark.parametrize(
    ("column", "formula", "reason"),
    [
        ("pretty_formula", "Cu3Au", None),
        # More than the cell holds: sites are missing.
        ("formula", "Cu6Au2", FORMULA),
        ("formula", "a name", None),
        ("formula", "", None),
        ("formula", "Cu3Ag", FORMULA),
        ("pretty_formula", "CuAu", FORMULA),
    ],
)
def test_csv_of_cifs(tmp_path, column, formula, reason):
    text = structure_files.cif_text(CU3AU, "x")
    # The CIF itself says nothing of its formula.
    text = "\n".join(line for line in text.split("\n") if "formula" not in line)
    text = f'e,{column},cif\n-0.1,{formula},"{text}"\n'
    (tmp_path / "x.csv").write_text(text)
    (found,) = parse(cif_csv.CifCsv(str(tmp_path / "x.csv"), "e"))
    assert getattr(found, "reason", None) == reason


@pytest.mark.parametrize(
    ("num_sites", "volume", "reason"),
    [("4", "50.65", None), ("", "", None), ("8", "50.65", FORMULA), ("4", "9", VOLUME)],
)
def test_aflow_csv(tmp_path, num_sites, volume, reason):
    positions = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    header = "auid,pretty_formula,natoms,volume_cell,enthalpy_formation_atom,"
    (tmp_path / "x.csv").write_text(
        f"{header}spacegroup_relax,geometry,positions_fractional\n"
        f'a,Au1Cu3,{num_sites},{volume},-0.1,221,"[3.7,3.7,3.7,90,90,90]","{positions}"'
    )
    (found,) = parse(aflow_csv.AflowCsv(str(tmp_path / "x.csv")))
    assert getattr(found, "reason", None) == reason


@pytest.mark.parametrize(
    ("statement", "reason"),
    [("volume = 60.0", VOLUME), ("natoms = 5", FORMULA), ("natoms = 4", None)],
)
def test_ase_databases(tmp_path, statement, reason):
    path = tmp_path / "x.db"
    with ase.db.connect(path) as database:
        database.write(bridge.to_ase(CU3AU), e=-0.1)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(f"UPDATE systems SET {statement}")
    connection.close()
    (found,) = parse(ase_db.AseDb(str(path), "e"))
    assert getattr(found, "reason", None) == reason


@pytest.mark.parametrize(
    ("attributes", "match"),
    [
        ({"nsites": 4, "chemical_formula_reduced": "AuCu3"}, None),
        ({"nsites": 5}, "the cell has 4 sites, the file says 5"),
        ({"chemical_formula_reduced": "AgCu3"}, "the sites make Au1Cu3"),
    ],
)
def test_optimade(attributes, match):
    attributes |= {
        "lattice_vectors": CU3AU.lattice.tolist(),
        "cartesian_site_positions": (CU3AU.frac_coords @ CU3AU.lattice).tolist(),
        "species_at_sites": ["Au", "Cu", "Cu", "Cu"],
    }
    if match is None:
        assert optimade.parse_crystal(attributes).num_sites == 4
        return
    with pytest.raises(ValueError, match=match):
        optimade.parse_crystal(attributes)


def frame(formula="Au1Cu3", last="Cu 1.85 1.85 0.0\n"):
    return (
        f'4\nLattice="3.7 0 0 0 3.7 0 0 0 3.7" formula={formula} pbc="T T T" '
        "Properties=species:S:1:pos:R:3\n"
        f"Au 0.0 0.0 0.0\nCu 0.0 1.85 1.85\nCu 1.85 0.0 1.85\n{last}"
    )


def test_extxyz_with_another_formula(tmp_path):
    path = tmp_path / "x.extxyz"
    path.write_text(frame() + frame("Ag1Cu3") + frame("CuAu") + frame("Cu3Au"))
    found = parse(extxyz.ExtXyz(str(path)))
    assert [isinstance(each, record.Record) for each in found] == [
        True,
        False,
        False,
        True,
    ]
    problems = screening_inputs.read_candidates(path).problems
    assert [bool(each) for each in problems] == [False, True, True, False]
    assert "the sites make Au1Cu3, the file says the formula 'Ag1Cu3'" in problems[1]
    crystals, unreadable = inputs.read_inputs(path)
    assert [each.name for each in crystals] == ["x-0", "x-3"]
    assert [each.reason[:9] for each in unreadable] == ["frame 1: ", "frame 2: "]
    in_folder = screening_inputs.read_candidates(tmp_path)
    assert sorted(map(bool, in_folder.problems)) == [False, False, True, True]


@pytest.mark.parametrize(
    ("text", "is_refused"),
    [
        ("Cl4Na1/0", True),
        ("Al2O3.2SiO2", True),
        ("Cu3Au/0", False),
        # Nobody knows what these say.
        ("Ba1-xSrxTiO3", False),
        ("Perovskite 3", False),
        ("XO2", False),
        ("rock salt", False),
    ],
)
def test_elements_of_formulas_that_cannot_be_read(text, is_refused):
    if not is_refused:
        stated_formulas.require_formula(text, CU3AU.atomic_numbers)
        return
    with pytest.raises(refusals.RefusedError, match="the sites make Au1Cu3"):
        stated_formulas.require_formula(text, CU3AU.atomic_numbers)


def test_extxyz_with_a_line_too_many(tmp_path):
    """The frame's own atoms are in doubt: one of them may be there twice."""
    path = tmp_path / "x.extxyz"
    path.write_text(frame() + frame(last="Cu 1.85 0.0 1.85\nCu 1.85 1.85 0.0\n"))
    found = screening_inputs.read_candidates(path)
    assert [bool(each) for each in found.problems] == [False, True]
    assert "frame 1 has 4 atoms, and then comes 'Cu 1.85 1.85 0.0'" in found.problems[1]


def test_extxyz_that_is_no_text_after_its_first_frame(tmp_path):
    path = tmp_path / "x.extxyz"
    path.write_bytes(frame().encode("utf-16-le") + b"4")
    _, unreadable = inputs.read_inputs(path)
    problems = screening_inputs.read_candidates(path).problems
    for text in (unreadable[-1].reason, problems[-1]):
        assert "not text: 'utf-16-le' codec" in text
    with pytest.raises(ValueError, match="not text"):
        structure_files.read_extxyz(path)


@pytest.mark.parametrize("old", [":S:1", ":pos:R:3", ":R:3"])
def test_extxyz_with_absurd_columns(tmp_path, old):
    path = tmp_path / "x.extxyz"
    new = {":S:1": f":S:{9 * 10**19}", ":pos:R:3": "", ":R:3": ":R"}[old]
    path.write_text(frame().replace(old, new))
    (problem,) = screening_inputs.read_candidates(path).problems
    assert "expected names, types and numbers of columns" in problem


def write_samples(folder, **changes):
    folder.mkdir()
    columns = {"name": ["a"], "formula": ["Au1Cu3"], "num_sites": [4]}
    columns |= {"volume": [50.653], "written": [True]} | changes
    structure_files.write_table(folder / "samples.parquet", columns)
    info = {"name": "a"}
    structure_files.write_extxyz(folder / "samples.extxyz", [CU3AU], [info])
    return folder


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, ""),
        ({"formula": ["Ag1Cu3"]}, "the sites make Au1Cu3"),
        ({"num_sites": [5]}, "the file says 5"),
        ({"volume": [60.0]}, "the file says 60.0"),
    ],
)
def test_samples(tmp_path, changes, problem):
    found = screening_inputs.read_candidates(write_samples(tmp_path / "x", **changes))
    assert problem in found.problems[0] and bool(problem) == bool(found.problems[0])


def test_damaged_tables_are_named(tmp_path):
    folder = write_samples(tmp_path / "x")
    content = (folder / "samples.parquet").read_bytes()
    for damaged in (b"", content[:-20], content[:4] + b"\0" * 40 + content[44:]):
        (folder / "samples.parquet").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"samples\.parquet is damaged"):
            screening_inputs.read_candidates(folder)
    (folder / "screening.parquet").write_bytes(b"PAR1")
    (folder / "screening.json").write_text("{}")
    with pytest.raises(ValueError, match=r"screening\.parquet is damaged"):
        html_report.write_report(folder)
    structure_files.write_table(folder / "samples.parquet", {"x": [1]}, overwrite=True)
    with pytest.raises(ValueError, match="no column 'name'"):
        screening_inputs.read_candidates(folder)


def test_a_screening_against_its_table(tmp_path):
    names = ["a", "b"]
    table = {"name": names, "formula": ["Au1Cu3", "Ag1Cu3"], "rank": [1, 2]}
    structure_files.write_table(tmp_path / "screening.parquet", table)
    infos = [{"name": name} for name in names]
    structure_files.write_extxyz(tmp_path / "candidates.extxyz", [CU3AU] * 2, infos)
    items = handover.read_items(tmp_path)
    assert [each.name for each in items] == names
    assert not items[0].problem and "the sites make Au1Cu3" in items[1].problem


def test_a_screening_whose_last_candidate_is_cut_off(tmp_path):
    names = ["a", "b"]
    table = {"name": names, "formula": ["Ag1Cu3", "Au1Cu3"], "rank": [1, 2]}
    structure_files.write_table(tmp_path / "screening.parquet", table)
    path = tmp_path / "candidates.extxyz"
    structure_files.write_extxyz(path, [CU3AU] * 2, [{"name": name} for name in names])
    # Its name is lost with it: the others are compared with the table all the same.
    path.write_bytes(path.read_bytes()[:-30])
    first, last = handover.read_items(tmp_path)
    assert (first.name, first.row["rank"]) == ("a", 1)
    assert "the sites make Au1Cu3" in first.problem
    assert "not readable" in last.problem


@pytest.mark.parametrize("rank", ["Properties", float("inf"), True, -3, None])
def test_ranks_that_are_none_are_places(tmp_path, rank):
    infos = [{"name": "a", "rank": rank}, {"name": "b", "rank": 2}]
    infos = [{k: v for k, v in info.items() if v is not None} for info in infos]
    structure_files.write_extxyz(tmp_path / "x.extxyz", [CU3AU] * 2, infos)
    items = handover.read_items(tmp_path / "x.extxyz")
    assert sorted(each.name for each in items) == ["a", "b"]
    assert len({each.stem for each in items}) == 2


def test_data_sets_described_in_no_text(tmp_path):
    for content in (b'{"version": \xff}', b"[" * 100_000, b'{"table": 3}'):
        (tmp_path / "dataset.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"data set|dataset"):
            datasets.open_dataset(tmp_path)


def test_runs_of_vasp(tmp_path):
    path = vasprun_xml.write_run(tmp_path, CU3AU, [-15.8, -15.81])
    text = path.read_text()
    assert vasp_runs.read_run((".", path)).crystal.num_sites == 4
    for old, new, problem in (
        ("50.65300000", "55.65300000", "the file says"),
        ("<atoms> 4", "<atoms> 5", "lists 4 atoms, and says that there are 5"),
        ("<rc><c>Cu</c>", "<rc><c>Ag</c>", "the types"),
        ("<c> 3</c><c>Cu</c>", "<c> 2</c><c>Cu</c>", "the types"),
    ):
        assert old in text
        path.write_text(text.replace(old, new, 1))
        run = vasp_runs.read_run((".", path))
        assert problem in run.problem and not run.crystal.num_sites


@pytest.mark.parametrize("coordinate", ["1e7", "-1e15", "1e300"])
def test_references_far_outside(tmp_path, coordinate):
    text = f"Cu\n1\n2 2 0\n0 2 2\n2 0 2\nCu\n1\nDirect\n{coordinate} 0 0\n"
    (tmp_path / "Cu.vasp").write_text(text)
    with pytest.raises(ValueError, match=r"Cu\.vasp: a fractional coordinate of"):
        references.load_references(tmp_path / "Cu.vasp")


def test_names_that_are_no_species_are_named(tmp_path):
    made = {"composition": {"Au": 1.0, "Cu_": 3.0}, "energy": -15.5, "entry_id": "e"}
    (tmp_path / "x.json").write_text(json.dumps([made]))
    with pytest.raises(ValueError, match="a name is no element"):
        hull_entries.read_entries(str(tmp_path / "x.json"), energy_model="x")


def test_an_ase_database_whose_schema_is_no_text(tmp_path):
    path = tmp_path / "x.db"
    with ase.db.connect(path) as database:
        database.write(bridge.to_ase(CU3AU), e=-0.1)
    content = path.read_bytes()
    assert b"CREATE TABLE systems" in content
    path.write_bytes(
        content.replace(b"CREATE TABLE systems", b"CREATE T\xe9BLE systems")
    )
    with pytest.raises(ValueError, match="damaged or no ASE database"):
        parse(ase_db.AseDb(str(path), "e"))


def test_flags_and_numbers_of_any_length():
    with pytest.raises(ValueError, match="does not exist") as raised:
        space_groups.parse_space_groups("9" * 5000)
    assert len(str(raised.value)) < 200
    assert space_groups.parse_space_groups("0225") == [225]
    with pytest.raises(ValueError, match="unknown flag") as raised:
        command_line.parse(prepare.COMMAND, ["--n" + "A" * 5000])
    assert len(str(raised.value)) < 200


def test_ranges_are_plain_numbers():
    assert building.parse_range("4:60") == (4, 60)
    assert building.parse_range(" 8 ") == (8, 8)
    for text in ("4_0", "4:6_0", "٤", "4:", "-1", "1e1", "4:6:8", "9" * 5000):
        with pytest.raises(ValueError, match="is no range"):
            building.parse_range(text)
