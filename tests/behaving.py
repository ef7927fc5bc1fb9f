"""What worker processes do in tests; they import this in no time."""

import ctypes
import os
import signal
import subprocess
import sys
import time


def behave(item):
    """In a worker process: does what the item says; its number doubled if that ends."""
    number, what = item
    if what == "sleep":
        time.sleep(60)
    elif what == "exit":
        print("about to leave", file=sys.stderr, flush=True)
        os._exit(3)
    elif what == "segfault":
        ctypes.string_at(0)
    elif what == "raise":
        raise KeyError("no such thing")
    elif what == "stubborn":
        # C code that holds the interpreter: no alarm of Python's would come through.
        ctypes.PyDLL(None).sleep(60)
    elif what == "child":
        # As calculators do that run a program.
        subprocess.run(["sleep", "60"], check=True)
    elif what == "pause":
        time.sleep(0.2)
    return 2 * number


def die_once(path):
    """Dies at the first call, as if the system had killed an innocent process."""
    if not os.path.exists(path):
        with open(path, "w"):
            os.kill(os.getpid(), signal.SIGKILL)
    return os.environ["OMP_NUM_THREADS"]
