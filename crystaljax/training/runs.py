"""A run directory: config, environment, units, vocabulary, checkpoints, logs.

config.json        the resolved config
environment.json   versions, commit, devices, command
scaling.json       units of the network
vocabulary.json    what the training structures contain
checkpoints/       Orbax; each with the items state, params and data
metrics.jsonl      one line per log interval; tensorboard/ has the same
"""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from ml_collections import config_dict

from crystaljax import defaults
from crystaljax.models import build, initial, scaling
from crystaljax.models.networks import interface
from crystaljax.system import atomic_files, environment, errors, sharding
from crystaljax.training import train_step


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


def create_run(
    workdir: pathlib.Path,
    config: Any,
    scale: scaling.Scaling,
    vocabulary: dict[str, Any],
) -> None:
    """Fills a new run directory; config.json comes last and marks it complete."""
    workdir.mkdir(parents=True, exist_ok=True)
    atomic_files.write_json(
        workdir / "environment.json", environment.describe_environment()
    )
    atomic_files.write_json(workdir / "vocabulary.json", vocabulary)
    scaling.save_scaling(scale, workdir / "scaling.json")
    atomic_files.write_json(workdir / "config.json", config.to_dict())


def is_run(workdir: pathlib.Path) -> bool:
    """Whether `create_run` finished there."""
    return (workdir / "config.json").exists()


def load_config(workdir: pathlib.Path) -> Any:
    """The config of a run.

    Keys that came after the run was made have the values that change nothing.

    Raises:
        FileNotFoundError: there is no run.
    """
    if not is_run(workdir):
        raise FileNotFoundError(
            f"{workdir} holds no run (no config.json); train one with "
            f"`python -m crystaljax.train --config=… --workdir={workdir}`"
        )
    saved = json.loads((workdir / "config.json").read_text())
    config = defaults.paper(saved.get("task", "generation")).to_dict()
    for name, value in saved.items():
        is_section = isinstance(value, dict) and isinstance(config.get(name), dict)
        config[name] = config[name] | value if is_section else value
    return config_dict.ConfigDict(config)


def load_vocabulary(workdir: pathlib.Path) -> dict[str, Any]:
    """What the training structures of a run contain."""
    return json.loads((workdir / "vocabulary.json").read_text())


def open_checkpoints(
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


def save_checkpoint(
    checkpoints: ocp.CheckpointManager,
    state: train_step.TrainState,
    data_position: dict[str, Any],
) -> None:
    """Starts saving the state, the parameters for sampling, and the data position."""
    checkpoints.save(
        int(state.step),
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            params=ocp.args.StandardSave(state.sampling_params),
            data=ocp.args.JsonSave(data_position),
        ),
    )


def save_params(checkpoints: ocp.CheckpointManager, step: int, params: Any) -> None:
    """Starts saving parameters alone: enough for `load_run`, not to train on."""
    checkpoints.save(
        step, args=ocp.args.Composite(params=ocp.args.StandardSave(params))
    )


def restore_state(
    checkpoints: ocp.CheckpointManager, like: train_step.TrainState, mesh: Mesh
) -> tuple[train_step.TrainState, dict[str, Any]]:
    """The newest state and data position.

    Args:
        checkpoints: of the run; there is at least one.
        like: a state of the same shapes.
        mesh: where the state goes.
    """
    restored = checkpoints.restore(
        checkpoints.latest_step(),
        args=ocp.args.Composite(
            state=ocp.args.StandardRestore(_on_mesh(like, mesh)),
            data=ocp.args.JsonRestore(),
        ),
    )
    return restored["state"], restored["data"]


def save_energy_error(workdir: pathlib.Path, error: float) -> None:
    """Keeps the error of the estimated energies, eV/atom, with a run."""
    atomic_files.write_json(workdir / "estimator.json", {"energy_error": error})


def _load_energy_error(workdir: pathlib.Path) -> float | None:
    path = workdir / "estimator.json"
    if not path.exists():
        return None
    return json.loads(path.read_text())["energy_error"]


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
    config = load_config(workdir)
    with open_checkpoints(workdir) as checkpoints:
        steps = checkpoints.all_steps()
        step = checkpoints.latest_step() if step is None else step
        if step not in steps:
            raise FileNotFoundError(
                f"{workdir} has no checkpoint{'' if step is None else f' {step}'} "
                f"(found: {sorted(steps) or 'none'}); train longer, or choose another"
            )
        model = build.build_model(config)
        like = initial.param_shapes(model, config.data.rows)
        _require_same_shapes(checkpoints.item_metadata(step).params, like, workdir)
        restored = checkpoints.restore(
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
        vocabulary=load_vocabulary(workdir),
        energy_error=_load_energy_error(workdir),
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
