"""Files of a run removed, emptied and cut in half; disks that are full or read-only."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap
import time
import types

import jax
import numpy as np
import pytest
import tiny

from configs import ddim
from crystaljax import train
from crystaljax.models import build, scaling
from crystaljax.system import errors, sharding, startup
from crystaljax.training import checkpoints, metrics, runs, train_step

ROOT = pathlib.Path(__file__).parents[1]
# Settings of JAX's cache of programs.
NAMES = ("jax_compilation_cache_dir", "jax_compilation_cache_max_size")
DAMAGES = ("removed", "emptied", "cut")


def damage(path, how):
    content = path.read_bytes()
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2 * (how == "cut")])


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def are_equal(one, other):
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in leaves)


@pytest.fixture(scope="module", autouse=True)
def small_network():
    """Orbax reads one array after another: runs are of a network that has few.

    They are large enough for files of their own.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "_LATE_SECONDS", 0.02)
        network = tiny.SmallNetwork(width=5000)
        patch.setattr(build, "build_model", lambda config: network)
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    dataset = tmp_path_factory.mktemp("data") / "alloys"
    tiny.write_dataset(dataset)
    return tiny.shrink(ddim.get_config("smoke"), dataset)


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """A run with checkpoints 0 and 1, and their parameters."""
    path = tmp_path_factory.mktemp("runs") / "run"
    tiny.write_run(path, config)
    runs.save_estimator_errors(path, 0.1)
    params = jax.device_get(load(path).params)
    other = jax.tree.map(lambda leaf: leaf + 1, params)
    with checkpoints.open_manager(path, keep=2) as manager:
        checkpoints.save_params(manager, 1, other)
    return path, [params, other]


def load(path, step=None):
    return checkpoints.load_run(path, sharding.build_local_mesh(), step)


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        ('{"energy_error": 0.1}', (0.1, None)),
        ('{"energy_error": 0.1, "picking_unit": 0.05}', (0.1, 0.05)),
        ('{"energy_error": Infinity}', (float("inf"), None)),
        ('{"energy_error": 0.1, "picking_unit": 0}', None),
        ('{"energy_error": 0.1, "picking_unit": NaN}', None),
        ('{"energy_error": 0.1, "picking_unit": "much"}', None),
        ('{"energy_error": null}', None),
        ('{"picking_unit": 0.05}', None),
    ],
)
def test_what_is_known_of_estimates_is_read_or_refused(tmp_path, saved, expected):
    (tmp_path / "estimator.json").write_text(saved)
    if expected is None:
        with pytest.raises(ValueError, match=r"estimator\.json has no number"):
            runs.load_estimator_errors(tmp_path)
    else:
        assert runs.load_estimator_errors(tmp_path) == expected
        runs.save_estimator_errors(tmp_path, *expected)
        assert runs.load_estimator_errors(tmp_path) == expected


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(run, tmp_path, how, capfd):
    path, params = run
    num_damaged = 0
    for file in files(path / "checkpoints" / "1"):
        copy = tmp_path / "copy"
        shutil.copytree(path, copy)
        place = copy / file.relative_to(path)
        damage(place, how)
        loaded = load(copy)
        # Some files say nothing that is not elsewhere too.
        assert are_equal(jax.device_get(loaded.params), params[loaded.step])
        note = capfd.readouterr().err
        assert ("checkpoints/1 is damaged" in note) == (loaded.step == 0)
        if loaded.step == 0:
            num_damaged += 1
            assert "step 0 is used" in note
            with pytest.raises(errors.UserError, match=r"1 is damaged .*`checkpoint=`"):
                load(copy, 1)
        shutil.rmtree(copy)
    # The arrays, what leads to them, and how they are laid out.
    assert num_damaged >= 4


@pytest.mark.parametrize("how", DAMAGES)
def test_other_files_of_a_run_are_whole_or_refused(run, tmp_path, how):
    path, params = run
    others = [each for each in files(path) if "checkpoints" not in each.parts]
    names = {file.name for file in others}
    assert {"config.json", "scaling.json", "vocabulary.json"} < names
    for file in others:
        shutil.copytree(path, tmp_path / "copy")
        damage(tmp_path / "copy" / file.name, how)
        if file.name == "environment.json" or (
            file.name == "estimator.json" and how == "removed"
        ):
            loaded = load(tmp_path / "copy")
            assert are_equal(jax.device_get(loaded.params), params[1])
        else:
            with pytest.raises(errors.UserError, match=rf"{file.name} is .*; put a"):
                load(tmp_path / "copy")
        shutil.rmtree(tmp_path / "copy")


def test_checkpoints_of_a_lost_config_are_no_new_run(run, config, tmp_path):
    shutil.copytree(run[0], tmp_path / "copy")
    (tmp_path / "copy" / "config.json").unlink()
    before = files(tmp_path / "copy")
    for resume in (False, True):
        with pytest.raises(errors.UserError, match=r"config\.json is missing"):
            train.train(config, tmp_path / "copy", resume=resume, show_progress=False)
    assert files(tmp_path / "copy") == before


@pytest.mark.parametrize("name", ["scaling.json", "vocabulary.json"])
def test_a_run_that_could_not_be_sampled_is_not_resumed(run, config, tmp_path, name):
    shutil.copytree(run[0], tmp_path / "copy")
    damage(tmp_path / "copy" / name, "cut")
    with pytest.raises(errors.UserError, match=f"{name} is damaged"):
        train.train(config, tmp_path / "copy", resume=True, show_progress=False)


# ------------------------------------------------------------------------------- resume
def state(step):
    weights = {"w": np.arange(6.0).reshape(2, 3) + step, "b": np.full(4, step)}
    return train_step.TrainState(np.int32(step), weights, weights, weights, None)


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    path = tmp_path_factory.mktemp("states")
    with checkpoints.open_manager(path, keep=9) as manager:
        for step in (2, 4):
            checkpoints.save_state(manager, state(step), {"position": step})
            manager.wait_until_finished()
    return path


def restore(path):
    with checkpoints.open_manager(path, keep=9) as manager:
        restored, position, _ = checkpoints.restore_state(
            manager, state(0), sharding.build_mesh()
        )
        step = int(restored.step)
        # It goes on: the same steps are saved anew.
        if step == 2:
            checkpoints.save_state(manager, state(4), {"position": 4})
            manager.wait_until_finished()
            assert manager.latest_step() == 4
    assert position == {"position": step}
    assert are_equal(jax.device_get(restored), state(step))
    return step


@pytest.mark.parametrize("how", DAMAGES)
def test_a_run_goes_on_from_the_last_whole_state(states, tmp_path, how):
    steps = []
    for file in files(states / "checkpoints" / "4"):
        copy = tmp_path / "copy"
        shutil.copytree(states, copy)
        damage(copy / file.relative_to(states), how)
        damaged = files(copy / "checkpoints" / "4")
        steps.append(restore(copy))
        if steps[-1] == 2:
            # What was there is kept.
            assert len(files(copy / "damaged_checkpoints" / "4")) == len(damaged)
            assert restore(copy) == 4
        shutil.rmtree(copy)
    assert steps.count(2) >= 3


def test_without_a_whole_state_nothing_is_made_up(states, tmp_path):
    shutil.copytree(states, tmp_path / "copy")
    for step in ("2", "4"):
        damage(tmp_path / "copy" / "checkpoints" / step / "data" / "metadata", "cut")
    before = files(tmp_path / "copy")
    with pytest.raises(errors.UserError, match=r"/4 is damaged .*/2 is damaged"):
        restore(tmp_path / "copy")
    assert files(tmp_path / "copy") == before


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_log_of_metrics_keeps_its_whole_lines(tmp_path, how):
    log = metrics.MetricsLog(tmp_path, 0)
    for step in range(1, 6):
        log.write(step, {"loss": 1.0})
    log.close()
    for file in files(tmp_path):
        damage(file, how)
    log = metrics.MetricsLog(tmp_path, 4)
    log.write(5, {"loss": 2.0})
    log.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == ([1, 2, 5] if how == "cut" else [5])


# -------------------------------------------------------------------------------- disks
def may_mount():
    """Whether a name space in which file systems may be mounted is allowed."""
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not may_mount(), reason="no file system may be mounted here")
def test_a_full_disk_says_so_in_one_line(tmp_path):
    script = """
        import pathlib, subprocess
        import numpy as np
        from crystaljax.system import errors
        from crystaljax.training import checkpoints, train_step

        def mount(name, size, *options):
            folder = pathlib.Path(name)
            folder.mkdir()
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", name],
                check=True,
            )
            return folder

        def save(manager, step, size):
            weights = {"w": np.random.default_rng(step).normal(size=size)}
            state = train_step.TrainState(np.int32(step), weights, (), None, None)
            checkpoints.save_state(manager, state, {})
            manager.wait_until_finished()

        full = mount("full", "1m")
        try:
            with checkpoints.explain_disk_errors(full):
                with checkpoints.open_manager(full, keep=2) as manager:
                    save(manager, 1, 1000)
                    save(manager, 2, 300_000)
        except errors.DiskError as error:
            print(error)
        with checkpoints.open_manager(full) as manager:
            print("kept", manager.all_steps())
    """
    found = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    full, kept = found.stdout.splitlines()
    assert full.startswith("full/checkpoints: the disk is full")
    assert kept == "kept [1]"


def test_a_run_below_a_file_is_refused(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        SystemExit, match=r"^error: .*file.*: part of the path is a file"
    ):
        train.main(["--config=ddim:smoke", f"--workdir={tmp_path / 'file' / 'run'}"])


def test_scaling_of_other_fields_is_damaged(tmp_path):
    (tmp_path / "scaling.json").write_text('{"coords_mean": 0}')
    with pytest.raises(errors.UserError, match=r"scaling\.json is damaged"):
        scaling.load_scaling(tmp_path / "scaling.json")


# ----------------------------------------------------------------- cache of programs
@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Folder of the cache; JAX's settings as they were afterwards."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    startup.enable_compilation_cache()
    yield pathlib.Path(getattr(jax.config, NAMES[0]))
    for name, value in before.items():
        jax.config.update(name, value)


def test_unfinished_entries_of_the_cache_are_removed(cache):
    content = {
        "whole-cache": b"1",
        "whole-atime": b"1",
        "orphan-cache": b"1",
        "empty-cache": b"",
        "empty-atime": b"1",
        "lonely-atime": b"1",
        "new-cache": b"1",
    }
    hour_ago = time.time() - 3600
    for name, each in content.items():
        (cache / name).write_bytes(each)
        if not name.startswith("new"):
            os.utime(cache / name, (hour_ago, hour_ago))
    jax.config.update("jax_compilation_cache_dir", None)
    startup.enable_compilation_cache()
    left = {path.name for path in cache.iterdir()}
    assert left == {"whole-cache", "whole-atime", "lonely-atime", "new-cache"}


def test_a_cache_that_cannot_be_written_is_done_without(cache, monkeypatch, capsys):
    (cache / "file").write_text("")
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "file"))
    startup.enable_compilation_cache()
    assert getattr(jax.config, NAMES[0]) is None
    note = capsys.readouterr().err
    assert "programs are not kept" in note and "part of the path is a file" in note
    assert note.count("\n") == 1


def test_a_cut_entry_of_the_cache_is_compiled_again_with_one_line(tmp_path):
    script = """
        import jax, pathlib, sys
        from crystaljax.system import startup
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_compilation_cache_dir", None)
        startup.enable_compilation_cache()
        def triple(x):
            return 3 * x
        print(jax.jit(triple)(2.0))
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": "cache"}
    for is_damaged in (False, True):
        entries = list(tmp_path.glob("cache/**/jit_triple-*-cache"))
        if is_damaged:
            whole = entries[0].read_bytes()
            damage(entries[0], "cut")
        found = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert found.stdout == "6.0\n", found.stderr
        lines = found.stderr.splitlines()
        assert len(lines) == is_damaged
        if is_damaged:
            assert "damaged and is compiled again" in lines[0]
            # It is kept again.
            assert len(entries[0].read_bytes()) == len(whole)


def test_an_orphan_of_the_future_is_removed(cache):
    # By a clock that has been set back.
    (cache / "orphan-cache").write_bytes(b"1")
    later = time.time() + 3600
    os.utime(cache / "orphan-cache", (later, later))
    jax.config.update("jax_compilation_cache_dir", None)
    startup.enable_compilation_cache()
    assert not (cache / "orphan-cache").exists()


@pytest.mark.parametrize("kind", ["cause", "context", "full disk", "other"])
def test_errors_of_writing_threads_on_a_full_disk_are_those_of_the_disk(
    kind, tmp_path, monkeypatch
):
    free = 0 if kind == "full disk" else 1 << 40
    usage = types.SimpleNamespace(total=1 << 41, used=0, free=free)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: usage)

    def write():
        try:
            raise ValueError("TensorStore: os_error_code='28'")
        except ValueError as error:
            if kind == "cause":
                raise RuntimeError("Event loop is closed") from error
            raise RuntimeError("Event loop is closed")  # noqa: B904

    def run():
        with checkpoints.explain_disk_errors(tmp_path):
            if kind in ("full disk", "other"):
                raise RuntimeError("Event loop is closed")
            write()

    if kind == "other":
        with pytest.raises(RuntimeError, match="Event loop"):
            run()
        return
    with pytest.raises(errors.DiskError, match="No space left"):
        run()
