"""Extended XYZ: what ASE and most tools around it write, with labels in each frame."""

import dataclasses
import functools
import io
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import ase
import ase.io
import numpy as np

from crystaljax.crystals import bridge, structure
from crystaljax.data.readers import archives, files
from crystaljax.data.sources import record
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
        with files.open_text(self.path) as file:
            try:
                for number, frame in enumerate(_read_frames(file)):
                    yield str(number), frame
            except files.DamagedError:
                raise
            except ValueError as error:
                raise errors.UserError(f"{self.path} is no extxyz: {error}") from error

    def parse_row(
        self, row: tuple[str, str] | record.Failure
    ) -> record.Record | record.Failure:
        """See `record.Source`."""
        if isinstance(row, record.Failure):
            return row
        id, text = row
        try:
            atoms = _parse_frame(text)
        except ValueError as error:
            return record.Failure(id, "frame not readable", str(error))
        return record.build_record(
            str(atoms.info.get(self.id_key, id)),
            functools.partial(_crystal, atoms),
            self._label(atoms, self.space_group_key),
            self._label(atoms, self.energy_key),
        )

    def describe(self) -> dict[str, Any]:
        """See `record.Source`."""
        return {"source": "extxyz", **dataclasses.asdict(self)}

    def _label(self, atoms: ase.Atoms, key: str | None) -> object:
        if key is None:
            return None
        # ASE takes the keys it knows ("energy") for results of a calculator.
        results = atoms.calc.results if atoms.calc is not None else {}
        return atoms.info.get(key, results.get(key, "missing"))


def _read_archive(path: str) -> Iterator[tuple[str, str] | record.Failure]:
    """Like `ExtXyz.read_rows`; what is left of a bad file is one failure."""
    num_files = 0
    for member in archives.find_members(path):
        name = pathlib.PurePosixPath(member.name)
        if name.suffix.lower() not in _SUFFIXES:
            continue
        num_files += 1
        try:
            with text_files.open_text(member.open_fn()) as file:
                for number, frame in enumerate(_read_frames(file)):
                    yield f"{name.stem}-{number}" if number else name.stem, frame
        except (OSError, ValueError) as error:
            yield record.Failure(member.name, "file not readable", str(error))
    if num_files == 0:
        raise errors.UserError(
            f"no extxyz in {path}; expected {' or '.join(_SUFFIXES)}"
        )


def _read_frames(file: io.TextIOBase) -> Iterator[str]:
    number = 0
    while count_line := file.readline():
        if not count_line.strip():
            continue
        # Without the count there is no telling where the next frame begins.
        if not count_line.strip().isdecimal():
            raise errors.UserError(
                f"frame {number} begins with {count_line.strip()[:80]!r}; "
                "expected its number of atoms"
            )
        num_lines = int(count_line) + 1
        # Comes to an end with the file, whatever the count.
        lines = list(itertools.islice(iter(file.readline, ""), num_lines))
        if len(lines) < num_lines:
            raise errors.UserError(f"ends in the middle of frame {number}")
        yield count_line + "".join(lines)
        number += 1
    if number == 0:
        raise errors.UserError("no frame in it")


def _parse_frame(text: str) -> ase.Atoms:
    try:
        atoms = ase.io.read(io.StringIO(text), format="extxyz")
    except Exception as error:
        # ASE's reader raises whatever a malformed line leads to: KeyError, ...
        raise errors.UserError(f"not readable as extxyz: {error}") from error
    assert isinstance(atoms, ase.Atoms)
    return atoms


def _crystal(atoms: ase.Atoms) -> structure.Crystal:
    crystal = bridge.from_ase(atoms)
    if not np.all(crystal.atomic_numbers > 0):
        raise errors.UserError("a site is not an element")
    return crystal
