"""Signals that ask a command to stop: SIGTERM, as Slurm sends it, and Ctrl-C.

Where they are handled (`handled`), one raises `Stopped` in the main thread, as Ctrl-C
raises KeyboardInterrupt; inside `deferred` it waits until what must not be left half
done is done.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

# Of a command that was asked to stop and that goes on when it is started again:
# EX_TEMPFAIL of sysexits.h. Failures end with 1, crashes by a signal.
EXIT_STATUS = 75

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# An exception that is raised in a destructor, or where a library catches everything, is
# lost: as long as the command has not ended it comes again.
_REPEAT_SECONDS = 5.0

_depth = 0
_pending: int | None = None
_raised: int | None = None
_is_handled = False


class Stopped(KeyboardInterrupt):
    """The command was asked to stop.

    Attributes:
        name: of the signal.
    """

    def __init__(self, number: int):
        self.name = signal.Signals(number).name
        super().__init__(f"stopped by {self.name}")


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Signals raise `Stopped` inside; nothing changes outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global _pending, _is_handled
    _pending, _is_handled = None, True
    before = {number: signal.signal(number, _handle) for number in _SIGNALS}
    before[signal.SIGALRM] = signal.signal(signal.SIGALRM, _repeat)
    try:
        yield
    finally:
        _is_handled = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            # None is one that Python knows nothing of.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """A signal waits until the end of the block, or for `at_once` in it.

    Raises:
        Stopped: one came.
    """
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
    _stop_if_waiting()


@contextlib.contextmanager
def at_once(is_allowed: bool = True) -> Iterator[None]:
    """Inside `deferred`: a block in which a signal does not wait.

    Args:
        is_allowed: if False, nothing changes.

    Raises:
        Stopped: a signal waits, or comes.
    """
    global _depth
    before = _depth
    if is_allowed:
        _depth = 0
    try:
        _stop_if_waiting()
        yield
    finally:
        _depth = before


def is_requested() -> bool:
    """Whether a signal waits."""
    return _pending is not None


def stop() -> NoReturn:
    """Raises `Stopped`: by the signal that waits, or by one of another process."""
    global _pending, _raised
    number, _pending = _pending or signal.SIGTERM, None
    _raised = number
    if _is_handled:
        signal.setitimer(signal.ITIMER_REAL, _REPEAT_SECONDS)
    raise Stopped(number)


def _stop_if_waiting() -> None:
    if _depth == 0 and _pending is not None:
        stop()


def _handle(number: int, frame: FrameType | None) -> None:
    global _pending
    # A second Ctrl-C is from somebody who does not want to wait.
    is_second = number == signal.SIGINT and _pending is not None
    _pending = number
    if _depth == 0 or is_second:
        stop()


def _repeat(_: int, frame: FrameType | None) -> None:
    _handle(_raised or signal.SIGTERM, frame)
