"""Files and folders that appear under their name only when they are complete.

What is written goes beside its target first and is renamed at the end, so that a file
that is there is whole; nothing is replaced unless told to. What the disk refuses is
raised as `errors.DiskError`, which names the target.
"""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from crystaljax.system import errors


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
            tempfile.mkdtemp(prefix=f".{path.name}.", dir=workspace)
        )
        try:
            # mkdtemp's folders are closed to others, as no result should be.
            temporary.chmod(0o755)
            yield temporary
            _move_into_place(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


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
