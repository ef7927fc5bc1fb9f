"""What every command that computes does first: other processes, compiled programs."""

import contextlib
import errno
import glob
import hashlib
import os
import pathlib
import platform
import re
import sys
import time
import warnings
from typing import Any

import jax

from crystaljax.system import errors

# Set in every process that srun or mpirun starts, and in no other.
_NUM_TASKS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")

# An entry of the cache of programs takes less to write.
_UNFINISHED_SECONDS = 60
# JAX's warning of an entry that it cannot read or write.
_CACHE_PROBLEM = re.compile(
    r"Error (reading|writing) persistent compilation cache entry for '(.*?)': (.*)",
    re.DOTALL,
)


def initialize_processes() -> None:
    """Joins the other processes of this job, if there are any; call it before all else.

    Under Slurm (``srun``) and Open MPI (``mpirun``) JAX finds them itself. Elsewhere
    every process needs ``JAX_COORDINATOR_ADDRESS`` (host:port of process 0),
    ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``.

    Raises:
        ValueError: some of these three are set, but not all to what they should be.
    """
    if jax.distributed.is_initialized():
        return
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    address, count, index = (os.environ.get(name) for name in names)
    if count is not None or index is not None:
        try:
            numbers = int(count or ""), int(index or "")
        except ValueError:
            numbers = 0, 0
        if not (address and 0 <= numbers[1] < numbers[0]):
            raise errors.UserError(
                f"{', '.join(names)} are {address!r}, {count!r}, {index!r}; expected "
                "host:port of process 0, the number of processes, and the number of "
                "this one, from 0: set all three, or none for a single process"
            )
        jax.distributed.initialize(address, *numbers)
    elif any(os.environ.get(name, "1") != "1" for name in _NUM_TASKS):
        jax.distributed.initialize()


def enable_compilation_cache() -> None:
    """Keeps compiled programs on disk, so that the next start need not compile them.

    They are kept in ``~/.cache/crystaljax`` (``$XDG_CACHE_HOME/crystaljax``), the least
    recently used of more than 4 GiB are deleted. A directory that JAX was given
    (``JAX_COMPILATION_CACHE_DIR``) is left as it is; ``JAX_ENABLE_COMPILATION_CACHE=0``
    switches it off.
    """
    if jax.config.jax_compilation_cache_dir:  # pyright: ignore
        return
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    # Programs for a CPU use what it can: those of another one could crash on it.
    folder = pathlib.Path(cache) / "crystaljax" / f"compiled-{_cpu_fingerprint()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        _remove_orphans(folder)
    except OSError as error:
        text = errors.describe_disk_error(error, folder / "entry") or str(error)
        print(f"note: compiled programs are not kept: {text}", file=sys.stderr)
        return
    _explain_damaged_entries(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", 4 * 2**30)


def _remove_orphans(folder: pathlib.Path) -> None:
    """Removes entries that a killed process or a full disk left unfinished.

    JAX writes an entry and then its time. With one entry that has no time it keeps no
    further programs, and one that was cut short it can neither read nor replace.
    """
    for entry in folder.glob("*-cache"):
        written = entry.with_name(entry.name.removesuffix("-cache") + "-atime")
        with contextlib.suppress(FileNotFoundError):
            status = entry.stat()
            is_unfinished = status.st_size == 0 or not written.exists()
            # Another process may be at it; not if it is of the future, by a clock that
            # has been set back since.
            age = abs(time.time() - status.st_mtime)
            if is_unfinished and age > _UNFINISHED_SECONDS:
                entry.unlink()
                written.unlink(missing_ok=True)


def _explain_damaged_entries(folder: pathlib.Path) -> None:
    """Says in one line, not with JAX's warning, that a program is compiled again.

    JAX never replaces what it cannot read, so it is removed.
    """
    before = warnings.showwarning

    def show(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        found = _CACHE_PROBLEM.match(str(message))
        if found is None:
            before(message, *args, **kwargs)
            return
        doing, module, reason = found.groups()
        if doing == "reading":
            with contextlib.suppress(OSError):
                _remove_damaged(folder, module)
            text = f"a compiled program in {folder} is damaged and is compiled again"
        else:
            text = f"a compiled program is not kept in {folder}"
        print(f"note: {text} ({' '.join(reason.split())[:160]})", file=sys.stderr)

    warnings.showwarning = show


def _remove_damaged(folder: pathlib.Path, module: str) -> None:
    for entry in folder.glob(f"{glob.escape(module)}-*-cache"):
        try:
            _decompress(entry.read_bytes())
        except Exception:
            # zstandard, which JAX uses where it is installed, has errors of its own.
            entry.unlink(missing_ok=True)
            name = entry.name.removesuffix("-cache") + "-atime"
            entry.with_name(name).unlink(missing_ok=True)


def _decompress(content: bytes) -> None:
    from jax._src import compilation_cache

    compilation_cache.decompress_executable(content)


def _cpu_fingerprint() -> str:
    description = platform.machine()
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    # The first CPU's; all cores of a machine have the same.
    names = ("flags", "Features", "model name")
    description += "".join([line for line in lines if line.startswith(names)][:2])
    return hashlib.sha256(description.encode()).hexdigest()[:12]
