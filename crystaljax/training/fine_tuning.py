"""Fine-tuning: a training that starts from the weights of another model.

The network must be that of the model. It goes on with the units that it has learned, so
that only elements which the model has not seen get atomic volumes from the new data.
What the model knows of prototypes is kept beside that of the new data.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from crystaljax.crystals import elements
from crystaljax.data import dataset as datasets
from crystaljax.models import build, scaling, wyckoff_files, wyckoff_model
from crystaljax.system import errors
from crystaljax.training import checkpoints, model_files, runs

# Sections of a config that the network and its units rest on, and the keys of each that
# do not matter.
_SECTIONS = {
    "model": (
        "dropout",
        "position_epochs",
        "estimator_depth",
        "estimator_epochs",
        "attention",
        "convolution",
        "rematerialize",
    ),
    "process": (),
}
_DATA_KEYS = ("coordinates", "lattice", "energy", "num_templates")


@dataclasses.dataclass(frozen=True, eq=False)
class Start:
    """What a training starts from.

    Attributes:
        run: the model, with the parameters that it is sampled with.
        positions: its models of energies, groups and positions; None of other networks.
    """

    run: checkpoints.Run
    positions: wyckoff_model.WyckoffModel | None


def load(config: Any, mesh: Mesh) -> Start:
    """What ``train.init`` names.

    Raises:
        FileNotFoundError: there is no such model.
        UserError: it is damaged, or its network or task is another than the config's.
    """
    name = str(config.train.init)
    folder = model_files.resolve(None, name)
    run = checkpoints.load_run(folder, mesh)
    _require_same_network(name, run.config, config)
    positions = None
    if build.is_of_orbits(config):
        positions = wyckoff_files.load(folder / runs.POSITIONS, runs.REMEDY)
    return Start(run, positions)


def _require_same_network(name: str, theirs: Any, ours: Any) -> None:
    pairs = [("task", theirs.task, ours.task)]
    if build.is_of_orbits(ours) and theirs.task == "generation":
        # What looks at source crystals comes to it, and adds nothing at first.
        pairs = []
    for section, passed_over in _SECTIONS.items():
        for key, value in ours[section].items():
            if key not in passed_over:
                pairs.append((f"{section}.{key}", theirs[section].get(key), value))
    for key in _DATA_KEYS:
        pairs.append((f"data.{key}", theirs.data.get(key), ours.data[key]))
    different = [each for each in pairs if _plain(each[1]) != _plain(each[2])]
    if different:
        listed = "; ".join(
            f"{key} is {value!r} there and {own!r} here"
            for key, value, own in different[:3]
        )
        raise errors.UserError(
            f"the network of train.init={name} is another than the config's: {listed}"
            f"{'; …' if len(different) > 3 else ''}; use the config that it was "
            "trained with"
        )


def _plain(value: Any) -> Any:
    """As files have it."""
    return list(value) if isinstance(value, tuple) else value


def complete_params(start: Start, fresh: Any) -> Any:
    """Parameters of the model, on the host, with those that are new to it as drawn.

    Args:
        start: the model.
        fresh: of the network that is trained.
    """

    def join(known, drawn):
        if not isinstance(drawn, Mapping):
            return known
        return {
            name: join(known[name], value) if name in known else value
            for name, value in drawn.items()
        }

    return join(jax.device_get(start.run.params), fresh)


def join_scale(
    start: Start, measured: scaling.Scaling, dataset: datasets.Dataset
) -> scaling.Scaling:
    """Units of the model, with atomic volumes of elements that are new to it.

    Args:
        start: the model.
        measured: units of the new data.
        dataset: of it.
    """
    scale = start.run.scale
    if scale.atomic_volumes is None:
        return scale
    known = set(start.run.vocabulary["elements"])
    volumes = np.array(scale.atomic_volumes)
    for symbol in datasets.vocabulary(dataset)["elements"]:
        if symbol not in known:
            (number,) = elements.formula_atomic_numbers(symbol)
            volumes[number] = np.asarray(measured.atomic_volumes)[number]
    return dataclasses.replace(scale, atomic_volumes=volumes)


def join_vocabulary(start: Start, described: dict[str, Any]) -> dict[str, Any]:
    """What the structures of the model and those of the new data contain."""
    theirs = start.run.vocabulary
    joined = dict(described)
    joined["elements"] = [
        *theirs["elements"],
        *(each for each in described["elements"] if each not in theirs["elements"]),
    ]
    joined["space_groups"] = sorted(
        {*theirs["space_groups"], *described["space_groups"]}
    )
    joined["max_sites"] = max(theirs["max_sites"], described["max_sites"])
    ranges = theirs["formation_energy"], described["formation_energy"]
    joined["formation_energy"] = [
        min(low for low, _ in ranges),
        max(high for _, high in ranges),
    ]
    return joined


def describe(start: Start, described: dict[str, Any]) -> str:
    """A line for the user: what the start is, and what is new to it."""
    theirs = start.run.vocabulary
    new = [each for each in described["elements"] if each not in theirs["elements"]]
    groups = sorted({*described["space_groups"]} - {*theirs["space_groups"]})
    line = f"starting from {start.run.workdir.name} (step {start.run.step:,})"
    if new:
        line += (
            f"; new to it: {', '.join(new)}, which start from what their properties say"
        )
    energies = theirs.get("energy_model"), described.get("energy_model")
    if energies[0] != energies[1]:
        line += f"; its energies are of {energies[0]!r}, the new ones {energies[1]!r}"
    if groups:
        line += f"; new space groups: {', '.join(map(str, groups))}"
    return line
