"""Files and folders that appear under their name only when they are complete.

What is written goes beside its target first and is renamed at the end, so that a file
that is there is whole; nothing is replaced unless told to.
"""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any


def require_absent(path: pathlib.Path, overwrite: bool) -> None:
    """Raises FileExistsError if the path is there and is not to be replaced."""
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{path} is there already; choose another path, remove it, or pass "
            "overwrite"
        )


@contextlib.contextmanager
def file(path: str | os.PathLike[str], overwrite: bool) -> Iterator[pathlib.Path]:
    """A path to write to, which takes the place of ``path`` if all goes well."""
    path = pathlib.Path(path)
    require_absent(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def folder(
    path: pathlib.Path,
    overwrite: bool,
    is_ours: Callable[[pathlib.Path], bool],
    ours: str,
) -> Iterator[pathlib.Path]:
    """A folder to write to, which takes the place of ``path`` if all goes well.

    Args:
        path: the folder.
        overwrite: whether one that is there may be replaced.
        is_ours: which of its files may be replaced; one other, and it is not.
        ours: what these are, in words.

    Raises:
        FileExistsError: the path is there and ``overwrite`` is False, or it holds other
            files.
    """
    require_absent(path, overwrite)
    if path.exists():
        found = (each for each in path.rglob("*") if not each.is_dir())
        other = next((each for each in found if not is_ours(each)), None)
        if other is not None:
            raise FileExistsError(
                f"{path} holds other files than {ours}, such as "
                f"{str(other.relative_to(path))!r}, and is not replaced; choose "
                "another folder"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        # mkdtemp's folders are closed to others, as no result should be.
        temporary.chmod(0o755)
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON so that a reader never sees half a file."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(temporary, path)
