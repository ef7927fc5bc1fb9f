import os
import signal
import subprocess
import sys
import time

import behaving
import psutil
import pytest

from crystaljax.system import isolation

ONE, TWO = (isolation.WorkerOptions(num_workers=n) for n in (1, 2))


def collect(items, **kwargs):
    timeout = kwargs.pop("timeout", 30.0)
    options = isolation.WorkerOptions(**{"num_workers": 2} | kwargs)
    return dict(isolation.map_isolated(behaving.behave, items, timeout, options))


def children():
    return {p.pid for p in psutil.Process().children(recursive=True)}


def test_results_come_with_their_numbers():
    items = [(number, "") for number in range(20)]
    assert collect(items) == {number: 2 * number for number in range(20)}
    assert collect([]) == {}


def test_bad_items_cost_themselves_and_nothing_else():
    kinds = ["", "exit", "", "segfault", "sleep", "", "stubborn", "child", "", ""]
    found = collect(list(enumerate(kinds)), timeout=1.5)
    assert len(found) == len(kinds)
    for number, kind in enumerate(kinds):
        if not kind:
            assert found[number] == 2 * number
    assert found[1] == isolation.Lost(
        "the worker process died with exit code 3; the last it printed: about to leave"
    )
    assert "by signal 11 (SIGSEGV)" in found[3].reason
    for number in (4, 6, 7):
        assert found[number] == isolation.Lost("timed out after 1.5 s")


def test_an_innocent_item_has_a_second_chance(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    paths = [str(tmp_path / "marker")]
    found = dict(isolation.map_isolated(behaving.die_once, paths, 30.0, ONE))
    assert found == {0: "1"}


def test_time_to_start_is_not_the_items():
    # Starting takes longer than this.
    assert collect([(1, "")], timeout=0.05) == {0: 2}


def test_exceptions_are_passed_on_with_where_they_came_from():
    with pytest.raises(RuntimeError, match=r"(?s)in behave.*no such thing"):
        collect([(1, "raise")])


def test_no_process_is_left_behind():
    before = children()
    items = [(number, "pause") for number in range(40)]
    results = isolation.map_isolated(behaving.behave, items, 30.0, TWO)
    next(results)
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < 3
    assert children() <= before


def test_processes_end_with_the_one_that_asked():
    script = (
        "import sys; sys.path.insert(0, 'tests'); import behaving\n"
        "from crystaljax.system import isolation\n"
        "items = [(1, ''), (2, 'sleep')]\n"
        "fn = behaving.behave\n"
        "for each in isolation.map_isolated(fn, items, timeout=60.0):\n"
        "    print('ready', flush=True)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        cwd=os.path.dirname(os.path.dirname(__file__)),
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    orphans = psutil.Process(parent.pid).children()
    assert orphans
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(orphans, timeout=10)
    assert not alive


@pytest.fixture
def cluster():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as running:
        yield running


def test_nothing_is_lost_with_a_worker_of_the_cluster(cluster):
    kinds = ["pause"] * 24
    kinds[5] = "exit"
    results = isolation.map_isolated(
        behaving.behave,
        list(enumerate(kinds)),
        30.0,
        isolation.WorkerOptions(cluster=cluster.scheduler_address),
    )
    found = dict([next(results)])
    victim = next(iter(cluster.workers.values())).pid
    os.kill(victim, signal.SIGKILL)
    found |= dict(results)
    assert "exit code 3" in found.pop(5).reason
    assert found == {number: 2 * number for number in range(24) if number != 5}


def test_a_cluster_that_is_not_there_is_named(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(isolation, "_CLUSTER_SECONDS", 1.0)
    with pytest.raises(ValueError, match="does not answer"):
        collect([(1, "")], cluster="tcp://127.0.0.1:9")


def test_missing_dask_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match="'cluster' extra"):
        collect([(1, "")], cluster="tcp://127.0.0.1:9")
