"""Relaxations that are kept for later screenings, in one file per calculator.

Known crystals and the elements are relaxed to the same again and again. What identifies
a relaxation is the potential (its energy model, which goes by the content of weights),
the settings, and the crystal as it started. Functions of users and EMT have no such
identity, or need none: theirs are kept with the screening alone.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from crystaljax.crystals import structure
from crystaljax.relaxation import ase_relaxation, calculators, pretrained
from crystaljax.system import errors

# (crystals by number) → (number, relaxation, method) as they are finished.
RelaxFn = Callable[
    [Mapping[int, structure.Crystal]],
    Iterator[tuple[int, ase_relaxation.Relaxation, str]],
]


def default_folder() -> pathlib.Path:
    """Where relaxations are kept: ``~/.cache/crystaljax/relaxed``."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "crystaljax" / "relaxed"


def find_file(
    calculator: str,
    settings: ase_relaxation.RelaxationSettings,
    folder: pathlib.Path | None = None,
) -> pathlib.Path | None:
    """The file of a calculator under these settings; None for one without identity."""
    potential = pretrained.parse(calculator)
    if potential is None or (
        potential.family == "matgl" and potential.model.startswith((".", "/", "~"))
    ):
        return None
    model = calculators.energy_model(calculator)
    # A time limit decides whether there is a result, not which.
    decisive = dataclasses.asdict(settings)
    del decisive["timeout"]
    text = json.dumps([model, decisive], sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    name = re.sub(r"[^\w.-]+", "_", model)
    return (folder or default_folder()) / f"{name}-{digest}.jsonl"


def relax(
    crystals: Sequence[structure.Crystal],
    path: pathlib.Path | None,
    relax_fn: RelaxFn,
) -> tuple[list[ase_relaxation.Relaxation], int]:
    """Relaxations of crystals: those of the file, and the others, added to it.

    What failed is not kept: a time limit or a crash may be of the day.

    Args:
        crystals: where to start.
        path: of the file; nothing is kept if None.
        relax_fn: relaxes the crystals that are not in the file.

    Returns:
        The relaxations in the order of ``crystals``, and how many are new.
    """
    keys = [_key(crystal) for crystal in crystals]
    done = {} if path is None else _read(path)
    # One of several that are equal is enough.
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    waiting = {i: crystals[i] for key, i in first.items() if key not in done}
    for i, relaxed, _ in relax_fn(waiting) if waiting else ():
        done[keys[i]] = relaxed
        if path is not None and not relaxed.failure:
            _append(path, keys[i], relaxed)
    return [done[key] for key in keys], len(waiting)


def to_json(relaxed: ase_relaxation.Relaxation) -> dict[str, Any]:
    """JSON values of a relaxation; floats are read back the same."""
    entry: dict[str, Any] = {}
    for field in dataclasses.fields(relaxed):
        if field.name == "crystal":
            continue
        value = getattr(relaxed, field.name)
        is_nan = isinstance(value, float) and np.isnan(value)
        entry[field.name] = None if is_nan else value
    for name in ("atomic_numbers", "frac_coords", "lattice"):
        entry[name] = np.asarray(getattr(relaxed.crystal, name)).tolist()
    return entry


def from_json(entry: Mapping[str, Any]) -> ase_relaxation.Relaxation:
    """The opposite of `to_json`."""
    values = dict(entry)
    for key in ("energy", "max_force", "seconds"):
        values[key] = float("nan") if values[key] is None else values[key]
    crystal = structure.Crystal(
        np.array(values.pop("atomic_numbers"), dtype=int),
        np.array(values.pop("frac_coords"), dtype=float).reshape(-1, 3),
        np.array(values.pop("lattice"), dtype=float),
    )
    return ase_relaxation.Relaxation(crystal=crystal, **values)


def _key(crystal: structure.Crystal) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for values, dtype in (
        (crystal.atomic_numbers, np.int64),
        # Further digits are those of the file that it was read from.
        (np.round(np.asarray(crystal.frac_coords, float), 5) + 0.0, np.float64),
        (np.round(np.asarray(crystal.lattice, float), 5) + 0.0, np.float64),
    ):
        digest.update(np.ascontiguousarray(values, dtype=dtype).tobytes())
    return digest.hexdigest()


def _read(path: pathlib.Path) -> dict[str, ase_relaxation.Relaxation]:
    if not path.exists():
        return {}
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        # The last line may be half a line: of a process that was killed, or that is
        # writing it now.
        try:
            entry = json.loads(line)
            found[entry["key"]] = from_json(entry["relaxation"])
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _append(path: pathlib.Path, key: str, relaxed: ase_relaxation.Relaxation) -> None:
    line = json.dumps({"key": key, "relaxation": to_json(relaxed)})
    with errors.explain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # After a half line this one would be lost with it.
        with path.open("ab+") as file:
            is_whole = file.seek(0, os.SEEK_END) == 0
            if not is_whole:
                file.seek(-1, os.SEEK_END)
                is_whole = file.read(1) == b"\n"
            file.write(("" if is_whole else "\n").encode() + f"{line}\n".encode())
