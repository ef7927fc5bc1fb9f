"""Columns that grow on disk, so that reading millions of structures needs no memory.

One plain file per column, written at its end, and a journal that says how much of each
file counts. What was written after the last journal entry is cut off when the stage is
opened again, so a run that was killed goes on with exactly what it had.
"""

import contextlib
import math
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from crystaljax.data import columnar
from crystaljax.system import atomic_files, errors, folder_locks, saved_requests

_JOURNAL_NAME = "journal.json"
_STRINGS = ("id", "formula")
# The files, with what one entry of each is.
_FILES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "num_sites": (np.uint8, ()),
    "atomic_numbers": (np.uint8, ()),
    "frac_coords": (np.float32, (3,)),
    "lattice": (np.float32, (3, 3)),
    "space_group": (np.uint8, ()),
    "formation_energy": (np.float32, ()),
    **{f"{name}_lengths": (np.int32, ()) for name in _STRINGS},
    **{f"{name}_characters": (np.uint8, ()) for name in _STRINGS},
}


class ColumnFiles:
    """Columns in files of a directory: appended to, and read as memory maps.

    Attributes:
        counts: entries of each file that count.
    """

    def __init__(self, path: pathlib.Path, counts: Mapping[str, int] | None = None):
        """Opens the files, and cuts off what is beyond ``counts``; all of it if None.

        Raises:
            ValueError: a file is shorter than its count says.
        """
        self._path = path
        path.mkdir(parents=True, exist_ok=True)
        self.counts = {name: (counts or {}).get(name, 0) for name in _FILES}
        self._files = {name: (path / name).open("ab") for name in _FILES}
        for name, file in self._files.items():
            expected = self.counts[name] * _entry_bytes(name)
            found = file.seek(0, os.SEEK_END)
            if found < expected:
                raise errors.UserError(
                    f"{path / name} has {found} bytes, but {expected} were written: it "
                    "is damaged; pass --overwrite to start again"
                )
            file.truncate(expected)

    def append(self, columns: columnar.Columns) -> None:
        """Writes structures after those that are there."""
        parts = {
            name: getattr(columns, name) for name in _FILES if hasattr(columns, name)
        }
        for name in _STRINGS:
            lengths, characters = _split_strings(getattr(columns, name))
            parts[f"{name}_lengths"] = lengths
            parts[f"{name}_characters"] = characters
        with errors.explain_disk_errors(self._path):
            for name, values in parts.items():
                content = np.ascontiguousarray(values, _FILES[name][0]).data
                self._files[name].write(content)
        # Counted after all of them are written: half a chunk does not count.
        self.counts = {
            name: count + len(parts[name]) for name, count in self.counts.items()
        }

    def flush(self) -> None:
        """Makes what was appended survive the end of the process."""
        with errors.explain_disk_errors(self._path):
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())

    def close(self) -> None:
        """Closes the files; what they hold can be read on."""
        for file in self._files.values():
            # What a full disk does not take has been reported, and does not count.
            with contextlib.suppress(OSError):
                file.close()

    def columns(self) -> columnar.Columns:
        """All structures as views of memory maps."""
        for file in self._files.values():
            file.flush()
        arrays = {name: self._map(name) for name in _FILES}
        num_sites = arrays.pop("num_sites")
        for name in _STRINGS:
            lengths = arrays.pop(f"{name}_lengths")
            characters = arrays.pop(f"{name}_characters")
            arrays[name] = pa.StringArray.from_buffers(
                len(lengths),
                pa.py_buffer(columnar.offsets_of(lengths)),
                pa.py_buffer(characters),
            )
        return columnar.Columns(offsets=columnar.offsets_of(num_sites), **arrays)

    def _map(self, name: str) -> Any:
        dtype, shape = _FILES[name]
        shape = (self.counts[name], *shape)
        if self.counts[name] == 0:
            # There is no memory map of an empty file.
            return np.zeros(shape, dtype)
        return np.memmap(self._path / name, dtype, "r", shape=shape)


class Stage:
    """What was read so far of one source; made by `open_stage`.

    Attributes:
        path: the directory.
        files: the structures.
        progress: the journal's other entries: JSON values, free for the reader to use.
    """

    def __init__(self, path: pathlib.Path, journal: dict[str, Any]):
        """Opens the stage as the journal has it."""
        self.path = path
        self._origin = journal["origin"]
        self._replaces = journal.get("replaces", False)
        self.progress: dict[str, Any] = journal["progress"]
        self.files = ColumnFiles(path / "columns", journal["counts"])

    @property
    def is_empty(self) -> bool:
        """Whether there is no structure in it."""
        return not self.files.counts["num_sites"]

    def commit(self) -> None:
        """Makes the structures and the progress as they are now count."""
        self.files.flush()
        atomic_files.write_json(
            self.path / _JOURNAL_NAME,
            {
                "origin": self._origin,
                "replaces": self._replaces,
                "counts": self.files.counts,
                "progress": self.progress,
            },
        )


@contextlib.contextmanager
def open_stage(
    path: pathlib.Path,
    origin: Mapping[str, Any],
    *,
    restart: bool = False,
    replaces: bool = False,
) -> Iterator[Stage]:
    """The stage in a directory, as it was left or new; one process at a time has it.

    Args:
        path: the directory; made if it is not there.
        origin: what is read, and how: JSON values. A stage of another origin is not
            gone on with.
        restart: forget what was read before.
        replaces: whether the result may replace one that is there; see
            `remove_finished`.

    Raises:
        ValueError: the stage is of another origin, or damaged.
        FileExistsError: another process has it open.
    """
    with _hold(path), contextlib.ExitStack() as stack:
        atomic_files.remove_leftovers(path)
        journal = None if restart else _read_journal(path)
        if journal is None:
            journal = {"origin": dict(origin), "counts": {}, "progress": {}}
            journal["replaces"] = replaces
        saved_requests.require_same(
            origin,
            journal["origin"],
            path=path,
            contents="what an interrupted run has read",
            remedy="pass --overwrite to start again, or the same options to go on",
        )
        stage = Stage(path, journal)
        stack.callback(_close, stage)
        yield stage


def _close(stage: Stage) -> None:
    stage.files.close()
    if stage.is_empty:
        # Nothing to go on with: what failed did so at once.
        remove_stage(stage.path)


@contextlib.contextmanager
def _hold(path: pathlib.Path) -> Iterator[None]:
    with folder_locks.hold(path, "choose another --output"):
        yield
    # Where nothing is in it; it may be somebody else's by now.
    with contextlib.suppress(OSError):
        path.rmdir()


def remove_stage(path: pathlib.Path) -> None:
    """Removes all of a stage that is open, finished or not."""
    for each in path.iterdir():
        if each.is_dir():
            shutil.rmtree(each, ignore_errors=True)
        # The lock goes when it is released.
        elif each.name != folder_locks.NAME:
            each.unlink(missing_ok=True)


def remove_finished(path: pathlib.Path) -> bool:
    """Removes a stage whose result was written by a process that was killed then.

    Call it where there is a result: it was made from the stage, unless the stage was
    opened to replace it.

    Returns:
        Whether it was made from the stage, which is removed then.

    Raises:
        InUseError: another process has the stage open.
    """
    with _hold(path):
        journal = _read_journal(path) or {}
        if not journal.get("replaces"):
            remove_stage(path)
            return True
    return False


def _read_journal(path: pathlib.Path) -> dict[str, Any] | None:
    remedy = "pass --overwrite to start again"
    journal = saved_requests.load(path / _JOURNAL_NAME, remedy)
    if journal is not None and not {"origin", "counts", "progress"} <= set(journal):
        raise errors.UserError(
            f"{path / _JOURNAL_NAME} is not the journal of an interrupted run; {remedy}"
        )
    return journal


def _split_strings(strings: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of each string, int32; and those bytes, one string after the other."""
    encoded = [text.encode() for text in strings.to_pylist()]
    lengths = np.array([len(each) for each in encoded], np.int32)
    return lengths, np.frombuffer(b"".join(encoded), np.uint8)


def _entry_bytes(name: str) -> int:
    dtype, shape = _FILES[name]
    return np.dtype(dtype).itemsize * math.prod(shape)
