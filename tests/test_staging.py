import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import tiny

from crystaljax import prepare
from crystaljax.data import columnar, reading, staging
from crystaljax.data import dataset as datasets
from crystaljax.data.sources import building, record

ORIGIN = {"source": "test"}


@pytest.fixture(scope="module")
def columns(tmp_path_factory):
    path = tmp_path_factory.mktemp("staging") / "dataset"
    tiny.write_dataset(path)
    return datasets.open_dataset(path)


def assert_equal(one, other):
    for name in ("id", "formula"):
        assert getattr(one, name).to_pylist() == getattr(other, name).to_pylist()
    for name in (
        "offsets",
        "atomic_numbers",
        "frac_coords",
        "lattice",
        "space_group",
        "formation_energy",
    ):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_blocks_written_one_after_the_other_are_the_columns(tmp_path, columns):
    files = staging.ColumnFiles(tmp_path / "columns")
    for _, block in columnar.blocks(columns, 7):
        files.append(block)
    assert_equal(files.columns(), columns)
    files.close()


def test_nothing_written_is_no_structure(tmp_path):
    files = staging.ColumnFiles(tmp_path / "columns")
    assert len(files.columns()) == 0
    files.close()


def test_what_was_not_committed_is_cut_off(tmp_path, columns):
    half = columnar.slice_columns(columns, 0, 30)
    rest = columnar.slice_columns(columns, 30, 60)
    with staging.open_stage(tmp_path / "stage", ORIGIN) as stage:
        stage.files.append(half)
        stage.progress["num_rows"] = 30
        stage.commit()
        stage.files.append(rest)
        stage.progress["num_rows"] = 60
    with staging.open_stage(tmp_path / "stage", ORIGIN) as stage:
        assert stage.progress == {"num_rows": 30}
        assert_equal(stage.files.columns(), half)
        stage.files.append(rest)
        assert_equal(stage.files.columns(), columns)


def test_lost_bytes_are_noticed(tmp_path, columns):
    with staging.open_stage(tmp_path / "stage", ORIGIN) as stage:
        stage.files.append(columns)
        stage.commit()
    lattice = tmp_path / "stage" / "columns" / "lattice"
    os.truncate(lattice, lattice.stat().st_size - 1)
    with (
        pytest.raises(ValueError, match=r"damaged; pass --overwrite"),
        staging.open_stage(tmp_path / "stage", ORIGIN),
    ):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "3"])
def test_damaged_journal(tmp_path, text):
    path = tmp_path / "stage"
    path.mkdir()
    (path / "journal.json").write_text(text)
    with (
        pytest.raises(ValueError, match=r"journal.json is (damaged|not the journal)"),
        staging.open_stage(path, ORIGIN),
    ):
        pass
    with staging.open_stage(path, ORIGIN, restart=True) as stage:
        assert stage.progress == {}


def test_other_origin_is_refused_and_named(tmp_path, columns):
    with staging.open_stage(tmp_path / "stage", {"input": "a.csv"}) as stage:
        stage.files.append(columns)
        stage.commit()
    with (
        pytest.raises(ValueError, match=r"\n  input: \"b.csv\", \"a.csv\""),
        staging.open_stage(tmp_path / "stage", {"input": "b.csv"}),
    ):
        pass
    with staging.open_stage(
        tmp_path / "stage", {"input": "b.csv"}, restart=True
    ) as stage:
        assert len(stage.files.columns()) == 0


def test_two_processes_cannot_write_one_stage(tmp_path):
    path = tmp_path / "stage"
    # The lock is of an opened file, and so refused in the same process too.
    with (
        staging.open_stage(path, ORIGIN),
        pytest.raises(FileExistsError, match=f"by process {os.getpid()} on "),
        staging.open_stage(path, ORIGIN),
    ):
        pass


# ------------------------------------------------------------ preparing, interrupted


def write_rows(path, count):
    """AFLOW rows of rock salts, each with a lattice of its own."""
    lines = ["auid,pretty_formula,geometry,positions_fractional,"]
    lines[0] += "enthalpy_formation_atom,spacegroup_relax"
    for i in range(count):
        length = 3 + i / 50
        positions = "[[0,0,0],[0.5,0.5,0.5]]"
        lines.append(
            f'aflow:{i:016x},Ag1Cu1,"[{length},{length},{length},90,90,90]",'
            f'"{positions}",{-i / 1000},221'
        )
    path.write_text("\n".join(lines) + "\n")


def options(tmp_path, output):
    return prepare.PrepareOptions(
        source="aflow_csv",
        input=str(tmp_path / "rows.csv"),
        output=str(tmp_path / output),
        num_workers=1,
        figures=False,
    )


class Interrupted(Exception):
    pass


def test_interrupted_five_times_is_as_uninterrupted(tmp_path, monkeypatch):
    write_rows(tmp_path / "rows.csv", 500)
    prepare.prepare(options(tmp_path, "whole"))
    monkeypatch.setattr(reading, "_LAST_CHUNK_ROWS", 32)
    source_type = type(building.build_source(options(tmp_path, "parts")))
    read_rows = source_type.read_rows
    parsed = []

    def until(limit):
        def rows(self):
            for number, row in enumerate(read_rows(self)):
                if number == limit:
                    raise Interrupted
                yield row

        return rows

    parse_row = source_type.parse_row

    def counted(self, row):
        parsed.append(row[0])
        return parse_row(self, row)

    monkeypatch.setattr(source_type, "parse_row", counted)
    for limit in (70, 150, 151, 300, 480):
        monkeypatch.setattr(source_type, "read_rows", until(limit))
        with pytest.raises(Interrupted):
            prepare.prepare(options(tmp_path, "parts"))
        assert not (tmp_path / "parts").exists()
    monkeypatch.setattr(source_type, "read_rows", read_rows)
    report = prepare.prepare(options(tmp_path, "parts"))
    assert report["num_read"] == 500
    # No row was parsed twice but those of a chunk that was not complete.
    assert len(parsed) < 500 + 5 * 32
    table = datasets.TABLE_NAME
    whole, parts = (
        (tmp_path / name / table).read_bytes() for name in ("whole", "parts")
    )
    assert whole == parts
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "parts",
        "rows.csv",
        "whole",
    ]


KILLED = """
import os, signal, sys
from crystaljax import prepare
from crystaljax.data import reading, staging
reading._LAST_CHUNK_ROWS = 32
reading._SECONDS_BETWEEN_COMMITS = 0.0
commit = staging.Stage.commit
def commit_and_die(self):
    commit(self)
    if self.progress["num_rows"] > 200:
        # In the middle of the next chunk, as it were.
        self.files._files["lattice"].write(b"half a chunk")
        self.files.flush()
        os.kill(os.getpid(), signal.SIGKILL)
staging.Stage.commit = commit_and_die
input, output = sys.argv[1:]
prepare.prepare(prepare.PrepareOptions(
    source="aflow_csv", input=input, output=output, num_workers=1,
    figures=False))
"""


def test_killed_run_is_gone_on_with(tmp_path):
    write_rows(tmp_path / "rows.csv", 400)
    prepare.prepare(options(tmp_path, "whole"))
    given = [str(tmp_path / "rows.csv"), str(tmp_path / "killed")]
    done = subprocess.run([sys.executable, "-c", KILLED, *given], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not (tmp_path / "killed").exists()
    journal = tmp_path / ".killed.partial" / "journal.json"
    assert json.loads(journal.read_text())["progress"]["num_rows"] > 200
    prepare.prepare(options(tmp_path, "killed"))
    table = datasets.TABLE_NAME
    assert (tmp_path / "killed" / table).read_bytes() == (
        tmp_path / "whole" / table
    ).read_bytes()


def test_changed_input_is_not_mixed_with_what_was_read_before(tmp_path, monkeypatch):
    write_rows(tmp_path / "rows.csv", 100)

    def fail(*_, **options):
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_select_and_write", fail)
        with pytest.raises(Interrupted):
            prepare.prepare(options(tmp_path, "data"))
    write_rows(tmp_path / "rows.csv", 50)
    with pytest.raises(ValueError, match=r"another request.*\n.*bytes: "):
        prepare.prepare(options(tmp_path, "data"))


def test_rules_can_change_without_reading_again(tmp_path, monkeypatch):
    write_rows(tmp_path / "rows.csv", 100)
    too_strict = prepare.selection.Rules(min_sites=5)
    given = options(tmp_path, "data")
    strict = prepare.dataclasses.replace(given, rules=too_strict)
    with pytest.raises(ValueError, match="nothing left"):
        prepare.prepare(strict)

    def parse_row(self, row):
        raise AssertionError("read again")

    source_type = type(building.build_source(given))
    monkeypatch.setattr(source_type, "parse_row", parse_row)
    assert prepare.prepare(given)["num_kept"] == 100


def test_rules_of_a_source_are_counted_apart_from_failures(tmp_path):
    def make():
        yield record.Failure("a", "functional", is_rule=True)
        yield record.Failure("b", "broken")

    source = building.RecordSource(make, {})
    with staging.open_stage(tmp_path / "stage", ORIGIN) as stage:
        read = reading.read_source(
            source, reading.CanonicalForm(), stage, num_workers=1
        )
    assert read.num_read == 2
    assert read.left_out == {"functional": 1}
    assert list(read.failed) == ["broken"]
