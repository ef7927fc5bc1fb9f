"""Files and folders that appear under their name only when they are complete.

What is written goes beside its target first and is renamed at the end, so that a file
that is there is whole; nothing is replaced unless requested. What the disk refuses is
raised as `errors.DiskError`, which names the target.
"""

import contextlib
import glob
import json
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from crystaljax.system import errors

# Names that a process which was killed leaves behind: what it was writing, what was to
# be replaced, and a group of whole files that were to be moved to their places.
_UNFINISHED = re.compile(r"\..+\.\d+(\.\w+)?\.tmp")
_REPLACED = re.compile(r"\.(.+)\.old-\d+")
_GROUP = ".whole"


def require_absent(path: pathlib.Path, overwrite: bool) -> None:
    """Raises FileExistsError if the path is there and is not to be replaced."""
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{path} is there already; choose another path, remove it, or pass "
            "overwrite"
        )


@contextlib.contextmanager
def file(
    path: str | os.PathLike[str], overwrite: bool = False
) -> Iterator[pathlib.Path]:
    """A path to write to, which takes the place of ``path`` if all goes well.

    Raises:
        DiskError: it cannot be written; what was there stays.
        FileExistsError: the path is there and ``overwrite`` is False.
    """
    path = pathlib.Path(path)
    require_absent(path, overwrite)
    # Two processes may write the same file; each needs a name of its own.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with errors.explain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file so that a reader never sees half of it; what was there goes.

    It is on the disk when this returns, also if the machine then fails.
    """
    with file(path, overwrite=True) as temporary, temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def write_json(path: str | os.PathLike[str], value: Any, *, indent: int = 2) -> None:
    """Writes JSON as `write_bytes` writes bytes."""
    text = json.dumps(value, indent=indent) + "\n"
    write_bytes(path, text.encode())


@contextlib.contextmanager
def folder(
    path: pathlib.Path, workspace: pathlib.Path | None = None
) -> Iterator[pathlib.Path]:
    """A folder to write to, which takes the place of ``path`` if all goes well.

    Args:
        path: the folder; one that is there is replaced. See `require_replaceable`.
        workspace: where it is written, on the same file system; beside ``path`` if
            None.

    Raises:
        DiskError: it cannot be written; what was there stays.
    """
    workspace = workspace or path.parent
    with errors.explain_disk_errors(path):
        workspace.mkdir(parents=True, exist_ok=True)
        temporary = pathlib.Path(
            tempfile.mkdtemp(".tmp", f".{path.name}.{os.getpid()}.", workspace)
        )
        try:
            # mkdtemp's folders are closed to others, as no result should be.
            temporary.chmod(0o755)
            yield temporary
            _move_into_place(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def group(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder whose files all appear in ``path`` if all goes well, or none does.

    Files of the same names are replaced. What a killed process has not moved there is
    moved by the next `remove_leftovers`.

    Raises:
        DiskError: one cannot be written; what was there stays.
    """
    with errors.explain_disk_errors(path):
        with folder(path / _GROUP) as temporary:
            yield temporary
        _move_group(path)


def _move_group(path: pathlib.Path) -> None:
    for each in sorted((path / _GROUP).iterdir()):
        os.replace(each, path / each.name)
    (path / _GROUP).rmdir()


def remove_leftovers(folder: pathlib.Path) -> None:
    """Removes what a killed process was writing into a folder, and had not finished.

    What it was about to replace comes back, if nothing has taken its place; files of a
    `group` that were whole take theirs. Nobody else may be writing there: hold
    `folder_locks.hold`.

    Raises:
        DiskError: the folder cannot be read or written.
    """
    with errors.explain_disk_errors(folder / "…"):
        if (folder / _GROUP).is_dir():
            _move_group(folder)
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if replaced := _REPLACED.fullmatch(path.name):
                restore(folder / replaced.group(1))
            elif _UNFINISHED.fullmatch(path.name):
                _remove(path)


def restore(path: pathlib.Path) -> None:
    """Brings back a folder that a killed process was about to replace; see `folder`."""
    for old in sorted(path.parent.glob(f".{glob.escape(path.name)}.old-*")):
        if path.exists():
            _remove(old)
        else:
            old.rename(path)


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _move_into_place(temporary: pathlib.Path, path: pathlib.Path) -> None:
    if not path.exists():
        temporary.rename(path)
        return
    # A folder cannot be replaced in one step: the old one makes way first, and comes
    # back if the new one cannot take its place.
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    path.rename(old)
    try:
        temporary.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def require_replaceable(
    path: pathlib.Path,
    overwrite: bool,
    is_ours: Callable[[pathlib.Path], bool],
    ours: str,
) -> None:
    """Raises FileExistsError unless a folder is absent or may be replaced.

    Args:
        path: the folder.
        overwrite: whether one that is there may be replaced.
        is_ours: which of its files may be replaced; one other, and it is not.
        ours: what these are, in words.
    """
    require_absent(path, overwrite)
    found = (each for each in path.rglob("*") if not each.is_dir())
    other = next((each for each in found if not is_ours(each)), None)
    if other is not None:
        raise FileExistsError(
            f"{path} holds other files than {ours}, such as "
            f"{str(other.relative_to(path))!r}, and is not replaced; choose "
            "another folder"
        )
