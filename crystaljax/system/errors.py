"""What the package raises for what its user gave, and for what the disk refuses.

Messages name arguments as `name=value` in backticks; the command line shows these as
its flags.
"""

import contextlib
import errno
import os
import pathlib
from collections.abc import Iterator

# What happened, and what to do about it.
_DISK_PROBLEMS = {
    errno.ENOSPC: ("the disk is full", "free some space, or choose another disk"),
    errno.EDQUOT: ("the quota is used up", "free some space, or choose another disk"),
    errno.EFBIG: ("the file would be too large", "choose another file system"),
    errno.EROFS: ("the file system is read-only", "choose another folder"),
    errno.EACCES: ("permission denied", "change the permissions, or choose another"),
    errno.EPERM: ("not permitted", "change the permissions, or choose another"),
    errno.ENOTDIR: ("part of the path is a file", "choose another path"),
    errno.EISDIR: ("it is a folder", "choose another path"),
    errno.EEXIST: ("a file is in the way", "move it, or choose another path"),
    errno.ENOENT: ("it does not exist", "check the path"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
    errno.ELOOP: ("links lead in a circle", "choose another path"),
    errno.EIO: ("the disk reports an error", "check the disk, or choose another"),
    errno.ESTALE: ("the network drive has lost it", "mount the drive anew"),
    errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n)"),
}


class UserError(ValueError):
    """Input, an option or a file that cannot be used; the text says what to do.

    The command line shows the text alone. Any other ValueError is a bug, and keeps its
    traceback.
    """


class MissingPackageError(ImportError):
    """A package that only some uses need is not installed; the text says how."""


class DiskError(OSError, UserError):
    """The disk refuses to read or to write; the text says where, why and what to do."""


def describe_disk_error(
    error: OSError, path: str | os.PathLike[str] | None = None
) -> str | None:
    """One line: which path, what happened, what to do.

    Args:
        error: what the system raised.
        path: what was read or written, for errors that name nothing, or a temporary
            file beside it.

    Returns:
        None for errors that have nothing to do with a disk.
    """
    problem, remedy = _DISK_PROBLEMS.get(error.errno or 0, ("", ""))
    place = error.filename
    if path is not None:
        folder = pathlib.Path(path).parent
        if not isinstance(place, str) or folder in pathlib.Path(place).parents:
            place = path
    if not problem or place is None:
        return None
    return f"{place}: {problem} ({os.strerror(error.errno or 0)}); {remedy}"


@contextlib.contextmanager
def explain_disk_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raises `DiskError` in place of what the system raises inside.

    Args:
        path: what is read or written: temporary names would say nothing to a user.
    """
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        text = describe_disk_error(error, path)
        if text is None:
            raise
        raise DiskError(text) from error
