"""Crystals that users bring: CIF, POSCAR and extxyz files, or folders of them."""

import dataclasses
import os
import pathlib

from crystaljax.crystals import cif, names, poscar, structure
from crystaljax.system import errors, text_files

_EXTXYZ_SUFFIXES = (".extxyz", ".xyz")
# Files that hold one crystal.
SINGLE_FORMATS = "CIF (.cif), POSCAR (.vasp, .poscar, POSCAR*, CONTCAR*)"
FORMATS = f"{SINGLE_FORMATS}, extxyz (.extxyz)"
_POSCAR_SUFFIXES = (".vasp", ".poscar")
_POSCAR_NAMES = ("POSCAR", "CONTCAR")


@dataclasses.dataclass(frozen=True, eq=False)
class Input:
    """A crystal as its file has it.

    Attributes:
        name: of the file without its suffix, and the number of the frame where a file
            has several; no two are the same.
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
            raise errors.UserError(
                f"no crystals in the folder {path}; expected {FORMATS}"
            )
    elif _format(path):
        files = [path]
    else:
        raise errors.UserError(f"{path} is of no known format; expected {FORMATS}")
    crystals: list[Input] = []
    unreadable: list[Unreadable] = []
    for file in files:
        try:
            found = _read(file)
        except Exception as error:
            # Parsers of others raise whatever a malformed file leads to.
            reason = str(error)
            if not isinstance(error, errors.UserError):
                reason = f"{type(error).__name__}: {reason}"
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
    # a.cif and a.vasp are two crystals.
    unique = names.make_unique(names.encodable(each.name) for each in crystals)
    crystals = [
        dataclasses.replace(each, name=name)
        for each, name in zip(crystals, unique, strict=True)
    ]
    return crystals, unreadable


def _format(path: pathlib.Path) -> str | None:
    if not path.is_file() and path.exists():
        return None
    if path.suffix.lower() in _EXTXYZ_SUFFIXES:
        return "extxyz"
    return find_format(path.name)


def _read(path: pathlib.Path) -> list[structure.Crystal]:
    file_format = _format(path)
    if file_format == "extxyz":
        from crystaljax.crystals import structure_files

        return structure_files.read_extxyz(path)[0]
    assert file_format is not None
    return [parse_crystal(text_files.read_text(path), file_format)]


def find_format(name: str) -> str | None:
    """Format by a file's name: "cif", "poscar", or None for any other."""
    path = pathlib.PurePosixPath(name)
    if path.suffix.lower() == ".cif":
        return "cif"
    if path.suffix.lower() in _POSCAR_SUFFIXES or is_poscar_name(path.name):
        return "poscar"
    return None


def is_poscar_name(name: str) -> bool:
    """Whether it is named as VASP does, so that the name says nothing more."""
    return name.upper().startswith(_POSCAR_NAMES)


def parse_crystal(text: str, format: str) -> structure.Crystal:
    """Text of a file of that format → crystal; cell and sites as written.

    Raises:
        ValueError: the text is no ordered crystal, or the format is unknown.
    """
    if format == "cif":
        return cif.parse_cif(text)
    if format == "poscar":
        return poscar.parse_poscar(text)
    raise errors.UserError(f"unknown format {format!r}; expected 'cif' or 'poscar'")
