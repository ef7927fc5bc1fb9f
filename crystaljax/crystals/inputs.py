"""Crystals that users bring: CIF, POSCAR and extxyz files, or folders of them."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator

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
            unreadable.append(Unreadable(str(file), _reason_of(error)))
            continue
        if not found:
            unreadable.append(Unreadable(str(file), "no crystal in it"))
        digits = len(str(max(len(found) - 1, 0)))
        for i, each in enumerate(found):
            if isinstance(each, structure.Crystal):
                number = "" if len(found) == 1 else f"-{i:0{digits}d}"
                crystals.append(Input(f"{file.stem}{number}", file, each))
            else:
                reason = each if len(found) == 1 else f"frame {i}: {each}"
                unreadable.append(Unreadable(str(file), reason))
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


def _read(path: pathlib.Path) -> list[structure.Crystal | str]:
    """The crystals of a file, or why one of its frames cannot be used."""
    file_format = _format(path)
    if file_format == "extxyz":
        return list(_read_frames(path))
    assert file_format is not None
    return [parse_crystal(text_files.read_text(path), file_format)]


def _read_frames(path: pathlib.Path) -> Iterator[structure.Crystal | str]:
    # ASE takes a while to import, and the other formats do without.
    from crystaljax.crystals import bridge, extxyz

    with text_files.open_text(path.open("rb")) as file:
        frames = extxyz.split_frames(file)
        while True:
            try:
                text = next(frames)
            except StopIteration:
                return
            except ValueError as error:
                # Where a frame begins is known only as long as all before were whole.
                reason = _reason_of(error)
                yield f"neither this frame nor those after it can be read: {reason}"
                return
            try:
                atoms = extxyz.parse_frame(text).atoms
                yield structure.wrapped(bridge.from_ase(atoms))
            except Exception as error:
                yield _reason_of(error)


def _reason_of(error: Exception) -> str:
    """One line; parsers of others raise whatever a malformed file leads to."""
    reason = str(error)
    if not isinstance(error, errors.UserError):
        reason = f"{type(error).__name__}: {reason}"
    return " ".join(reason.split())


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
