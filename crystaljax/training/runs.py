"""A run directory: config, environment, units, vocabulary, checkpoints, logs.

config.json        the resolved config
environment.json   versions, commit, devices, command
scaling.json       units of the network
vocabulary.json    what the training structures contain
estimator.json     error of the network's estimates of energies, if it makes any
checkpoints/       see `crystaljax.training.checkpoints`
metrics.jsonl      one line per log interval; tensorboard/ has the same

What is read of a run here needs no JAX: commands that only look up its config or its
data set start quickly.
"""

import json
import pathlib
from typing import TYPE_CHECKING, Any

from ml_collections import config_dict

from crystaljax import defaults
from crystaljax.system import atomic_files, environment

if TYPE_CHECKING:
    from crystaljax.models import scaling


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
    """
    if not is_run(workdir):
        raise FileNotFoundError(
            f"{workdir} holds no run (no config.json); train one with "
            f"`python -m crystaljax.train --config=… --workdir={workdir}`"
        )
    saved = json.loads((workdir / "config.json").read_text())
    config = defaults.paper(saved.get("task", "generation")).to_dict()
    sampler = saved.get("sampler", {})
    if "candidates" in sampler:
        # Its name in runs of older versions.
        sampler["draws"] = sampler.pop("candidates")
    for name, value in saved.items():
        is_section = isinstance(value, dict) and isinstance(config.get(name), dict)
        config[name] = config[name] | value if is_section else value
    return config_dict.ConfigDict(config)


def load_vocabulary(workdir: pathlib.Path) -> dict[str, Any]:
    """What the training structures of a run contain."""
    return json.loads((workdir / "vocabulary.json").read_text())


def save_energy_error(workdir: pathlib.Path, error: float) -> None:
    """Keeps the error of the estimated energies, eV/atom, with a run."""
    atomic_files.write_json(workdir / "estimator.json", {"energy_error": error})


def load_energy_error(workdir: pathlib.Path) -> float | None:
    """What `save_energy_error` kept; None if nothing has been measured."""
    path = workdir / "estimator.json"
    if not path.exists():
        return None
    return json.loads(path.read_text())["energy_error"]
