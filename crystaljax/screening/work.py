"""What a screening has done so far, so that the same command goes on after a kill.

work/request.json        what was requested: another request is refused
work/<stage>.json        the result of a finished stage
work/relaxations.jsonl   one line per crystal, appended as it is finished
work/released.jsonl      the same, of crystals relaxed without their symmetry
"""

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

from crystaljax.relaxation import ase_relaxation, kept
from crystaljax.system import atomic_files, errors, saved_requests

_REQUEST = "request.json"
RELAXATIONS, RELEASED = "relaxations.jsonl", "released.jsonl"


def open_work(
    output: pathlib.Path, request: dict[str, Any], *, overwrite: bool = False
) -> pathlib.Path:
    """Prepares the folder of a screening, or finds what was done of it before.

    Args:
        output: the folder of the screening.
        request: all that decides what the results are, as JSON values.
        overwrite: forget what another request did.

    Returns:
        The folder ``work`` in it.

    Raises:
        FileExistsError: the folder holds another screening, or something else, and
            ``overwrite`` is False.
    """
    work = output / "work"
    remedy = "pass --overwrite, or choose another --output"
    if not overwrite:
        saved = saved_requests.load(work / _REQUEST, remedy)
        if saved is not None:
            saved_requests.require_same(
                request, saved, path=output, contents="a screening", remedy=remedy
            )
            atomic_files.remove_leftovers(work)
            return work
        if (output / "screening.csv").exists():
            raise FileExistsError(
                f"{output} holds a screening that cannot be gone on with (no "
                f"{work / _REQUEST}); {remedy}"
            )
    if work.exists():
        shutil.rmtree(work)
    atomic_files.write_json(work / _REQUEST, request)
    return work


def remember(work: pathlib.Path | None, stage: str, compute: Callable[[], Any]) -> Any:
    """The result of a stage (JSON values): from disk, or computed and written there.

    Args:
        work: the folder; nothing is written if None.
        stage: name of the stage.
        compute: gives the result.
    """
    path = None if work is None else work / f"{stage}.json"
    if path is not None and path.exists():
        return json.loads(path.read_text())
    result = compute()
    if path is not None:
        atomic_files.write_json(path, result)
    return result


def read_relaxations(
    work: pathlib.Path | None, name: str = RELAXATIONS
) -> dict[int, tuple[ase_relaxation.Relaxation, str]]:
    """Relaxation and method by index of the crystal; a last half line is cut off."""
    if work is None or not (work / name).exists():
        return {}
    path = work / name
    whole, newline, _ = path.read_bytes().rpartition(b"\n")
    with path.open("r+b") as file:
        file.truncate(len(whole) + len(newline))
    found = {}
    for line in whole.decode().splitlines():
        entry = json.loads(line)
        index, method = entry.pop("index"), entry.pop("method")
        found[index] = (kept.from_json(entry), method)
    return found


def append_relaxation(
    work: pathlib.Path | None,
    index: int,
    relaxed: ase_relaxation.Relaxation,
    method: str,
    name: str = RELAXATIONS,
) -> None:
    """Adds one line; floats are written so that they are read back the same."""
    if work is None:
        return
    entry = {"index": index, "method": method, **kept.to_json(relaxed)}
    path = work / name
    with errors.explain_disk_errors(path), path.open("a") as file:
        file.write(json.dumps(entry) + "\n")
