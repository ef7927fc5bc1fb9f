"""What every command that computes does first: other processes, compiled programs."""

import hashlib
import os
import pathlib
import platform

import jax

from crystaljax.system import errors

# Set in every process that srun or mpirun starts, and in no other.
_NUM_TASKS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def initialize_processes() -> None:
    """Joins the other processes of this job, if there are any; call it before all else.

    Under Slurm (``srun``) and Open MPI (``mpirun``) JAX finds them itself. Elsewhere
    every process is told: ``JAX_COORDINATOR_ADDRESS`` (host:port of process 0),
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
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", 4 * 2**30)


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
