"""One process at a time writes a folder; the error of a second one names the first.

The lock is the system's own (flock): it ends with the process that holds it, however
that ends. The file that a killed process leaves hinders no other.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
import sys
import time
from collections.abc import Iterator

from crystaljax.system import errors

NAME = ".lock"
# Network drives whose servers know no locks.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class InUseError(FileExistsError, errors.UserError):
    """Another process writes a folder."""


@contextlib.contextmanager
def hold(folder: pathlib.Path, remedy: str) -> Iterator[None]:
    """Makes a folder if it is not there, and holds it alone.

    A folder that was made and is empty at the end is removed.

    Args:
        folder: to be written to.
        remedy: what else could be done than wait for another process, in words.

    Raises:
        InUseError: another process has it; the message says which one and where.
        DiskError: the folder cannot be written.
    """
    is_new = not folder.exists()
    path = folder / NAME
    with errors.explain_disk_errors(path):
        descriptor = _acquire(path, remedy)
    try:
        yield
    finally:
        # Before it is given up: the next one may have a file of its own.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _acquire(path: pathlib.Path, remedy: str) -> int:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            # Its holder has just removed the folder.
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = _describe_owner(descriptor)
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise InUseError(
                    f"{path.parent} is being written by {owner}; wait for it to end, "
                    f"or {remedy}"
                ) from None
            if error.errno not in _NO_LOCKS:
                raise
            print(
                f"note: {path.parent} is on a file system without locks: start no "
                "second process that writes to it",
                file=sys.stderr,
            )
            return os.open(os.devnull, os.O_RDONLY)
        if _is_file(descriptor, path):
            break
        # Its holder has removed it after it was opened here.
        os.close(descriptor)
    os.ftruncate(descriptor, 0)
    owner = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    os.write(descriptor, json.dumps(owner).encode())
    return descriptor


def _describe_owner(descriptor: int) -> str:
    try:
        owner = json.loads(os.pread(descriptor, 1000, 0))
        return f"process {owner['pid']} on {owner['host']} (since {owner['since']})"
    except (ValueError, KeyError, TypeError):
        # It has not said so yet.
        return "another process"


def _is_file(descriptor: int, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
