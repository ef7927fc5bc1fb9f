"""Crystals that users bring: CIF, POSCAR and extxyz files, or folders of them."""

import dataclasses
import os
import pathlib

from crystaljax import structure
from crystaljax.data.sources import crystal_files

_EXTXYZ_SUFFIXES = (".extxyz", ".xyz")
FORMATS = f"{crystal_files.FORMATS}, extxyz (.extxyz)"


@dataclasses.dataclass(frozen=True, eq=False)
class Input:
    """A crystal as its file has it.

    Attributes:
        name: of the file without its suffix, and the number of the frame where a file
            has several.
        path: of the file.
        crystal: cell and sites as written.
    """

    name: str
    path: pathlib.Path
    crystal: structure.Crystal


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """A file, or crystal, that cannot be used, and why."""

    name: str
    reason: str


def read_inputs(
    path: str | os.PathLike[str],
) -> tuple[list[Input], list[Unreadable]]:
    """Reads a file, or all files of known formats in a folder, by name.

    Returns:
        The crystals, and the files that could not be read.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        ValueError: ``path`` is a file of an unknown format, or a folder without a file
            of a known one.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"nothing at {path}; expected a crystal or a folder")
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if _format(file))
        if not files:
            raise ValueError(f"no crystals in the folder {path}; expected {FORMATS}")
    elif _format(path):
        files = [path]
    else:
        raise ValueError(f"{path} is of no known format; expected {FORMATS}")
    crystals: list[Input] = []
    unreadable: list[Unreadable] = []
    for file in files:
        try:
            found = _read(file)
        except Exception as error:
            # Parsers of others raise whatever a malformed file leads to.
            reason = f"{type(error).__name__}: {error}"
            unreadable.append(Unreadable(str(file), " ".join(reason.split())))
            continue
        if not found:
            unreadable.append(Unreadable(str(file), "no crystal in it"))
        digits = len(str(max(len(found) - 1, 0)))
        crystals += [
            Input(
                file.stem if len(found) == 1 else f"{file.stem}-{i:0{digits}d}",
                file,
                crystal,
            )
            for i, crystal in enumerate(found)
        ]
    return crystals, unreadable


def _format(path: pathlib.Path) -> str | None:
    if not path.is_file() and path.exists():
        return None
    if path.suffix.lower() in _EXTXYZ_SUFFIXES:
        return "extxyz"
    return crystal_files.find_format(path.name)


def _read(path: pathlib.Path) -> list[structure.Crystal]:
    file_format = _format(path)
    if file_format == "extxyz":
        from crystaljax import structure_files

        return structure_files.read_extxyz(path)[0]
    assert file_format is not None
    text = path.read_text(encoding="utf-8")
    return [crystal_files.parse_crystal(text, file_format)]
