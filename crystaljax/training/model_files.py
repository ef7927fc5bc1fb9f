"""Trained models as small folders, to be passed on: those of the package, and others.

A model has what sampling reads of a run directory, and instead of checkpoints

parameters.npz     of the network; arrays alone, no code
card.json          what it is, what it was measured on, and the checksum of each file

so that whatever takes a run directory takes a model. `crystaljax export-model` writes
one.
"""

import hashlib
import io
import os
import pathlib
import zipfile
from typing import Any

import numpy as np

from crystaljax.system import atomic_files, errors
from crystaljax.training import runs

CARD, PARAMETERS = "card.json", "parameters.npz"
VERSION = 1
# What is in a folder besides the card; the last two where the network needs them.
FILES = ("config.json", "vocabulary.json", "scaling.json", PARAMETERS)
OPTIONAL = (runs.POSITIONS, "estimator.json")
_SHIPPED = pathlib.Path(__file__).parents[1] / "pretrained"
DEFAULT = "mp"
_REMEDY = "install crystaljax again, or get a fresh copy of the model"


def shipped() -> dict[str, pathlib.Path]:
    """The models of the package, by name."""
    return {path.parent.name: path.parent for path in _SHIPPED.glob(f"*/{CARD}")}


def resolve(
    workdir: str | os.PathLike | None, model: str | None, default: str | None = None
) -> pathlib.Path:
    """The folder that is meant: a run directory, or a model by name or path.

    Args:
        workdir: a run directory.
        model: name or folder of a model.
        default: model that is taken where neither is given.

    Raises:
        FileNotFoundError: there is no such model.
        UserError: both are given, or none, or the model is damaged.
    """
    if workdir is not None and model is not None:
        raise errors.UserError(
            f"both workdir={workdir} and model={model} are given; expected one of them"
        )
    if workdir is not None:
        return pathlib.Path(workdir)
    name = default if model is None else model
    if name is None:
        raise errors.UserError(
            "give `workdir=` or `model=` (`crystaljax models` lists them); --help "
            "shows all flags"
        )
    path = shipped().get(name, pathlib.Path(name))
    if not (path / CARD).exists() and not runs.is_run(path):
        raise FileNotFoundError(
            f"no model {name!r}; expected one of {', '.join(sorted(shipped()))}, or a "
            "folder that `crystaljax export-model` or `crystaljax train` wrote"
        )
    if is_model(path):
        verify(path)
    return path


def is_model(folder: pathlib.Path) -> bool:
    """Whether a folder is a model, not a run directory."""
    return (folder / CARD).exists()


def load_card(folder: pathlib.Path) -> dict[str, Any]:
    """What a model says of itself.

    Raises:
        UserError: it is damaged, or of another version.
    """
    card = runs.load_json(folder / CARD)
    if card.get("version") != VERSION:
        raise errors.UserError(
            f"{folder / CARD} is of version {card.get('version')}, but this crystaljax "
            f"reads version {VERSION}; install the crystaljax that wrote it, or export "
            "the model again"
        )
    return card


def describe_limits(folder: str | os.PathLike) -> str | None:
    """What a model is and is not for, in a line; None where there is no model.

    A card that cannot be read is said to be one: the samples are good all the same.
    """
    path = pathlib.Path(folder)
    if not is_model(path):
        return None
    try:
        card = load_card(path)
    except errors.UserError as error:
        return f"{path.name}: what it is not for is unknown ({error})"
    return f"{path.name}: {card['title']}. Not for {card['not_for']}"


def verify(folder: pathlib.Path) -> dict[str, Any]:
    """The card, after all files have been compared with their checksums.

    Raises:
        UserError: a file is missing, or another than when the model was written.
    """
    card = load_card(folder)
    for name, expected in card["sha256"].items():
        path = folder / name
        if not path.exists():
            raise errors.UserError(f"{path} is missing; {_REMEDY}")
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise errors.UserError(
                f"{path} has another SHA-256 than when the model was written: it is "
                f"damaged or exchanged; {_REMEDY}"
            )
    return card


def write(
    source: pathlib.Path,
    params: Any,
    folder: pathlib.Path,
    card: dict[str, Any],
    dtype: Any = np.float16,
) -> int:
    """Writes a model; the card comes last and marks it complete.

    Args:
        source: run directory, or another model.
        params: of the network.
        folder: to write.
        card: of the model; version and checksums are added.
        dtype: of the parameters of the network.

    Returns:
        Bytes written.
    """
    # Whoever only looks at models does without it.
    import jax

    folder.mkdir(parents=True, exist_ok=True)
    for name in (*FILES[:3], *OPTIONAL):
        if (source / name).exists():
            atomic_files.write_bytes(folder / name, (source / name).read_bytes())
    # Where the training structures and the model it started from lay says nothing
    # elsewhere.
    config, vocabulary = (runs.load_json(folder / name) for name in FILES[:2])
    config["data"]["path"] = ""
    config["train"]["init"] = ""
    atomic_files.write_json(folder / FILES[0], config)
    atomic_files.write_json(folder / FILES[1], vocabulary | {"dataset": None})
    arrays = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        arrays[name] = np.asarray(jax.device_get(leaf)).astype(dtype)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    atomic_files.write_bytes(folder / PARAMETERS, buffer.getvalue())
    written = [name for name in (*FILES, *OPTIONAL) if (folder / name).exists()]
    sums = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in written
    }
    atomic_files.write_json(folder / CARD, card | {"version": VERSION, "sha256": sums})
    return sum((folder / name).stat().st_size for name in written)


def load_params(folder: pathlib.Path, like: Any) -> Any:
    """Parameters in float32, in the tree of ``like``.

    Raises:
        UserError: they are damaged, or of another network.
    """
    import jax

    path = folder / PARAMETERS
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise errors.UserError(f"{path} cannot be read ({error}); {_REMEDY}") from error

    def find(key_path, leaf):
        name = jax.tree_util.keystr(key_path, simple=True, separator="/")
        found = arrays.get(name)
        if found is None or found.shape != leaf.shape:
            shape = "missing" if found is None else found.shape
            raise errors.UserError(
                f"{path} is not of the network in its config.json: {name} is {shape}, "
                f"expected {leaf.shape}; {_REMEDY}"
            )
        return found.astype(np.float32)

    return jax.tree_util.tree_map_with_path(find, like)
