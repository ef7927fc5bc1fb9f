"""The models of energies, groups and positions as one file of arrays (npz)."""

import io
import pathlib
import zipfile
from typing import Any

import numpy as np
from flax import traverse_util

from crystaljax.models import (
    orbit_estimator,
    prototype_library,
    prototype_structures,
    wyckoff_model,
)
from crystaljax.system import atomic_files, errors

_VERSION = 1
_ESTIMATOR = "estimator"


def save(
    model: wyckoff_model.WyckoffModel, path: pathlib.Path, dtype: Any = np.float32
) -> None:
    """Writes a model; parameters in ``dtype``."""
    library = model.library
    networks = {
        **{
            f"positions_{number}": params
            for number, params in enumerate(model.position_params)
        },
        "groups": model.group_params,
        "energies": model.energy_params,
        **({} if model.estimator is None else {_ESTIMATOR: model.estimator.params}),
    }
    arrays = {
        f"{name}/{'/'.join(keys)}": np.asarray(leaf, dtype)
        for name, params in networks.items()
        for keys, leaf in traverse_util.flatten_dict(params).items()
    }
    roles = max((len(each) for each in library.counts), default=1)
    counts = np.zeros((len(library), roles), np.uint8)
    numbers = np.zeros((len(library), roles), np.float32)
    for row in range(len(library)):
        counts[row, : len(library.counts[row])] = library.counts[row]
        numbers[row, : len(library.counts[row])] = library.numbers[row]
    filled = [
        [len(filled) for filled in assignment] for assignment in library.assignments
    ]
    lengths = np.zeros((len(library), roles), np.uint8)
    for row, each in enumerate(filled):
        lengths[row, : len(each)] = each
    positions = [
        index
        for assignment in library.assignments
        for filled in assignment
        for index in filled
    ]
    arrays |= {
        "library/counts": counts,
        "library/numbers": numbers,
        "library/space_groups": library.space_groups.astype(np.uint8),
        "library/lengths": lengths,
        "library/positions": np.array(positions, np.uint8),
        "library/energies": library.energies.astype(np.float32),
        "library/sizes": library.sizes.astype(np.uint16),
        "version": np.array(_VERSION),
        "width": np.array(model.width),
    }
    if model.structures is not None:
        known = model.structures
        arrays |= {
            "known/entries": known.entries.astype(np.uint32),
            "known/sizes": known.sizes.astype(np.uint16),
            "known/orbits": np.array(
                [len(each) for each in known.parameters], np.uint8
            ),
            "known/parameters": np.concatenate(known.parameters).astype(np.float32),
            "known/strains": known.strains.astype(np.float32),
        }
    if model.estimator is not None:
        arrays["estimator_depth"] = np.array(model.estimator.depth)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    atomic_files.write_bytes(path, buffer.getvalue())


def load(path: pathlib.Path, remedy: str) -> wyckoff_model.WyckoffModel:
    """What `save` wrote.

    Args:
        path: of the file.
        remedy: what to do where it cannot be read.

    Raises:
        UserError: the file is missing, damaged, or of another version.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if int(arrays["version"]) != _VERSION:
            raise ValueError(
                f"version {int(arrays['version'])}, expected version {_VERSION}"
            )
        return _model_of(arrays)
    except FileNotFoundError as error:
        raise errors.UserError(f"{path} is missing; {remedy}") from error
    except (ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        text = " ".join(str(error).split())[:160] or type(error).__name__
        raise errors.UserError(f"{path} cannot be read ({text}); {remedy}") from error


def _model_of(arrays: dict[str, np.ndarray]) -> wyckoff_model.WyckoffModel:
    networks: dict[str, dict[tuple[str, ...], np.ndarray]] = {}
    for name, array in arrays.items():
        network, *keys = name.split("/")
        if keys and network not in ("library", "known"):
            networks.setdefault(network, {})[tuple(keys)] = array.astype(np.float32)
    params = {
        name: traverse_util.unflatten_dict(flat) for name, flat in networks.items()
    }
    counts, assignments, start = [], [], 0
    positions = arrays["library/positions"].tolist()
    for row, lengths in zip(
        arrays["library/counts"].tolist(),
        arrays["library/lengths"].tolist(),
        strict=True,
    ):
        used = tuple(count for count in row if count)
        assignment = []
        for length in lengths[: len(used)]:
            assignment.append(tuple(positions[start : start + length]))
            start += length
        counts.append(used)
        assignments.append(tuple(assignment))
    library = prototype_library.Library(
        counts=counts,
        space_groups=arrays["library/space_groups"].astype(int),
        assignments=assignments,
        numbers=[
            row[: len(used)].astype(float)
            for row, used in zip(arrays["library/numbers"], counts, strict=True)
        ],
        energies=arrays["library/energies"].astype(float),
        sizes=arrays["library/sizes"].astype(int),
    )
    names = sorted(name for name in params if name.startswith("positions_"))
    estimator = None
    # Earlier files have none.
    if _ESTIMATOR in params:
        estimator = orbit_estimator.OrbitEstimator(
            params[_ESTIMATOR], int(arrays["estimator_depth"])
        )
    return wyckoff_model.WyckoffModel(
        library,
        [params[name] for name in names],
        params["groups"],
        params["energies"],
        int(arrays["width"]),
        _structures_of(arrays),
        estimator,
    )


def _structures_of(
    arrays: dict[str, np.ndarray],
) -> prototype_structures.PrototypeStructures | None:
    # Earlier files have none.
    if "known/entries" not in arrays:
        return None
    ends = np.cumsum(arrays["known/orbits"].astype(int))
    return prototype_structures.PrototypeStructures(
        arrays["known/entries"].astype(int),
        arrays["known/sizes"].astype(int),
        np.split(arrays["known/parameters"].astype(float), ends[:-1]),
        arrays["known/strains"].astype(float),
    )
