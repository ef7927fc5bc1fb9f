"""Checkpoints of a run (Orbax), and a trained network with all that belongs to it.

Each checkpoint has the items ``state`` (to train on), ``params`` (for sampling) and
``data`` (the position in the data).

A checkpoint that cannot be read, because files of it are missing or cut short, is
passed over: the newest whole one is taken in its place, and a note says so.
"""

import contextlib
import dataclasses
import errno
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from crystaljax.models import build, initial, scaling
from crystaljax.system import errors, sharding
from crystaljax.training import model_files, runs, train_step

# Orbax and TensorStore raise all kinds of errors for files that are missing, empty or
# cut short, a bare Exception among them. These are of something else.
_NO_DAMAGE = (RuntimeError, MemoryError, errors.UserError)

# What reads that are under way when another one fails may take.
_LATE_SECONDS = 0.1
# Entry beside the data position.
_PENDING = "pending_metrics"


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A trained network with all that belongs to it.

    Attributes:
        workdir: the run directory.
        step: of the checkpoint that was loaded.
        config: the resolved config of the run.
        model: the network.
        params: for sampling (the moving average where there is one).
        scale: units of the network.
        vocabulary: what the training structures contain.
        energy_error: of the network's estimates of energies, eV/atom, on held-out
            structures (`estimation.measure_error`); None if it has not been measured.
        picking_unit: of these estimates, where one of several draws is picked by them
            (`calibration.find_unit`), eV/atom; None if it has not been found.
    """

    workdir: pathlib.Path
    step: int
    config: Any
    model: Any
    params: Any
    scale: scaling.Scaling
    vocabulary: dict[str, Any]
    energy_error: float | None = None
    picking_unit: float | None = None


def open_manager(
    workdir: pathlib.Path, keep: int | None = None
) -> ocp.CheckpointManager:
    """The checkpoints of a run; saving is asynchronous, and atomic per step.

    Args:
        workdir: the run directory.
        keep: checkpoints to keep; None opens them for reading only.
    """
    if keep is None:
        options = ocp.CheckpointManagerOptions(read_only=True)
    else:
        # What a killed run left half written is removed.
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, cleanup_tmp_directories=True
        )
    return ocp.CheckpointManager(
        (workdir / "checkpoints").absolute(),
        options=options,
        item_handlers={
            "state": ocp.StandardCheckpointHandler(),
            "params": ocp.StandardCheckpointHandler(),
            "data": ocp.JsonCheckpointHandler(),
        },
    )


def save_state(
    manager: ocp.CheckpointManager,
    state: train_step.TrainState,
    data_position: dict[str, Any],
    pending: Sequence[dict[str, Any]] = (),
) -> None:
    """Starts saving the state, the parameters for sampling, and the data position.

    Args:
        manager: of the run's checkpoints.
        state: to be saved.
        data_position: of the iterator.
        pending: metrics of the dispatches since the last line of the log; without them
            the next line would say something else after a resume.
    """
    data = dict(data_position)
    if pending:
        data[_PENDING] = [
            {name: np.asarray(value).tolist() for name, value in each.items()}
            for each in pending
        ]
    manager.save(
        int(state.step),
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            params=ocp.args.StandardSave(state.sampling_params),
            data=ocp.args.JsonSave(data),
        ),
    )


def save_params(manager: ocp.CheckpointManager, step: int, params: Any) -> None:
    """Starts saving parameters alone: enough for `load_run`, not to train on."""
    manager.save(step, args=ocp.args.Composite(params=ocp.args.StandardSave(params)))


@contextlib.contextmanager
def explain_disk_errors(workdir: pathlib.Path) -> Iterator[None]:
    """Raises `errors.DiskError` for what the disk refuses to Orbax and TensorStore.

    Theirs are no OSErrors, and their texts take many lines.
    """
    folder = workdir / "checkpoints"
    with errors.explain_disk_errors(folder):
        try:
            yield
        except Exception as error:
            number = _find_error_number(error, folder)
            if isinstance(error, OSError | errors.UserError) or number is None:
                raise
            raise OSError(number, "cannot write", str(folder)) from error


# Less than any checkpoint takes, bytes.
_FULL = 1 << 16
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def _find_error_number(error: BaseException, folder: pathlib.Path) -> int | None:
    """What the system said when something could not be written.

    A disk that is full can end in an error of the threads that write: "Event loop is
    closed".
    """
    cause: BaseException | None = error
    while cause is not None:
        found = re.search(r"os_error_code='(\d+)'", str(cause))
        if found:
            return int(found.group(1))
        if isinstance(cause, OSError) and cause.errno in _OF_DISKS:
            return cause.errno
        cause = cause.__cause__ or cause.__context__
    there = folder if folder.exists() else folder.parent
    if isinstance(error, RuntimeError) and shutil.disk_usage(there).free < _FULL:
        return errno.ENOSPC
    return None


def restore_state(
    manager: ocp.CheckpointManager, like: train_step.TrainState, mesh: Mesh
) -> tuple[train_step.TrainState, dict[str, Any], list[dict[str, Any]]]:
    """The newest state that is whole, its data position, and pending metrics.

    Damaged newer checkpoints move to the folder damaged_checkpoints of the run: they
    would keep the run from saving the same steps again.

    Args:
        manager: of the run's checkpoints; there is at least one.
        like: a state of the same shapes.
        mesh: where the state goes.

    Raises:
        UserError: no checkpoint is whole.
    """

    def restore(step: int) -> Any:
        return manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(_on_mesh(like, mesh)),
                data=ocp.args.JsonRestore(),
            ),
        )

    folder = pathlib.Path(manager.directory)
    steps = sorted(manager.all_steps(), reverse=True)
    step, restored = _first_whole(steps, restore, folder)
    damaged = [each for each in steps if each > step]
    if damaged:
        if sharding.is_first_process():
            _set_aside(folder, damaged)
        sharding.wait_for_all("damaged checkpoints")
        manager.reload()
    position = dict(restored["data"])
    pending = [
        {name: np.float32(value) for name, value in each.items()}
        for each in position.pop(_PENDING, [])
    ]
    return restored["state"], position, pending


def _set_aside(folder: pathlib.Path, steps: list[int]) -> None:
    aside = folder.parent / "damaged_checkpoints"
    with errors.explain_disk_errors(aside):
        aside.mkdir(exist_ok=True)
        for step in steps:
            names = (f"{step}{'-' * (i > 0)}{i or ''}" for i in range(10_000))
            free = next(name for name in names if not (aside / name).exists())
            (folder / str(step)).rename(aside / free)


def _first_whole(
    steps: list[int], restore_fn: Callable[[int], Any], folder: pathlib.Path
) -> tuple[int, Any]:
    """The first of the steps that can be restored, and what was; notes on the others.

    Raises:
        UserError: none can be.
    """
    problems = []
    for step in steps:
        try:
            with _without_late_answers():
                restored = restore_fn(step)
        except Exception as error:
            if isinstance(error, _NO_DAMAGE):
                raise
            text = " ".join(str(error).split())[:160] or type(error).__name__
            problems.append(f"{folder / str(step)} is damaged ({text})")
            continue
        if problems and sharding.is_first_process():
            for problem in problems:
                print(f"note: {problem}; step {step} is used", file=sys.stderr)
        return step, restored
    raise errors.UserError(
        f"{'; '.join(problems)}; choose another `checkpoint=`, put a copy of it back, "
        "or train again in another folder"
    )


@contextlib.contextmanager
def _without_late_answers() -> Iterator[None]:
    """Says nothing of reads that end after another one has failed.

    Orbax gives up at the first array that it cannot read and closes its event loop;
    Python then prints a traceback for the others, which nobody waits for.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    except Exception:
        time.sleep(_LATE_SECONDS)
        raise
    finally:
        sys.unraisablehook = before


def load_run(workdir: str | pathlib.Path, mesh: Mesh, step: int | None = None) -> Run:
    """Loads a run for sampling.

    Args:
        workdir: the run directory.
        mesh: where the parameters go, from `sharding.build_local_mesh`. Where there
            are several processes, all must load.
        step: of the checkpoint; the newest that is whole if None.

    Raises:
        FileNotFoundError: no run, or no such checkpoint.
        UserError: the checkpoint does not fit the network of the config, or files of
            the run are missing or damaged.
    """
    workdir = pathlib.Path(workdir)
    config = runs.load_config(workdir)
    # Read before the parameters, which take longer.
    scale = scaling.load_scaling(workdir / "scaling.json")
    vocabulary = runs.load_vocabulary(workdir)
    energy_error, picking_unit = runs.load_estimator_errors(workdir)
    if model_files.is_model(workdir):
        card = model_files.verify(workdir)
        if step not in (None, card["step"]):
            raise FileNotFoundError(
                f"{workdir} is a model of step {card['step']}, without checkpoints; "
                "leave `checkpoint=` out"
            )
        model = build.build_model(config)
        whole = model_files.load_params(
            workdir, initial.param_shapes(model, config.data.rows)
        )
        loaded, params = card["step"], sharding.replicate(whole, mesh)
    else:
        model, loaded, params = _load_checkpoint(workdir, config, mesh, step)
    return Run(
        workdir=workdir,
        step=loaded,
        config=config,
        model=model,
        params=params,
        scale=scale,
        vocabulary=vocabulary,
        energy_error=energy_error,
        picking_unit=picking_unit,
    )


def _load_checkpoint(
    workdir: pathlib.Path, config: Any, mesh: Mesh, step: int | None
) -> tuple[Any, int, Any]:
    """Network, step and parameters of a checkpoint; the newest whole one if None."""
    with open_manager(workdir) as manager:
        steps = sorted(manager.all_steps(), reverse=True)
        if not steps or (step is not None and step not in steps):
            raise FileNotFoundError(
                f"{workdir} has no checkpoint{'' if step is None else f' {step}'} "
                f"(found: {sorted(steps) or 'none'}); train longer, or choose another"
            )
        model = build.build_model(config)
        like = initial.param_shapes(model, config.data.rows)

        def restore(step: int) -> Any:
            saved = manager.item_metadata(step).params
            if saved is None or not jax.tree.leaves(saved):
                raise ValueError("the description of its parameters is missing")
            _require_same_shapes(saved, like, workdir)
            whole = ocp.args.StandardRestore(_on_mesh(like, sharding.build_mesh()))
            return manager.restore(step, args=ocp.args.Composite(params=whole)).params

        step, params = _first_whole(
            steps if step is None else [step], restore, workdir / "checkpoints"
        )
    return model, step, sharding.localize(params, mesh)


def _require_same_shapes(saved: Any, expected: Any, workdir: pathlib.Path) -> None:
    """Raises ValueError naming the arrays in which a checkpoint differs."""

    def shapes(tree):
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        return {
            jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
            for path, leaf in leaves
        }

    saved_shapes, expected_shapes = shapes(saved), shapes(expected)
    differing = [
        f"{name}: {saved_shapes.get(name, 'missing')} in the checkpoint, "
        f"{expected_shapes.get(name, 'none')} in the network"
        for name in sorted(saved_shapes.keys() | expected_shapes.keys())
        if saved_shapes.get(name) != expected_shapes.get(name)
    ]
    if differing:
        raise errors.UserError(
            f"the checkpoint in {workdir} is not of the network in its config.json; "
            f"{len(differing)} arrays differ, first:\n  " + "\n  ".join(differing[:5])
        )


def _on_mesh(tree: Any, mesh: Mesh) -> Any:
    whole = sharding.replicated(mesh)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), tree
    )
