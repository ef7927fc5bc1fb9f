"""Processes as forks of the one that tests: workers of `isolation`, and commands.

A new one imports ASE, SciPy and pymatgen, and PyTorch for some calculators: seconds,
dozens of times. A fork has them. It must not compute with JAX, whose threads it has
not. `test_isolation` and the commands that tests start have new ones.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time
import traceback
import types
import warnings


def fork(work, *arguments):
    """Calls a function in a fork, which ends with it; the number of the process."""
    with warnings.catch_warnings():
        # JAX's: that there may be locks which nobody opens any more.
        warnings.simplefilter("ignore")
        pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        try:
            work(*arguments)
            status = 0
        except BaseException:
            traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


class Popen:
    """As much of `subprocess.Popen` as `isolation` uses, for Python code."""

    def __init__(self, arguments, *, pass_fds, stdout, env, **_):
        (kept,) = pass_fds
        self._lock = threading.Lock()
        self._status = None
        reads, writes = os.pipe()
        self.pid = fork(_work, arguments[-1], kept, stdout.fileno(), writes, env)
        os.close(writes)
        # Until it has a session of its own, in which it can be killed.
        os.read(reads, 1)
        os.close(reads)

    def poll(self):
        """Exit status, minus the signal if one ended it; None if it runs."""
        with self._lock:
            if self._status is None:
                found, status = os.waitpid(self.pid, os.WNOHANG)
                if found:
                    self._status = os.waitstatus_to_exitcode(status)
            return self._status

    def wait(self, timeout=None):
        """The exit status, once there is one."""
        end = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("a fork", timeout or 0)
            time.sleep(0.002)
        return status


# What takes the place of the module `subprocess` in `isolation`.
SUBPROCESS = types.SimpleNamespace(
    Popen=Popen,
    DEVNULL=subprocess.DEVNULL,
    TimeoutExpired=subprocess.TimeoutExpired,
)


def _work(code, kept, output, ready, env):
    os.setsid()
    _print_to(output)
    os.write(ready, b"1")
    # Ends of other workers' pipes: who reads there would wait for this process.
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(env)
    sys.path[:] = dict.fromkeys([*env["PYTHONPATH"].split(os.pathsep), *sys.path])
    warnings.simplefilter("ignore")
    exec(code, {})


def _print_to(output):
    for number in (1, 2):
        os.dup2(output, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115


def run_quietly(main, arguments):
    """Calls the main function of a command; what it prints is not seen."""
    _print_to(os.open(os.devnull, os.O_WRONLY))
    warnings.simplefilter("ignore")
    main(arguments)
