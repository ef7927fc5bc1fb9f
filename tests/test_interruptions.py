"""Commands that are killed, asked to stop, or started twice in one folder."""

import errno
import importlib
import json
import multiprocessing
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from crystaljax import command_line
from crystaljax.system import atomic_files, errors, folder_locks, interruption, options

ROOT = pathlib.Path(__file__).parents[1]
# The children that are forked here compute nothing.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*os.fork.*:RuntimeWarning"),
    pytest.mark.filterwarnings(
        "ignore:.*_at_fork.*:pytest.PytestUnraisableExceptionWarning"
    ),
]


# ------------------------------------------------------------------- kills, really done
def test_killed_commands_go_on_to_the_same_end(tmp_path, compilation):
    """Nine kills at random moments.

    `train`, `sample` and `screen`, one crystal at a time, are killed in the tests of
    their own: test_training, test_requests, test_screen.
    """
    # Forks need a process that has started no threads yet.
    found = subprocess.run(
        [
            *(sys.executable, str(ROOT / "experiments" / "chaos" / "run.py")),
            *("--small", "--kills=3", "--commands=prepare,collect,screen batched"),
            f"--output={tmp_path / 'kills.json'}",
            f"--folder={tmp_path / 'work'}",
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    counts = json.loads((tmp_path / "kills.json").read_text())
    num_kills = 0
    for name, each in counts.items():
        for chain in each["chains"]:
            num_kills += len(chain["kills"])
            assert "failed" not in chain, f"{name}: {chain['failed']}"
            assert not (chain["lost"] or chain["different"] or chain["hanging"]), name
    assert num_kills == 9


# -------------------------------------------------------------------------------- locks
def hold_until_killed(folder, connection):
    with folder_locks.hold(folder, "wait"):
        connection.send(os.getpid())
        time.sleep(600)


@pytest.fixture
def holder(tmp_path):
    """A process that has the folder ``out``."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=hold_until_killed, args=(tmp_path / "out", theirs))
    process.start()
    assert ours.poll(60) and ours.recv() == process.pid
    yield process
    process.kill()
    process.join()


def test_who_has_a_folder_is_said(tmp_path, holder):
    with (
        pytest.raises(FileExistsError) as caught,
        folder_locks.hold(tmp_path / "out", "choose another --output"),
    ):
        pass
    text = str(caught.value)
    assert (
        f"out is being written by process {holder.pid} on {socket.gethostname()}"
        in (text)
    )
    assert text.endswith("wait for it to end, or choose another --output")


def test_the_lock_of_a_killed_process_is_in_nobodys_way(tmp_path, holder):
    holder.kill()
    holder.join()
    path = tmp_path / "out" / folder_locks.NAME
    assert path.exists()
    with folder_locks.hold(tmp_path / "out", ""):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()


@pytest.mark.parametrize("existed", [False, True])
def test_a_lock_leaves_nothing(tmp_path, existed):
    folder = tmp_path / "out"
    if existed:
        folder.mkdir()
    with pytest.raises(RuntimeError), folder_locks.hold(folder, ""):
        raise RuntimeError
    assert folder.exists() == existed and not list(tmp_path.rglob("*.lock"))


def test_a_file_system_without_locks_is_used_with_a_note(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(folder_locks.fcntl, "flock", refuse)
    with folder_locks.hold(tmp_path / "out", ""):
        pass
    assert "without locks" in capsys.readouterr().err


TWICE = {
    "prepare": ["--source=builtin", "--output=out"],
    "collect": ["--runs=.", "--output=out"],
}


@pytest.mark.parametrize("verb", TWICE)
def test_a_command_is_refused_where_another_one_runs(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / (".out.partial" if verb == "prepare" else "out")
    with folder_locks.hold(place, ""):
        # The lock is of an opened file, and so refused in the same process too.
        main = importlib.import_module(f"crystaljax.{verb}").main
        with pytest.raises(SystemExit, match=f"written by process {os.getpid()} on "):
            main(TWICE[verb])


# ------------------------------------------------------------------------------ signals
def send(which=signal.SIGTERM):
    os.kill(os.getpid(), which)


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_command_has_a_status_of_its_own(which, capsys):
    @options.frozen
    class Options:
        pass

    before = signal.getsignal(which)

    def work(_):
        send(which)
        time.sleep(60)

    command = command_line.Command(
        "wait", "", (Options,), work, uses_devices=False, goes_on="go on"
    )
    with pytest.raises(SystemExit) as caught:
        command_line.run(command, [])
    assert caught.value.code == interruption.EXIT_STATUS == 75
    assert capsys.readouterr().err == f"stopped by {which.name}; go on\n"
    assert signal.getsignal(which) == before


def test_a_signal_waits_until_what_is_under_way_is_done():
    done = []
    with pytest.raises(interruption.Stopped), interruption.handled():
        with interruption.deferred():
            with interruption.deferred():
                send()
                done.append("inner")
            assert interruption.is_requested()
            done.append("outer")
        done.append("never")
    assert done == ["inner", "outer"]


def test_a_signal_does_not_wait_where_it_need_not():
    done = []
    with interruption.handled(), interruption.deferred():
        with pytest.raises(interruption.Stopped), interruption.at_once():
            send()
            done.append("never")
        assert not done and not interruption.is_requested()
        # One that came before.
        send()
        with pytest.raises(interruption.Stopped), interruption.at_once():
            done.append("never")
        with pytest.raises(interruption.Stopped):
            send()
            with interruption.at_once(False):
                done.append("here")
            interruption.stop()
    assert done == ["here"]


def test_ctrl_c_twice_does_not_wait():
    with (
        pytest.raises(interruption.Stopped),
        interruption.handled(),
        interruption.deferred(),
    ):
        send(signal.SIGINT)
        send(signal.SIGINT)
        pytest.fail("waited")


def test_a_stop_that_is_lost_comes_again(monkeypatch):
    monkeypatch.setattr(interruption, "_REPEAT_SECONDS", 0.05)

    class Thing:
        def __del__(self):
            # Python prints what a destructor raises, and goes on.
            send()

    hook = []
    monkeypatch.setattr(sys, "unraisablehook", hook.append)
    start = time.monotonic()
    with pytest.raises(interruption.Stopped), interruption.handled():
        thing = Thing()
        del thing
        time.sleep(60)
    assert time.monotonic() - start < 30 and len(hook) == 1
    # And not after the end.
    time.sleep(0.1)


def test_other_threads_leave_signals_alone():
    found = []

    def work():
        with interruption.handled():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


# --------------------------------------------------------------------------- leftovers
def test_what_a_killed_process_left_is_removed_or_finished(tmp_path):
    for name in (".table.csv.123.tmp", ".my.file", "table.csv.tmp"):
        (tmp_path / name).write_text("x")
    for name in (".cifs.12.ab_c1.tmp", ".old.old-7", ".new.old-7", "new", ".whole"):
        (tmp_path / name).mkdir()
    (tmp_path / ".old.old-7" / "kept").write_text("x")
    (tmp_path / ".whole" / "table.csv").write_text("whole")
    (tmp_path / "table.csv").write_text("old")
    atomic_files.remove_leftovers(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {".my.file", "table.csv.tmp", "old", "new", "table.csv"}
    assert (tmp_path / "old" / "kept").exists()
    assert (tmp_path / "table.csv").read_text() == "whole"


def test_files_of_a_group_appear_together_or_not_at_all(tmp_path):
    with pytest.raises(errors.DiskError), atomic_files.group(tmp_path) as folder:
        (folder / "one").write_text("half")
        raise OSError(errno.ENOSPC, "full", str(folder / "one"))
    assert not list(tmp_path.iterdir())
    with atomic_files.group(tmp_path) as folder:
        (folder / "one").write_text("1")
        (folder / "two").write_text("2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
