"""Requests in shards: what is written, what is kept, what is refused."""

import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import tiny

from crystaljax import defaults, sample
from crystaljax.crystals import structure, structure_files
from crystaljax.models import build
from crystaljax.sampling import requests, shards
from crystaljax.training import checkpoints, runs

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def workdir(alloys, tmp_path_factory):
    """A run with rows of their own for small crystals."""
    path = tmp_path_factory.mktemp("samples") / "run"
    tiny.write_run(path, tiny.config("ddim", alloys, data__row_buckets=(8,)))
    return path


def options(workdir, **changes):
    settings = {
        "workdir": str(workdir),
        # Of 4 and 8 sites: some for each of the rows.
        "formulas": ("Cu3Au1", "Cu6Au2"),
        "energies": "-0.1:0.1:0.1",
        "num_samples": 8,
    }
    return sample.SampleOptions(**settings | changes)


def write(workdir, output, *, shard_size=18, overwrite=False, cifs="zip", **changes):
    requests.write_request(
        sample.build_request(options(workdir, **changes)),
        output,
        cifs=cifs,
        shard_size=shard_size,
        overwrite=overwrite,
    )


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def finished(workdir, tmp_path_factory):
    """48 samples in shards of 18."""
    path = tmp_path_factory.mktemp("finished")
    write(workdir, path)
    return path


# ------------------------------------------------------------------------------- shards
def test_shards_together_are_what_one_call_gives(workdir, finished):
    whole = requests.make_samples(sample.build_request(options(workdir)))
    kinds = ("samples-{}.csv", "samples-{}.extxyz", "samples-{}.parquet", "cifs-{}.zip")
    parts = [f"{shard:05d}-of-00003" for shard in range(3)]
    expected = {kind.format(part) for kind in kinds for part in parts}
    assert set(contents(finished)) == expected | {"request.json"}
    tables = [
        pyarrow.parquet.read_table(finished / f"samples-{part}.parquet")
        for part in parts
    ]
    assert [len(table) for table in tables] == [18, 18, 12]
    table = pa.concat_tables(tables).to_pydict()
    expected = whole.table()
    for name in ("name", "sample", "formula", "formation_energy", "checkpoint"):
        assert table[name] == expected[name]
    np.testing.assert_allclose(table["volume"], expected["volume"], rtol=1e-4)
    frames = [
        structure_files.read_extxyz(finished / f"samples-{part}.extxyz")[0]
        for part in parts
    ]
    for one, other in zip(itertools.chain(*frames), whole.crystals, strict=True):
        np.testing.assert_allclose(one.lattice, other.lattice, atol=1e-4)


def test_one_shard_is_written_without_a_number(workdir, tmp_path):
    write(workdir, tmp_path, shard_size=None, cifs="folder")
    names = {path.name for path in tmp_path.iterdir()}
    tables = {"samples.csv", "samples.extxyz", "samples.parquet"}
    assert names == tables | {"cifs", "request.json"}
    assert len(list((tmp_path / "cifs").iterdir())) == 48


def test_processes_make_the_shards_that_are_theirs(workdir, finished):
    request = sample.build_request(options(workdir))
    run = request.load_run()
    layout = shards.Layout(48, 18)
    found = {}
    for own in ([0, 2], [1]):
        found |= dict(requests.make_shards(request, run, layout, own))
    assert sorted(found) == [0, 1, 2]
    for shard, made in found.items():
        path = finished / f"samples{layout.part(shard)}.parquet"
        table = pyarrow.parquet.read_table(path).to_pydict()
        assert made.names() == table["name"] and made.numbers() == table["sample"]
        np.testing.assert_allclose(made.table()["a"], table["a"], rtol=1e-4)


# ------------------------------------------------------------------------------- resume
def test_killed_command_goes_on_to_the_same_bytes(workdir, tmp_path, capsys):
    """A real SIGKILL at whatever moment it comes after the first shard."""
    settings = {"num_samples": 40}
    command = [
        *(sys.executable, "-m", "crystaljax.sample"),
        *(f"--workdir={workdir}", f"--output={tmp_path / 'killed'}"),
        *("--formulas=Cu3Au1,Cu6Au2", "--energies=-0.1:0.1:0.1", "--shard_size=20"),
        *(f"--{name}={value}" for name, value in settings.items()),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE
    )
    first = tmp_path / "killed" / "samples-00000-of-00012.parquet"
    deadline = time.monotonic() + 180
    while not first.exists():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = contents(tmp_path / "killed")
    assert 0 < sum(name.endswith(".parquet") for name in kept) < 12
    written = first.stat().st_mtime_ns
    # Beside what it left, the ruins of a shard that was being written.
    (tmp_path / "killed" / ".cifs-00011-of-00012.x_1y").mkdir()
    (tmp_path / "killed" / ".samples-00011-of-00012.csv.1.tmp").write_text("half")
    (tmp_path / "killed" / "samples-00011-of-00012.extxyz").write_text("half")
    sample.main(command[3:])
    assert "were there already" in capsys.readouterr().out
    assert first.stat().st_mtime_ns == written
    write(workdir, tmp_path / "straight", shard_size=20, cifs="folder", **settings)
    found, expected = contents(tmp_path / "killed"), contents(tmp_path / "straight")
    assert found.keys() == expected.keys() and len(found) == 1 + 3 * 12 + 240
    assert [name for name in found if found[name] != expected[name]] == []


def test_what_is_complete_is_kept(workdir, finished, capsys, monkeypatch):
    before = contents(finished)
    monkeypatch.setattr(
        requests.generation, "generate_batches", lambda *_, **__: pytest.fail("again")
    )
    # Neither the batch size nor a shard size that is left out makes another request.
    write(workdir, finished, shard_size=None, batch_size=4)
    assert "all 48 crystals are in" in capsys.readouterr().out
    assert contents(finished) == before


def test_missing_shard_is_made_again(workdir, finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "copy")
    for name in ("samples-00001-of-00003.parquet", "samples-00002-of-00003.parquet"):
        (tmp_path / "copy" / name).unlink()
    write(workdir, tmp_path / "copy")
    assert "30 crystals" in capsys.readouterr().out
    assert contents(tmp_path / "copy") == contents(finished)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"seed": 5}, "seed: 5, 0"),
        ({"energies": "0.3"}, 'energies: "0.3", "-0.1:0.1:0.1"'),
        ({"num_steps": 3}, "num_steps: 3, 5"),
        ({"shard_size": 7}, "shard_size: 7, 18"),
        ({"cifs": "none"}, 'cifs: "none", "zip"'),
    ],
)
def test_another_request_is_refused_and_names_the_difference(
    workdir, finished, changes, message
):
    before = contents(finished)
    with pytest.raises(FileExistsError, match=message):
        write(workdir, finished, **changes)
    assert contents(finished) == before


def test_requests_from_before_draws_had_their_name_are_the_same(
    workdir, finished, tmp_path
):
    shutil.copytree(finished, tmp_path / "copy")
    path = tmp_path / "copy" / "request.json"
    text = path.read_text()
    path.write_text(text.replace('"draws"', '"candidates"'))
    assert path.read_text() != text
    write(workdir, tmp_path / "copy")
    path.write_text(text.replace('"draws": 1', '"candidates": 2'))
    with pytest.raises(FileExistsError, match=r"made_by\.draws: 1, 2"):
        write(workdir, tmp_path / "copy")


def test_other_parameters_are_another_request(workdir, finished, monkeypatch):
    load_run = checkpoints.load_run

    def load_other(*args):
        run = load_run(*args)
        params = jax.tree.map(lambda leaf: leaf * 2, run.params)
        return checkpoints.Run(**(run.__dict__ | {"params": params}))

    monkeypatch.setattr(checkpoints, "load_run", load_other)
    with pytest.raises(FileExistsError, match="params_fingerprint"):
        write(workdir, finished)


def test_overwrite_starts_anew(workdir, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    write(workdir, tmp_path / "copy", shard_size=48, overwrite=True)
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    tables = {"samples.csv", "samples.extxyz", "samples.parquet"}
    assert names == tables | {"cifs.zip", "request.json"}


def test_samples_without_a_request_are_not_touched(workdir, tmp_path, monkeypatch):
    (tmp_path / "samples.csv").write_text("mine")
    monkeypatch.setattr(checkpoints, "load_run", lambda *_: pytest.fail("too late"))
    with pytest.raises(FileExistsError, match="already holds samples"):
        write(workdir, tmp_path)
    assert contents(tmp_path) == {"samples.csv": b"mine"}


def test_folders_with_other_files_are_not_removed(tmp_path):
    (tmp_path / "cifs").mkdir()
    (tmp_path / "cifs" / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="thesis"):
        shards.open_output(tmp_path, {}, 4, shard_size=None, overwrite=True)
    assert (tmp_path / "cifs" / "thesis.tex").exists()


# ------------------------------------------------------------------------------- layout
def test_every_sample_is_in_one_shard():
    for num_samples, shard_size in ((1, 1), (24, 10), (30, 10), (5, 100)):
        layout = shards.Layout(num_samples, shard_size)
        numbers = [
            number
            for shard in range(layout.num_shards)
            for number in layout.numbers(shard)
        ]
        assert numbers == list(range(num_samples))


def test_every_process_has_samples_to_make(monkeypatch):
    assert shards.default_size(25_000) == 10_000
    monkeypatch.setattr(jax, "process_count", lambda: 8)
    assert shards.default_size(25_000) == 3125
    assert shards.default_size(3) == 1


def test_the_first_process_to_be_done_waits_for_the_others(tmp_path):
    layout = shards.Layout(num_samples=4, shard_size=2)
    start = time.monotonic()
    shards.wait_until_finished(tmp_path, layout, patience_seconds=0.2)
    assert time.monotonic() - start >= 0.2
    for shard in range(2):
        (tmp_path / f"samples{layout.part(shard)}.parquet").touch()
    shards.wait_until_finished(tmp_path, layout)


def test_an_exception_in_the_writing_thread_comes_out():
    made = []

    def items():
        for number in range(100):
            made.append(number)
            yield number

    def fail(number):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        shards.write_behind(items(), fail)
    assert len(made) < 10
    assert shards.write_behind(iter([1, 2, 3]), lambda number: -number) == [-1, -2, -3]


def test_fingerprint_tells_values_shapes_and_names_apart():
    one = {"a": np.arange(4, dtype=np.float32), "b": np.float32(1)}
    others = [
        {"a": np.arange(4, dtype=np.float32), "b": np.float32(2)},
        {"a": np.arange(4, dtype=np.float32).reshape(2, 2), "b": np.float32(1)},
        {"a": np.arange(4, dtype=np.int32), "b": np.float32(1)},
        {"a": np.arange(4, dtype=np.float32), "c": np.float32(1)},
    ]
    found = {shards.fingerprint(each) for each in [one, *others]}
    assert len(found) == 5
    assert shards.fingerprint(jax.tree.map(np.copy, one)) in found


# ----------------------------------------------------------------------------- commands
def run_help(command):
    script = f"""
import runpy, sys
sys.argv = ["command", "--help"]
try:
    runpy.run_module("crystaljax.{command}", run_name="__main__")
except SystemExit:
    pass
print("loaded", *sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    text, _, loaded = result.stdout.rpartition("loaded ")
    return text, loaded.split()


def test_help_of_sample_is_quick():
    text, loaded = run_help("sample")
    assert not {"jax", "flax", "orbax", "numpy"} & set(loaded)
    for name in ("formulas", "batch_size", "shard_size", "overwrite"):
        assert f"--{name}=" in text or f"--[no]{name}" in text
    for names in defaults.SAMPLERS.values():
        assert all(name in text for name in names)


def test_batch_size_is_a_number_or_auto(workdir, tmp_path):
    with pytest.raises(SystemExit, match="positive integer or 'auto'"):
        sample.main(["--batch_size=many"])
    made = sample.sample(
        options(workdir, formulas=("Cu3Au1",), energies="0", batch_size="auto")
    )
    assert len(made.crystals) == 8


def test_rows_of_the_run_are_those_of_its_config(workdir):
    """Guards the fixture: the tests above have samples of both rows."""
    config = runs.load_config(workdir)
    asked = sample.build_request(options(workdir)).conditions
    rows = structure.rows_of(asked.num_sites, build.row_buckets(config))
    assert set(rows.tolist()) == {8, 16}
    assert json.loads((workdir / "config.json").read_text())["data"]["row_buckets"]
