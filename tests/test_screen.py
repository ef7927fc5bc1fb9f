"""The command as users run it: real processes that are killed, a real cluster."""

import collections
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import ase.io
import forked_workers
import numpy as np
import pyarrow.parquet
import pytest

from crystaljax import screen
from crystaljax.crystals import elements, structure, structure_files
from crystaljax.data.sources import emt
from crystaljax.relaxation import calculators

pytestmark = pytest.mark.usefixtures("forked_workers")

ROOT = pathlib.Path(__file__).parents[1]
RECORDS = [r for r in emt.load_builtin() if r.crystal.num_sites <= 4]

# EMT that does on some compositions what calculators do; and one that waits after some
# relaxations, so that what is to be killed is in the middle of them.
CALCULATOR = """
import os, pathlib, time
from ase.calculators import emt


class Odd(emt.EMT):
    def calculate(self, atoms, *args, **kwargs):
        symbols = set(atoms.symbols)
        if symbols == {"Ag", "Ni"}:
            time.sleep(60)
        if symbols == {"Pd", "Pt"}:
            os._exit(1)
        super().calculate(atoms, *args, **kwargs)


def build():
    return Odd()


class Waiting(emt.EMT):
    def calculate(self, atoms, *args, **kwargs):
        # One atom: a reference.
        while len(atoms) > 1 and os.path.exists("wait") and is_begun():
            time.sleep(0.05)
        super().calculate(atoms, *args, **kwargs)


def is_begun():
    logs = pathlib.Path().glob("*/work/relaxations.jsonl")
    return any(log.read_text().count("\\n") >= 3 for log in logs)


def build_waiting():
    return Waiting()
"""


def write_samples(folder, symbol_sets, seed=0, most=100):
    """Disturbed alloys as a folder of samples, with what was asked for."""
    rng = np.random.default_rng(seed)
    infos, crystals = [], []
    taken = collections.Counter()
    for record in RECORDS:
        crystal = record.crystal
        symbols = {elements.symbol(int(n)) for n in crystal.atomic_numbers}
        if symbols not in symbol_sets or taken[frozenset(symbols)] >= most:
            continue
        taken[frozenset(symbols)] += 1
        shift = rng.normal(0, 0.02, (crystal.num_sites, 3))
        crystals.append(
            structure.Crystal(
                crystal.atomic_numbers,
                crystal.frac_coords + shift @ np.linalg.inv(crystal.lattice),
                crystal.lattice * 1.03,
            )
        )
        infos.append(
            {
                "name": f"{len(infos):03d}",
                "formula": elements.cell_formula(crystal.atomic_numbers.astype(int)),
                "space_group": record.space_group,
                "formation_energy": record.formation_energy,
            }
        )
    folder.mkdir()
    structure_files.write_extxyz(folder / "samples.extxyz", crystals, infos)
    lost = infos[0] | {"name": "lost"}
    columns = {key: [each[key] for each in [*infos, lost]] for key in lost}
    columns["written"] = [True] * len(infos) + [False]
    structure_files.write_table(folder / "samples.parquet", columns)
    return len(infos)


@contextlib.contextmanager
def working_in(folder):
    """Current directory with odd.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        (folder / "odd.py").write_text(CALCULATOR)
        calculators.forget_calculators()
        yield
    sys.modules.pop("odd", None)
    calculators.forget_calculators()


@pytest.fixture
def here(tmp_path):
    """Current directory with odd.py, for samples."""
    with working_in(tmp_path):
        yield tmp_path


WAITING = {"calculator": "odd:build_waiting", "energy_model": "ASE EMT"}


def write_some_samples(folder):
    return write_samples(folder, [{"Au", "Cu"}, {"Ag", "Pd"}], most=6)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Screening of `write_some_samples` that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with working_in(folder):
        write_some_samples(folder / "samples")
        screen.screen(options(**WAITING))
    return folder / "out"


def options(**changes):
    settings = {
        "samples": "samples",
        "calculator": "emt",
        "hull": "builtin",
        "output": "out",
        "known": "none",
        "relaxation": "ase",
        "report": False,
        "num_workers": 1,
    }
    return screen.ScreenOptions(**settings | changes)


def command(*arguments):
    flags = ["--samples=samples", "--hull=builtin", "--known=none", "--num_workers=1"]
    return [sys.executable, "-m", "crystaljax.screen", *flags, *arguments]


def run(*arguments, cwd, **kwargs):
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        **kwargs,
    )


def read(folder):
    table = pyarrow.parquet.read_table(folder / "screening.parquet").to_pydict()
    del table["relaxation_seconds"]
    return table


def num_relaxed(folder):
    log = folder / "work" / "relaxations.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


def wait_for(condition):
    for _ in range(3600):
        if condition():
            return
        time.sleep(0.05)
    raise TimeoutError


def test_folder_holds_what_it_should(here):
    count = write_samples(here / "samples", [{"Au", "Cu"}], most=6)
    done = run(
        *("--calculator=emt", "--output=out", "--relaxation=ase"),
        cwd=here,
    )
    assert done.returncode == 0, done.stderr
    out = here / "out"
    table = pyarrow.parquet.read_table(out / "screening.parquet").to_pydict()
    assert table["name"] == [f"{i:03d}" for i in range(count)] + ["lost"]
    assert table["rejected_stage"][-1] == "validity"
    assert (out / "screening.csv").read_text().count("\n") == count + 2
    summary = json.loads((out / "screening.json").read_text())
    assert summary["counts"]["inputs"] == count + 1
    assert summary["energy_model"] == "ASE EMT"
    assert summary["request"]["hull"] == "builtin"
    # One line, which says what was counted, by what, against what.
    line = (out / "sun.json").read_text()
    assert line.count("\n") == 1 and "\n" not in line.strip()
    counts = json.loads(line)
    assert counts["generated"] == count + 1 and counts["unique"] == sum(table["unique"])
    assert counts["hull"] == "builtin" and counts["known"] == "none"
    assert counts["calculator"] == "emt" and counts["tolerance"] == "0.1/0.15/3"
    assert 0 < counts["sun"]["0"] <= counts["sun"]["100"] <= counts["unique"]
    assert "by potential emt, hull builtin, known crystals none" in done.stdout
    num_ranked = sum(rank > 0 for rank in table["rank"])
    assert num_ranked == summary["counts"]["ranked"] > 2
    frames = ase.io.read(out / "candidates.extxyz", ":")
    best = table["rank"].index(1)
    assert len(frames) == num_ranked
    assert (
        frames[0].info["relaxed_space_group_0_1"]
        == (table["relaxed_space_group_0.1"][best])
    )
    assert [frame.info["rank"] for frame in frames] == [*range(1, num_ranked + 1)]
    for folder in ("candidates", "symmetrized"):
        files = sorted(path.name for path in (out / folder).iterdir())
        assert len(files) == num_ranked
        assert files[0] == f"001_{table['name'][best]}.cif"
    entries = json.loads((out / "hull.json").read_text())
    assert entries["energy_model"] == "ASE EMT"
    assert {
        elements.parse_formula(e["formula"]).keys() <= {"Au", "Cu"}
        for e in entries["entries"]
    } == {True}
    assert (out / "report.html").stat().st_size > 1000
    # What the user sees: the funnel, then the best.
    assert f"{count + 1} crystals" in done.stdout
    assert "rank formula" in done.stdout and "energies: ASE EMT" in done.stdout
    assert "relax: 100%" in done.stderr


def test_odd_calculator_costs_its_rows_and_no_others(here):
    write_samples(here / "samples", [{"Ag", "Ni"}, {"Pd", "Pt"}, {"Au", "Cu"}], most=1)
    claim = {"calculator": "odd:build", "energy_model": "ASE EMT", "timeout": 2.0}
    _, table = screen.screen(options(**claim, num_workers=2))
    seen = set()
    for formula, at, why in zip(
        table["formula"], table["rejected_stage"], table["rejected_reason"], strict=True
    ):
        symbols = set(elements.parse_formula(formula))
        seen.add((*sorted(symbols), at))
        if at == "relaxation":
            expected = "timed out after 2 s"
            if symbols == {"Pd", "Pt"}:
                expected = "died with exit code 1"
            assert expected in why
    assert ("Ag", "Ni", "relaxation") in seen and ("Pd", "Pt", "relaxation") in seen
    assert ("Au", "Cu", "") in seen and ("Au", "Cu", "relaxation") not in seen
    assert ("Ag", "Ni", "") not in seen and ("Pd", "Pt", "") not in seen


def test_killed_screening_goes_on_and_ends_the_same(here, undisturbed):
    count = write_some_samples(here / "samples")
    (here / "wait").touch()
    arguments = ["--calculator=odd:build_waiting", "--energy_model=ASE EMT"]
    arguments += ["--report=false", "--relaxation=ase", "--output=killed"]
    # `test_folder_holds_what_it_should` starts it anew.
    arguments = command(*arguments)[3:]
    pid = forked_workers.fork(forked_workers.run_quietly, screen.main, arguments)
    wait_for(lambda: num_relaxed(here / "killed") >= 3)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    (here / "wait").unlink()
    before = num_relaxed(here / "killed")
    assert 3 <= before < count - 3
    assert not (here / "killed" / "screening.csv").exists()
    # In this process, which has all that a new one would have to load.
    screen.main(arguments)
    assert num_relaxed(here / "killed") == num_relaxed(undisturbed)
    np.testing.assert_equal(read(here / "killed"), read(undisturbed))
    for name in ("candidates.extxyz", "hull.json"):
        ours, theirs = here / "killed" / name, undisturbed / name
        if name == "hull.json":
            assert ours.read_bytes() == theirs.read_bytes()
        else:
            for mine, yours in zip(
                ase.io.iread(ours), ase.io.iread(theirs), strict=True
            ):
                np.testing.assert_array_equal(mine.positions, yours.positions)


def test_cluster_gives_the_same_and_loses_nothing_with_a_worker(here, undisturbed):
    distributed = pytest.importorskip("distributed")
    count = write_some_samples(here / "samples")
    (here / "wait").touch()
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        killed = []

        def kill():
            wait_for(lambda: num_relaxed(here / "there") >= 3)
            killed.append(num_relaxed(here / "there"))
            os.kill(cluster.workers[0].pid, signal.SIGKILL)
            (here / "wait").unlink()

        thread = threading.Thread(target=kill)
        thread.start()
        screen.screen(
            options(**WAITING, output="there", dask=cluster.scheduler_address)
        )
        thread.join()
    assert killed[0] < count - 3
    np.testing.assert_equal(read(here / "there"), read(undisturbed))
    assert set(read(undisturbed)["relaxation_method"]) == {"ase", ""}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"relaxation": "none"}, "unknown method 'none'"),
        ({"relaxation": "batched", "optimizer": "BFGS"}, "cannot relax crystals in"),
    ],
)
def test_a_method_that_is_none_leaves_no_request_behind(here, changes, match):
    write_samples(here / "samples", [{"Au", "Cu"}], most=2)
    with pytest.raises(ValueError, match=match):
        screen.screen(options(**changes))
    assert not (here / "out" / "work").exists()


def test_other_requests_are_refused_and_replaced_when_told_to(here):
    write_samples(here / "samples", [{"Au", "Cu"}], most=4)
    first, _ = screen.screen(options())
    with pytest.raises(FileExistsError, match=r"another request.*\n.*fmax: 0.01, 0.05"):
        screen.screen(options(fmax=0.01))
    # Where it is computed makes no other request.
    again, _ = screen.screen(options(num_workers=2))
    np.testing.assert_array_equal(first.above_hull, again.above_hull)
    assert again.seconds["relax"] < 0.5
    screen.screen(options(fmax=0.01, overwrite=True))
    assert json.loads((here / "out/work/request.json").read_text())["fmax"] == 0.01
    (here / "samples" / "samples.extxyz").unlink()
    (here / "samples" / "samples.parquet").unlink()
    (here / "samples").rmdir()
    write_samples(here / "samples", [{"Au", "Cu"}], seed=1)
    with pytest.raises(FileExistsError, match="crystals_fingerprint"):
        screen.screen(options(fmax=0.01))


def test_presets_are_changed_by_what_is_said_and_no_hull_leaves_no_file(here):
    write_samples(here / "samples", [{"Au", "Cu"}], most=4)
    settings = {"preset": "paper", "max_steps": 3, "relax_cell": False}
    result, table = screen.screen(options(**settings, hull="none"))
    request = json.loads((here / "out/work/request.json").read_text())
    names = ("optimizer", "fmax", "max_steps", "relax_cell")
    assert [request[name] for name in names] == ["FIRE", 0.1, 3, False]
    assert max(table["relaxation_steps"]) <= 3
    assert not (here / "out" / "hull.json").exists()
    assert np.isnan(table["relaxed_energy_above_hull"]).all()
    assert max(table["rank"]) > 1
    assert "above hull" not in screen.report(result, table)


def test_known_crystals_are_those_of_the_run_that_made_the_samples(here, capsys):
    import tiny

    tiny.write_dataset(here / "data")
    (here / "run").mkdir()
    (here / "run" / "config.json").write_text("{}")
    vocabulary = {"dataset": str(here / "data")}
    (here / "run" / "vocabulary.json").write_text(json.dumps(vocabulary))
    b2 = structure.Crystal(
        np.array([79, 29]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), np.eye(3) * 3.1
    )
    card = {"version": 1, "title": "alloys", "not_for": "claims"}
    (here / "run" / "card.json").write_text(json.dumps(card))
    infos = [{"name": "b2", "workdir": str(here / "run")}]
    structure_files.write_extxyz(here / "b2.extxyz", [b2], infos)
    _, table = screen.screen(options(samples="b2.extxyz", known=None))
    assert table["known_as"][0].startswith("crystal-")
    assert table["rejected_stage"] == ["duplicates"]
    written = json.loads((here / "out" / "screening.json").read_text())
    assert written["generated_by"] == ["run: alloys. Not for claims"]
    # A card that cannot be read stops no screening.
    (here / "run" / "card.json").write_text("{")
    changed = options(samples="b2.extxyz", known="none", output="other")
    assert screen.screen(changed)[1]["known_as"] == [""]
    written = json.loads((here / "other" / "screening.json").read_text())
    assert "run: what it is not for is unknown" in written["generated_by"][0]
    structure_files.write_extxyz(here / "lone.extxyz", [b2], [{"name": "b2"}])
    lone = options(samples="lone.extxyz", known=None, output="lone", hull="none")
    screen.screen(lone)
    assert "give them with --known" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--calculator=vasp"], "error: unknown calculator 'vasp'"),
        (["--calculator=odd:nothing"], "has no function 'nothing'"),
        (["--calculator=emt", "--energy_model=PBE"], "comparable with no others"),
        (["--calculator=odd:build"], "--energy_model='ASE EMT'"),
        (["--calculator=emt", "--hull=no.csv"], "error: "),
        (["--calculator=emt", "--samples=nothing"], "error: nothing at nothing"),
        (["--calculator=emt", "--fmax=-1"], "fmax is -1.0; expected a positive"),
        (["--calculator=emt", "--tolerance=loose"], "expected ltol/stol/angle_tol"),
        (["--calculator=emt", "--preset=fast"], "expected one of default, paper"),
    ],
)
def test_bad_requests_are_one_line_and_leave_nothing(here, arguments, message):
    write_samples(here / "samples", [{"Au", "Cu"}])
    values = dict(each[2:].split("=") for each in arguments)
    if "fmax" in values:
        values["fmax"] = float(values["fmax"])
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        screen.screen(options(**values))
    assert message.removeprefix("error: ") in str(raised.value)
    assert not (here / "out").exists()


def test_errors_of_the_command_have_no_traceback(here):
    write_samples(here / "samples", [{"Au", "Cu"}])
    with pytest.raises(SystemExit) as raised:
        screen.main(command("--calculator=vasp", "--output=out")[3:])
    # Python prints it as a line, and ends with status 1.
    assert raised.value.code.startswith("error: unknown calculator 'vasp'")
    assert "\n" not in raised.value.code
