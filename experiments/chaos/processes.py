"""Commands in processes of their own that start at once: forks of one with all imports.

What a command does from its first line on is what it does in a new process; what is
saved is the import of JAX, pymatgen and the rest, seconds of which nothing is written.
"""

import atexit
import contextlib
import dataclasses
import importlib
import os
import pathlib
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

# Many times what the longest command takes, on a machine with much other work too.
PATIENCE_SECONDS = 1800.0


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: exit status; minus the signal where one ended it; None if it had to be
            killed since it did not end.
        cpu_seconds: that it took, with the processes that it waited for.
        text: what it printed.
        num_left: processes that it had started and that did not end with it.
    """

    status: int | None
    cpu_seconds: float
    text: str
    num_left: int = 0


class Forked:
    """A command that runs in a fork, in a session of its own."""

    def __init__(
        self,
        verb: str,
        flags: Sequence[str],
        here: pathlib.Path,
        before: Callable[[], None] | None = None,
        log: pathlib.Path | None = None,
    ):
        """Starts it.

        Args:
            verb: of the command.
            flags: of the command.
            here: current directory.
            before: called in the process before the command.
            log: file for what it prints; ``{here}.log`` if None.
        """
        here.mkdir(parents=True, exist_ok=True)
        self._log = log or here.with_name(f"{here.name}.log")
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _be_command(verb, flags, here, self._log, before)

    def kill_after(self, cpu_seconds: float) -> bool:
        """Kills it `after` so much time; returns whether it had not ended before."""
        is_running = self.after(cpu_seconds)
        if is_running:
            self.kill()
        return is_running

    def after(self, cpu_seconds: float) -> bool:
        """Waits until it and what it started have used so much time of a CPU.

        Moments would otherwise depend on what else the machine does. Returns whether
        it is still running.
        """
        while (
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        ):
            if _cpu_seconds(self.pid) >= cpu_seconds:
                return True
            time.sleep(0.01)
        return False

    def kill(self, which: int = signal.SIGKILL) -> None:
        """Sends a signal to the process, and to none that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, which)

    def wait(self, patience: float = PATIENCE_SECONDS) -> Ended:
        """Waits until the process and all that it started have ended."""
        status, cpu_seconds = _wait(self.pid, patience)
        # Workers look every half a second whether their parent is there.
        deadline = time.monotonic() + 10
        while (left := _session(self.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if status is None:
            self.kill()
            os.waitpid(self.pid, 0)
        text = self._log.read_text(errors="replace")
        return Ended(status, cpu_seconds, text, len(left))


def _cpu_seconds(pid: int) -> float:
    """Of a process and its children, those that run and those that have ended."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return 0.0
    ticks = sum(map(int, text.rpartition(")")[2].split()[11:15]))
    below = sum(_cpu_seconds(int(child)) for child in children.split())
    return ticks / os.sysconf("SC_CLK_TCK") + below


def _wait(pid: int, patience: float) -> tuple[int | None, float]:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            cpu = usage.ru_utime + usage.ru_stime
            return os.waitstatus_to_exitcode(status), cpu
        time.sleep(0.01)
    return None, 0.0


def _session(leader: int) -> list[int]:
    """Processes that a command started and that run."""
    return [pid for pid in _running() if pid != leader and _marked(pid, leader)]


def _running() -> list[int]:
    return [int(each) for each in os.listdir("/proc") if each.isdigit()]


def _marked(pid: int, leader: int) -> bool:
    """Whether a process has the environment of a command's children."""
    try:
        environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return f"CHAOS_COMMAND={leader}\0".encode() in environment + b"\0"


def _be_command(
    verb: str,
    flags: Sequence[str],
    here: pathlib.Path,
    log: pathlib.Path,
    before: Callable[[], None] | None,
) -> None:
    status = 1
    try:
        os.setsid()
        os.chdir(here)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        os.environ["CHAOS_COMMAND"] = str(os.getpid())
        if before is not None:
            before()
        try:
            importlib.import_module(f"crystaljax.{verb}").main(list(flags))
            status = 0
        except SystemExit as error:
            status = _status(error)
        except BaseException:
            traceback.print_exc()
        atexit._run_exitfuncs()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _status(error: SystemExit) -> int:
    """What Python makes of what is raised."""
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    print(error.code, file=sys.stderr)
    return 1


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function that is called in a fork: this process stays as it is.

    Raises:
        RuntimeError: it raised; the message has its traceback.
    """
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reads)
        with os.fdopen(writes, "wb") as stream:
            try:
                outcome = (True, function(*arguments))
            except Exception:
                outcome = (False, traceback.format_exc())
            stream.write(pickle.dumps(outcome))
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads, "rb") as stream:
        content = stream.read()
    os.waitpid(pid, 0)
    if not content:
        raise RuntimeError("the process died")
    is_good, value = pickle.loads(content)
    if not is_good:
        raise RuntimeError(value)
    return value
