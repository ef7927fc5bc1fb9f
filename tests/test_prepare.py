import csv
import functools
import gzip
import json
import pathlib
import subprocess
import sys
import zipfile

import aflux_server
import numpy as np
import pytest
import test_aflow
from pymatgen.core import Lattice, Structure

from crystaljax import command_line, prepare
from crystaljax.crystals import structure
from crystaljax.data import dataset as datasets
from crystaljax.data import report as reports
from crystaljax.data import selection
from crystaljax.data.readers import pages
from crystaljax.data.sources import (
    ase_db,
    building,
    cif_csv,
    entries_json,
    extxyz,
    folder,
    record,
)
from crystaljax.relaxation import calculators

FCC = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
HALF = [[x + 0.5, y + 0.5, z + 0.5] for x, y, z in FCC]


def primitive_rock_salt(cation, anion):
    lattice = Lattice.from_parameters(3.9, 3.9, 3.9, 60, 60, 60)
    return Structure(lattice, [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])


def cubic_rock_salt(cation, anion):
    species = [cation] * 4 + [anion] * 4
    return Structure(Lattice.cubic(5.6), species, FCC + HALF)


CATIONS = ["Li", "Na", "K", "Rb", "Ag", "Mg"]
ANIONS = ["F", "Cl", "Br", "I"]


@pytest.fixture
def table(tmp_path):
    """24 rock salts of 2 sites, one of them twice, and two rows that are bad."""
    rows = [
        [f"{cation}{anion}", primitive_rock_salt(cation, anion).to(fmt="cif"), energy]
        for cation in CATIONS
        for energy, anion in zip([-1.0, -2.0, -3.0, -4.0], ANIONS, strict=True)
    ]
    rows.append(["twin", rows[0][1], -1.0])
    rows.append(["no-energy", rows[0][1], ""])
    overlapping = Structure(Lattice.cubic(5), ["Na", "Cl"], [[0, 0, 0], [0, 0, 0.01]])
    rows.append(["overlapping", overlapping.to(fmt="cif"), 0.0])
    path = tmp_path / "salts.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["material_id", "cif", "heat"], *rows])
    return path


def options(table, **changed):
    settings = {
        "source": "cif_csv",
        "input": str(table),
        "output": str(table.parent / "data"),
        "energy_column": "heat",
        "num_workers": 1,
        "figures": False,
    }
    return prepare.PrepareOptions(**settings | changed)


def test_report_and_data_set_agree(table):
    report = prepare.prepare(options(table, val_fraction=0.1, test_fraction=0.2))
    assert report["num_read"] == 27
    counts = {reason: entry["count"] for reason, entry in report["failed"].items()}
    assert counts == {
        "formation energy missing or not a number": 1,
        "atoms closer than 0.5 Å": 1,
    }
    assert report["dropped"] == {"drop_duplicates": 1}
    assert report["num_kept"] == report["num_groups"] == 24
    assert (report["smallest_group"], report["largest_group"]) == (1, 1)
    assert report["space_groups"] == [225]
    assert report["splits"] == {"train": 17, "val": 2, "test": 5}
    dataset = datasets.open_dataset(table.parent / "data", verify=True)
    assert len(dataset) == 24
    assert dataset.info["report"] == json.loads(json.dumps(report))
    assert dataset.info["space_groups_found"]["symprec"] == 0.1
    assert dataset.info["space_groups_found"]["num_structures"] == 25
    assert dataset.info["provenance"]["energy_column"] == "heat"
    assert set(datasets.vocabulary(dataset)["elements"]) == {*CATIONS, *ANIONS}
    np.testing.assert_array_equal(dataset.space_group, 225)
    parameters = structure.lattice_parameters(dataset.lattice.astype(float))
    np.testing.assert_allclose(parameters[:, 3:], 60, atol=1e-3)


def test_workers_give_the_same_data_set(table):
    prepare.prepare(options(table))
    prepare.prepare(options(table, output=str(table.parent / "two"), num_workers=2))
    one, two = (
        datasets.open_dataset(table.parent / name).info["table"]["sha256"]
        for name in ("data", "two")
    )
    assert one == two


def test_whole_file_as_test_set(table):
    report = prepare.prepare(options(table, val_fraction=0.0, test_fraction=1.0))
    assert report["splits"] == {"train": 0, "val": 0, "test": 24}
    dataset = datasets.open_dataset(table.parent / "data")
    assert len(dataset.indices("test")) == 24
    assert datasets.vocabulary(dataset)["elements"] == []


def test_rules_are_applied_and_recorded(table):
    rules = selection.Rules(max_energy=-1.5, min_element_share=0.2)
    with pytest.raises(ValueError, match="--min_element_share dropped most"):
        # Each cation is in a sixth of the structures.
        prepare.prepare(options(table, rules=rules))
    rules = selection.Rules(max_energy=-1.5, min_element_share=0.05)
    report = prepare.prepare(options(table, rules=rules))
    # All fluorides, and the twin of one.
    dropped = {"max_energy": 7, "drop_duplicates": 0, "min_element_share": 0}
    assert report["dropped"] == dropped
    assert report["num_kept"] == 18
    dataset = datasets.open_dataset(table.parent / "data")
    assert dataset.info["options"]["rules"]["max_energy"] == -1.5


def test_primitive_cell(tmp_path):
    path = tmp_path / "x.csv"
    cubic = cubic_rock_salt("Na", "Cl")
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["cif", "heat"], [cubic.to(fmt="cif"), -2.0]])
    for primitive, formula in ((False, "Cl4Na4"), (True, "Cl1Na1")):
        prepare.prepare(options(path, primitive=primitive, overwrite=True))
        dataset = datasets.open_dataset(tmp_path / "data")
        assert dataset.formula.to_pylist() == [formula]
        assert dataset.space_group.tolist() == [225]


def test_nothing_left_names_the_rule(table):
    rules = selection.Rules(min_sites=2, min_energy=0.0, min_group_size=2)
    with pytest.raises(ValueError, match=r"nothing left.*--min_energy dropped most"):
        prepare.prepare(options(table, rules=rules))
    assert not (table.parent / "data").exists()


def test_nothing_readable_names_the_reason(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("cif,heat\noops,0\n")
    with pytest.raises(ValueError, match="crystal not readable"):
        prepare.prepare(options(path))
    path.write_text("cif,heat\n")
    with pytest.raises(ValueError, match="no structures"):
        prepare.prepare(options(path))


def test_what_is_missing_of_a_file_is_said_with_its_name(table):
    text = table.read_text()
    # Within the last cell that is quoted.
    cut = table.with_name("cut.csv")
    end = text.rindex('"')
    cut.write_text(text[: end - 30])
    report = prepare.prepare(options(cut))
    assert report["num_kept"] == 24
    lines = reports.format_report(report).splitlines()
    place = next(i for i, line in enumerate(lines) if record.NOT_CLOSED in line)
    assert lines[place].split()[-1] == "1"
    assert str(cut) in lines[place + 1] and "row 27" in lines[place + 1]

    packed = table.with_name("cut.csv.gz")
    packed.write_bytes(gzip.compress(text.encode())[:-100])
    report = prepare.prepare(options(packed, overwrite=True))
    assert 16 <= report["num_kept"] <= 24
    lines = reports.format_report(report).splitlines()
    place = next(i for i, line in enumerate(lines) if record.DAMAGED in line)
    assert str(packed) in lines[place + 1] and "is missing" in lines[place + 1]


def test_members_of_an_archive_that_cannot_be_read_are_counted(tmp_path):
    cif = primitive_rock_salt("Na", "Cl").to(fmt="cif")
    path = tmp_path / "x.zip"
    names = [f"{i}.cif" for i in range(20)]
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, cif)
        offset = archive.getinfo("3.cif").header_offset
    raw = bytearray(path.read_bytes())
    raw[offset + 60 : offset + 80] = bytes(20)
    # The flag of encryption, in the directory and before the file.
    directory = raw.index(b"PK\x01\x02")
    start = archive.getinfo("0.cif").header_offset
    raw[start + 6] |= 1
    raw[directory + 8] |= 1
    path.write_bytes(raw)
    labels = tmp_path / "labels.csv"
    rows = [f"{name},-1" for name in names]
    labels.write_text("\n".join(["material_id,formation_energy_per_atom", *rows]))
    report = prepare.prepare(
        prepare.PrepareOptions(
            source="folder",
            input=str(path),
            labels=str(labels),
            output=str(tmp_path / "data"),
            num_workers=1,
            figures=False,
        )
    )
    entry = report["failed"][record.NOT_READABLE]
    assert entry["count"] == 2 and report["num_read"] == 20
    text = reports.format_report(report)
    assert f"0.cif in {path}: encrypted" in text
    assert f"3.cif in {path}: " in text


@pytest.mark.parametrize(
    "changed, error, message",
    [
        ({"input": None}, ValueError, "--input"),
        ({"input": "missing.csv"}, FileNotFoundError, "no file missing.csv"),
        ({"energy_column": None}, ValueError, "columns: material_id, cif, heat"),
        ({"energy_column": "hot"}, ValueError, "'hot'.*material_id, cif, heat"),
        ({"space_group_column": "sg"}, ValueError, "'sg'"),
        ({"source": "xml"}, ValueError, "unknown source 'xml'"),
        ({"val_fraction": 0.9, "test_fraction": 0.9}, ValueError, "fractions"),
    ],
)
def test_wrong_options(table, changed, error, message):
    with pytest.raises(error, match=message):
        prepare.prepare(options(table, **changed))
    assert [entry.name for entry in table.parent.iterdir()] == ["salts.csv"]


def test_existing_output_is_refused_before_work(table):
    prepare.prepare(options(table))
    with pytest.raises(FileExistsError, match="--overwrite"):
        prepare.prepare(options(table, input="missing.csv"))
    prepare.prepare(options(table, overwrite=True))


def test_records_that_are_made_are_counted_too(tmp_path, monkeypatch):
    crystal = structure.Crystal(np.array([29]), np.zeros((1, 3)), 3 * np.eye(3))
    made = [record.Record("a", crystal, 221, 0.0), record.Failure("", "too dense")]
    source = building.RecordSource(lambda: made, {"energy_model": "EMT"})
    monkeypatch.setattr(building, "build_source", lambda *_, **__: source)
    report = prepare.prepare(
        prepare.PrepareOptions(
            source="emt", output=tmp_path / "data", num_workers=1, figures=False
        )
    )
    assert report["failed"]["too dense"]["count"] == 1
    info = datasets.open_dataset(tmp_path / "data").info
    assert info["energy_model"] == "EMT"
    assert info["space_groups_found"]["num_structures"] == 0


def test_flags_are_the_options():
    given = parse_flags("--source=builtin", "--max_sites=20")
    assert given == prepare.PrepareOptions(
        source="builtin", output="x", rules=selection.Rules(max_sites=20)
    )


def test_command(table):
    flags = ["--source=cif_csv", f"--input={table}", "--num_workers=1", "--output"]
    root = pathlib.Path(prepare.__file__).parents[1]
    output = table.parent / "data"
    command = [sys.executable, "-m", "crystaljax.prepare", *flags]
    done = subprocess.run(
        [*command, output, "--energy_column=heat", "--nofigures"],
        capture_output=True,
        text=True,
        cwd=root,
        check=True,
    )
    assert "structures kept" in done.stdout
    assert len(datasets.open_dataset(output)) == 24
    with pytest.raises(SystemExit, match=r"^error: "):
        prepare.main([*flags, str(table.parent / "other"), "--energy_column=hot"])
    assert not (table.parent / "other").exists()


@pytest.mark.parametrize("source", ["builtin", "emt"])
def test_alloys_have_the_energy_model_of_their_calculator(source):
    # Or their hull would refuse what is relaxed with the same calculator.
    built = building.build_source(building.SourceOptions(source=source))
    assert built.describe()["energy_model"] == calculators.energy_model("emt")


@pytest.mark.parametrize(
    "given, message",
    [
        ({"source": "builtin", "species": ("Cu",)}, "builtin does not use --species"),
        ({"source": "cif_csv", "input": "a.csv", "filter": "x"}, "not use --filter"),
        ({"source": "extxyz", "input": "a.xyz"}, "--energy_column"),
        ({"source": "folder", "input": "cifs"}, "--labels"),
        ({"source": "entries_json"}, "--input"),
        ({"source": "optimade", "cache": "c"}, "needs --server: one of"),
        ({"source": "optimade", "cache": "c", "server": "oqdm"}, "oqdm"),
        ({"source": "aflow"}, "--cache"),
        ({"source": "aflow", "cache": "c", "species": ("Xx",)}, "Xx"),
    ],
)
def test_options_that_a_source_cannot_use(given, message):
    with pytest.raises(ValueError, match=message):
        building.build_source(building.SourceOptions(**given))


@pytest.mark.parametrize(
    "given, source",
    [
        (
            {"source": "cif_csv", "id_column": "name"},
            cif_csv.CifCsv("a", "e", None, "name"),
        ),
        ({"source": "extxyz"}, extxyz.ExtXyz("a", "e")),
        (
            {"source": "ase_db", "space_group_column": "sg"},
            ase_db.AseDb("a", "e", "sg"),
        ),
        ({"source": "entries_json"}, entries_json.EntriesJson("a", "e")),
        (
            {"source": "entries_json", "labels": "l.csv"},
            entries_json.EntriesJson("a", labels="l.csv", energy_column="e"),
        ),
        (
            {"source": "folder", "labels": "l.csv"},
            folder.Folder("a", "l.csv", energy_column="e"),
        ),
    ],
)
def test_options_reach_their_source(given, source):
    options = building.SourceOptions(input="a", energy_column="e", **given)
    assert building.build_source(options) == source


def parse_flags(*arguments):
    return command_line.parse(prepare.COMMAND, ["--output=x", *arguments])[0]


def test_flags_of_services():
    given = parse_flags(
        "--source=aflow", "--species=W,B,Ta", "--natoms=4:60", "--nspecies=2"
    )
    assert given.species == ("W", "B", "Ta")
    assert (given.natoms, given.nspecies) == ((4, 60), (2, 2))
    with pytest.raises(ValueError, match="--natoms=few"):
        parse_flags("--source=aflow", "--natoms=few")


def test_rules_of_the_paper_and_others():
    given = parse_flags("--source=builtin", "--rules=paper", "--min_group_size=2")
    assert given.rules.max_group_size == 71
    assert given.rules.min_group_size == 2
    assert parse_flags("--source=builtin").rules == selection.Rules()


def test_aflow_from_the_command_to_the_data_set(tmp_path, monkeypatch, capsys):
    entries = [
        test_aflow.make_entry(i, dft_type=["PAW_LDA"] if i % 10 == 0 else ["PAW_PBE"])
        for i in range(60)
    ]
    command = ["--source=aflow"]
    command += ["--species=W,Ta", "--natoms=4:60", "--page_size=7", "--num_workers=1"]
    command += ["--nodrop_duplicates", f"--output={tmp_path / 'data'}"]
    monkeypatch.setenv("no_proxy", "*")
    # The server here has time for us.
    at_once = functools.partial(pages.Manners, min_interval=0, retry_wait=0)
    monkeypatch.setattr(pages, "Manners", at_once)
    with aflux_server.AfluxServer(entries) as server:
        server.script[2] = ["503", "db fail"]
        command.append(f"--server={server.server}")
        prepare.main(command)
    assert "left out: functional is not PAW_PBE" in capsys.readouterr().out
    dataset = datasets.open_dataset(tmp_path / "data")
    expected = [each["auid"] for each in entries if each["dft_type"] == ["PAW_PBE"]]
    assert sorted(dataset.id.to_pylist()) == sorted(expected)
    assert dataset.info["energy_model"] == "AFLOW (PBE)"
    assert (tmp_path / "data.download").is_dir()
    figures = {path.name for path in (tmp_path / "data" / "figures").iterdir()}
    assert {"elements.png", "space_groups.png", "coordinates.png"} <= figures
