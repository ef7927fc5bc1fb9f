"""Extended XYZ: what ASE and most tools around it write, with labels in each frame."""

import dataclasses
import functools
import gzip
import io
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

import ase
import ase.io
import numpy as np

from crystaljax import bridge, structure
from crystaljax.data.sources import record


@dataclasses.dataclass(frozen=True)
class ExtXyz:
    """An extxyz file, plain or gzip, with one structure a frame.

    Attributes:
        path: the file.
        energy_key: formation energy, eV/atom, in the frame's comment line; None where
            there is none.
        space_group_key: number of the space group; None where there is none.
        id_key: name of the structure; frame numbers where it is missing.
    """

    path: str
    energy_key: str | None = None
    space_group_key: str | None = None
    id_key: str = "id"

    def read_rows(self) -> Iterator[tuple[int, str]]:
        """Yields frame number and text; see `record.Source`."""
        path = pathlib.Path(self.path)
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}; check --input")
        with _open_text(path) as file:
            try:
                yield from enumerate(_read_frames(file, path))
            except (
                EOFError,
                gzip.BadGzipFile,
                zlib.error,
                UnicodeDecodeError,
            ) as error:
                raise ValueError(f"{path} is damaged ({error})") from error

    def parse_row(self, row: tuple[int, str]) -> record.Record | record.Failure:
        """See `record.Source`."""
        number, text = row
        try:
            atoms = _parse_frame(text)
        except ValueError as error:
            return record.Failure(str(number), "frame not readable", str(error))
        return record.build_record(
            str(atoms.info.get(self.id_key, number)),
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


def _read_frames(file: io.TextIOWrapper, path: pathlib.Path) -> Iterator[str]:
    number = 0
    while count_line := file.readline():
        if not count_line.strip():
            continue
        # Without the count there is no telling where the next frame begins.
        if not count_line.strip().isdecimal():
            raise ValueError(
                f"{path}: frame {number} begins with {count_line.strip()[:80]!r}; "
                "expected its number of atoms"
            )
        lines = [file.readline() for _ in range(int(count_line) + 1)]
        if not all(lines):
            raise ValueError(f"{path} ends in the middle of frame {number}")
        yield count_line + "".join(lines)
        number += 1
    if number == 0:
        raise ValueError(f"{path} holds no frame; expected extxyz")


def _parse_frame(text: str) -> ase.Atoms:
    try:
        atoms = ase.io.read(io.StringIO(text), format="extxyz")
    except Exception as error:
        # ASE's reader raises whatever a malformed line leads to: KeyError, ...
        raise ValueError(f"not readable as extxyz: {error}") from error
    assert isinstance(atoms, ase.Atoms)
    return atoms


def _crystal(atoms: ase.Atoms) -> structure.Crystal:
    crystal = bridge.from_ase(atoms)
    if not np.all(crystal.atomic_numbers > 0):
        raise ValueError("a site is not an element")
    return crystal


def _open_text(path: pathlib.Path) -> io.TextIOWrapper:
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path, "rb"), encoding="utf-8")
    return path.open("rt", encoding="utf-8")
