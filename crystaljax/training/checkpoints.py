"""Checkpoints of a run (Orbax), and a trained network with all that belongs to it.

Each checkpoint has the items ``state`` (to train on), ``params`` (for sampling) and
``data`` (the position in the data).
"""

import dataclasses
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from crystaljax.models import build, initial, scaling
from crystaljax.models.networks import interface
from crystaljax.system import errors, sharding
from crystaljax.training import runs, train_step


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
    """

    workdir: pathlib.Path
    step: int
    config: Any
    model: interface.Network
    params: Any
    scale: scaling.Scaling
    vocabulary: dict[str, Any]
    energy_error: float | None = None


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
) -> None:
    """Starts saving the state, the parameters for sampling, and the data position."""
    manager.save(
        int(state.step),
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            params=ocp.args.StandardSave(state.sampling_params),
            data=ocp.args.JsonSave(data_position),
        ),
    )


def save_params(manager: ocp.CheckpointManager, step: int, params: Any) -> None:
    """Starts saving parameters alone: enough for `load_run`, not to train on."""
    manager.save(step, args=ocp.args.Composite(params=ocp.args.StandardSave(params)))


def restore_state(
    manager: ocp.CheckpointManager, like: train_step.TrainState, mesh: Mesh
) -> tuple[train_step.TrainState, dict[str, Any]]:
    """The newest state and data position.

    Args:
        manager: of the run's checkpoints; there is at least one.
        like: a state of the same shapes.
        mesh: where the state goes.
    """
    restored = manager.restore(
        manager.latest_step(),
        args=ocp.args.Composite(
            state=ocp.args.StandardRestore(_on_mesh(like, mesh)),
            data=ocp.args.JsonRestore(),
        ),
    )
    return restored["state"], restored["data"]


def load_run(workdir: str | pathlib.Path, mesh: Mesh, step: int | None = None) -> Run:
    """Loads a run for sampling.

    Args:
        workdir: the run directory.
        mesh: where the parameters go, from `sharding.build_local_mesh`. Where there
            are several processes, all must load.
        step: of the checkpoint; the newest if None.

    Raises:
        FileNotFoundError: no run, or no such checkpoint.
        ValueError: the checkpoint does not fit the network of the config.
    """
    workdir = pathlib.Path(workdir)
    config = runs.load_config(workdir)
    with open_manager(workdir) as manager:
        steps = manager.all_steps()
        step = manager.latest_step() if step is None else step
        if step not in steps:
            raise FileNotFoundError(
                f"{workdir} has no checkpoint{'' if step is None else f' {step}'} "
                f"(found: {sorted(steps) or 'none'}); train longer, or choose another"
            )
        model = build.build_model(config)
        like = initial.param_shapes(model, config.data.rows)
        _require_same_shapes(manager.item_metadata(step).params, like, workdir)
        restored = manager.restore(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(_on_mesh(like, sharding.build_mesh()))
            ),
        )
    return Run(
        workdir=workdir,
        step=step,
        config=config,
        model=model,
        params=sharding.localize(restored.params, mesh),
        scale=scaling.load_scaling(workdir / "scaling.json"),
        vocabulary=runs.load_vocabulary(workdir),
        energy_error=runs.load_energy_error(workdir),
    )


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
