"""Crystals that a user brings: kept under a name made here, read in another process."""

import dataclasses
import json
import pathlib
import re
import secrets
from typing import Any

from crystaljax.crystals import elements, inputs, symmetry_search, validity
from crystaljax.screening.report import drawn_values
from crystaljax.system import atomic_files, errors, isolation

MAX_BYTES = 2_000_000
_MAX_SITES = 500
_SECONDS = 30.0
_MAX_NAME = 100
_ID = re.compile(r"[0-9a-f]{16}")
# How the file is called here, by the format that its name there means.
_NAMES = {"cif": "crystal.cif", "poscar": "crystal.vasp", "extxyz": "crystal.extxyz"}
_ABOUT = "about.json"


@dataclasses.dataclass(frozen=True)
class Upload:
    """A crystal that was uploaded.

    Attributes:
        id: also the name of its folder.
        name: that the user's file has, for the page alone.
        path: of the file here.
        described: as the page draws it: formula, structure, elements.
    """

    id: str
    name: str
    path: pathlib.Path
    described: dict[str, Any]


def add(root: pathlib.Path, name: str, content: bytes) -> Upload:
    """Keeps a file that holds a crystal.

    Args:
        root: of the app.
        name: of the file there; says its format, and nothing else.
        content: of the file.

    Raises:
        UserError: it is too large, of an unknown format, or holds no crystal.
    """
    if len(content) > MAX_BYTES:
        raise errors.UserError(
            f"the file has {len(content):,} bytes; expected at most {MAX_BYTES:,}"
        )
    shown = "".join(each if each.isprintable() else "?" for each in name)[-_MAX_NAME:]
    file_format = _find_format(shown)
    upload_id = secrets.token_hex(8)
    with atomic_files.folder(root / "uploads" / upload_id) as folder:
        path = folder / _NAMES[file_format]
        path.write_bytes(content)
        described = _parse(path)
        about = {"name": shown, "file": path.name, **described}
        atomic_files.write_json(folder / _ABOUT, about)
    return load(root, upload_id)


def load(root: pathlib.Path, upload_id: str) -> Upload:
    """A crystal that was uploaded.

    Raises:
        KeyError: there is none of that ID.
    """
    # Nothing else becomes a part of a path.
    if not _ID.fullmatch(upload_id):
        raise KeyError(upload_id)
    folder = root / "uploads" / upload_id
    try:
        about = json.loads((folder / _ABOUT).read_bytes())
    except (OSError, ValueError) as error:
        raise KeyError(upload_id) from error
    return Upload(upload_id, about["name"], folder / about["file"], about)


def _find_format(name: str) -> str:
    suffix = pathlib.PurePosixPath(name).suffix.lower()
    found = "extxyz" if suffix in (".extxyz", ".xyz") else inputs.find_format(name)
    if found is None:
        raise errors.UserError(
            f"{name!r} is of no known format; expected {inputs.FORMATS}"
        )
    return found


def _parse(path: pathlib.Path) -> dict[str, Any]:
    """Reads a file in a process that may hang or die of it."""
    ((_, outcome),) = isolation.map_isolated(
        read_file, [str(path)], _SECONDS, isolation.WorkerOptions(num_workers=1)
    )
    if isinstance(outcome, isolation.Lost):
        raise errors.UserError(f"the file cannot be read: {outcome.reason}")
    if "problem" in outcome:
        raise errors.UserError(f"the file holds no crystal: {outcome['problem']}")
    return outcome


def read_file(path: str) -> dict[str, Any]:
    """The first crystal of a file as JSON values, or the ``problem`` with it."""
    found, problems = inputs.read_inputs(path)
    if not found:
        return {"problem": "; ".join(each.reason for each in problems)}
    crystal = found[0].crystal
    if problem := validity.find_cell_problem(crystal):
        return {"problem": problem}
    if crystal.num_sites > _MAX_SITES:
        return {"problem": f"{crystal.num_sites} sites; expected at most {_MAX_SITES}"}
    return drawn_values.to_json(
        {
            "formula": elements.cell_formula(crystal.atomic_numbers),
            "num_crystals": len(found),
            "group": symmetry_search.find_space_group(crystal, 0.1),
            "structure": drawn_values.describe_structure(crystal),
            "elements": drawn_values.describe_elements([crystal]),
        }
    )
