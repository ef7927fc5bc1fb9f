"""A run directory: config, environment, units, vocabulary, checkpoints, logs.

config.json        the resolved config
environment.json   versions, commit, devices, command
scaling.json       units of the network
vocabulary.json    what the training structures contain
estimator.json     errors of the network's estimates of energies, if it makes any
positions.npz      models of energies, groups and positions, where it works on orbits
checkpoints/       see `crystaljax.training.checkpoints`
metrics.jsonl      one line per log interval; tensorboard/ has the same

What is read of a run here needs no JAX: commands that only look up its config or its
data set start quickly.
"""

import contextlib
import math
import pathlib
from typing import TYPE_CHECKING, Any

from ml_collections import config_dict

from crystaljax import defaults
from crystaljax.system import atomic_files, environment, errors, saved_requests

if TYPE_CHECKING:
    from crystaljax.models import scaling

# What to do where a file of a run cannot be read.
REMEDY = "put a copy of it back, or train again in another folder"


# Of a run on orbits, see `models.wyckoff_files`.
POSITIONS = "positions.npz"


def create_run(
    workdir: pathlib.Path,
    config: Any,
    scale: "scaling.Scaling",
    vocabulary: dict[str, Any],
) -> None:
    """Fills a new run directory; config.json comes last and marks it complete."""
    # Brings JAX.
    from crystaljax.models import scaling

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
        UserError: its config.json is missing or damaged.
    """
    require_config_or_nothing(workdir)
    if not is_run(workdir):
        raise FileNotFoundError(
            f"{workdir} holds no run (no config.json); train one with "
            f"`crystaljax train --config=… --workdir={workdir}`"
        )
    saved = load_json(workdir / "config.json")
    config = defaults.paper(saved.get("task", "generation")).to_dict()
    sampler = saved.get("sampler", {})
    if "candidates" in sampler:
        # Its name in runs of older versions.
        sampler["draws"] = sampler.pop("candidates")
    for name, value in saved.items():
        is_section = isinstance(value, dict) and isinstance(config.get(name), dict)
        config[name] = config[name] | value if is_section else value
    return config_dict.ConfigDict(config)


def has_checkpoint(workdir: pathlib.Path) -> bool:
    """Whether there is a checkpoint, whole or not."""
    return any((workdir / "checkpoints").glob("[0-9]*"))


def require_config_or_nothing(workdir: pathlib.Path) -> None:
    """Raises UserError if a folder has checkpoints but not the config of their network.

    They are never of a run that is about to start: `create_run` comes before them.
    """
    if not is_run(workdir) and has_checkpoint(workdir):
        raise errors.UserError(
            f"{workdir / 'config.json'} is missing, and {workdir} has checkpoints; "
            f"{REMEDY}"
        )


def load_json(path: pathlib.Path) -> dict[str, Any]:
    """A file of a run; raises UserError if it is missing or damaged."""
    saved = saved_requests.load(path, REMEDY)
    if saved is None:
        raise errors.UserError(f"{path} is missing; {REMEDY}")
    return saved


def load_vocabulary(workdir: pathlib.Path) -> dict[str, Any]:
    """What the training structures of a run contain.

    Raises:
        UserError: vocabulary.json is missing or damaged.
    """
    return load_json(workdir / "vocabulary.json")


def save_estimator_errors(
    workdir: pathlib.Path, error: float, unit: float | None = None
) -> None:
    """Keeps what is known of the estimated energies with a run.

    Args:
        workdir: the run directory.
        error: `estimation.measure_error`, eV/atom.
        unit: `calibration.find_unit`, eV/atom; None where it was not found.
    """
    known = {"energy_error": error, "picking_unit": unit}
    atomic_files.write_json(
        workdir / "estimator.json",
        {name: value for name, value in known.items() if value is not None},
    )


def load_estimator_errors(
    workdir: pathlib.Path,
) -> tuple[float | None, float | None]:
    """What `save_estimator_errors` kept; None where nothing has been measured.

    Raises:
        UserError: estimator.json is damaged.
    """
    path = workdir / "estimator.json"
    if not path.exists():
        return None, None
    known = load_json(path)
    error = _number(known.get("energy_error"))
    unit = _number(known.get("picking_unit", 1.0))
    # The error of an estimator that diverged is infinite or NaN, and is read as it is.
    if error is None or unit is None or not 0 < unit < math.inf:
        raise errors.UserError(
            f"{path} has no number energy_error, or a picking_unit that is no positive "
            f"number; {REMEDY}"
        )
    return error, unit if "picking_unit" in known else None


def _number(value: Any) -> float | None:
    with contextlib.suppress(OverflowError):
        if isinstance(value, int | float):
            return float(value)
    return None
