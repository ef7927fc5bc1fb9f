"""The process that does a job: a command of the package that ends with the server.

``python -m crystaljax.app.worker sample --formulas=TaB2 --output=…``. Its standard
input is a pipe from the server. When that closes, however the server ended, nobody
waits for the result any more: the process ends with all that it started, and the same
command goes on where it was.
"""

import os
import runpy
import signal
import sys
import threading


def main() -> None:
    """Runs the command of the arguments as ``python -m crystaljax`` does."""
    threading.Thread(target=_end_with_server, daemon=True).start()
    sys.argv = ["crystaljax", *sys.argv[1:]]
    runpy.run_module("crystaljax", run_name="__main__", alter_sys=True)


def _end_with_server() -> None:
    # Nothing is ever written to it.
    while os.read(0, 1):
        pass
    # Files appear when they are whole, so that nothing has to be tidied up. The server
    # started a session of its own for this process.
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
