"""Extended XYZ: what ASE and most tools around it write, with labels in each frame."""

import dataclasses
import functools
import io
import pathlib
from collections.abc import Iterator
from typing import Any

import ase
import numpy as np

from crystaljax.crystals import bridge, names, structure
from crystaljax.crystals import extxyz as frames
from crystaljax.data.readers import archives, files
from crystaljax.data.sources import levels_of_theory, record
from crystaljax.system import errors, text_files

_SUFFIXES = (".extxyz", ".xyz")


@dataclasses.dataclass(frozen=True)
class ExtXyz:
    """An extxyz file with one structure a frame, or an archive of such files.

    Attributes:
        path: the file, plain or compressed; or see `archives.FORMATS`.
        energy_key: formation energy, eV/atom, in the frame's comment line; None where
            there is none.
        space_group_key: number of the space group; None where there is none.
        id_key: name of the structure; where it is missing, the frame's number, or in
            an archive the file's name (and the frame's number from the second frame).
    """

    path: str
    energy_key: str | None = None
    space_group_key: str | None = None
    id_key: str = "id"

    def read_rows(self) -> Iterator[tuple[str, str] | record.Failure]:
        """Yields default id and text of each frame; see `record.Source`."""
        if archives.is_archive(self.path):
            yield from _read_archive(self.path)
            return
        rows = ((str(i), frame) for i, frame in enumerate(_read_file(self.path)))
        yield from record.until_damaged(rows, self.path)

    def parse_row(
        self, row: tuple[str, str] | record.Failure
    ) -> record.Record | record.Failure:
        """See `record.Source`."""
        if isinstance(row, record.Failure):
            return row
        id, text = row
        try:
            frame = frames.parse_frame(text, text_keys=(self.id_key,))
        except ValueError as error:
            return record.Failure(id, "frame not readable", str(error))
        return record.build_record(
            names.encodable(frame.texts.get(self.id_key, id)),
            functools.partial(_crystal, frame.atoms),
            self._label(frame, self.space_group_key),
            self._label(frame, self.energy_key),
            levels_of_theory.read(frame.texts) if self.energy_key else None,
        )

    def describe(self) -> dict[str, Any]:
        """See `record.Source`."""
        return {"source": "extxyz", **dataclasses.asdict(self)}

    def _label(self, frame: frames.Frame, key: str | None) -> object:
        if key is None:
            return None
        # ASE takes the keys it knows ("energy") for results of a calculator.
        return frame.texts.get(key, "missing")


def _read_archive(path: str) -> Iterator[tuple[str, str] | record.Failure]:
    """Like `ExtXyz.read_rows`; what is left of a bad file is one failure."""
    num_files = 0
    for member in archives.find_members(path):
        name = pathlib.PurePosixPath(member.name)
        if not member.is_rest and name.suffix.lower() not in _SUFFIXES:
            continue
        num_files += 1
        try:
            with text_files.open_text(_open(member)) as file:
                for number, frame in enumerate(_read_frames(file)):
                    yield f"{name.stem}-{number}" if number else name.stem, frame
        except (OSError, ValueError) as error:
            yield archives.failure(path, member, error)
    if num_files == 0:
        raise errors.UserError(
            f"no extxyz in {path}; expected {' or '.join(_SUFFIXES)}"
        )


def _read_file(path: str) -> Iterator[str]:
    with files.open_text(path) as file:
        try:
            yield from _read_frames(file)
        except files.DamagedError:
            raise
        except ValueError as error:
            raise errors.UserError(f"{path} is no extxyz: {error}") from error


def _open(member: archives.Member) -> io.BufferedReader:
    """The member, after a look at its checksum, which is compared at its end."""
    file = member.open_fn()
    if member.num_bytes > archives.MAX_FILE_BYTES:
        # Those of a zip alone have one.
        if member.compressed_bytes is None:
            return file
        with file:
            files.read_to_end(file)
        return member.open_fn()
    with file:
        return io.BufferedReader(io.BytesIO(file.read()))  # type: ignore[arg-type]


def _read_frames(file: io.TextIOBase) -> Iterator[str]:
    num_frames = 0
    for frame in frames.split_frames(file):
        yield frame
        num_frames += 1
    if num_frames == 0:
        raise errors.UserError("no frame in it")


def _crystal(atoms: ase.Atoms) -> structure.Crystal:
    crystal = bridge.from_ase(atoms)
    if not np.all(crystal.atomic_numbers > 0):
        raise errors.UserError("a site is not an element")
    return crystal
