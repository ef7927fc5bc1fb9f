r"""Opens a page in the browser: ask for crystals, look at them, relax them.

    crystaljax app
    crystaljax app --folder=tantalum --hull=entries.csv --known=known.csv

The page is served by this machine to this machine alone, under an address that only
this command prints; it asks no other machine for anything. Pick elements or type a
formula; crystals appear in 3-D, sorted by estimated energy, space group or volume; the
chosen ones are relaxed with a potential that is installed, and downloaded as CIF,
POSCAR, extxyz or zip, with the command line that makes the same again.

What is asked for runs one after the other, each as a command of the package, in
``--folder``: the same command shows it again, and what was interrupted goes on.
Ctrl-C ends it. From another machine: ``ssh -L 8642:localhost:8642 HOST`` and there
``crystaljax app --port=8642 --no_browser``.
"""

import contextlib
import os
import pathlib
import socket
import webbrowser
from collections.abc import Iterator, Sequence

from crystaljax import command_line
from crystaljax.app import options
from crystaljax.system import atomic_files, errors, folder_locks


def serve(asked: options.AppOptions) -> None:
    """Serves the page until it is interrupted.

    Raises:
        MissingPackageError: what serves is not installed.
        UserError: the port is taken, or the model, hull or known crystals are not
            there.
        InUseError: another process serves the same folder.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise errors.MissingPackageError(
            f"the page needs {error.name}, which is not installed; install the 'app' "
            'extra: pip install "crystaljax[app]"'
        ) from error
    from crystaljax.app import guard, line, server

    _require(asked)
    root = pathlib.Path(asked.folder).absolute()
    listening = _listen(asked.port)
    with listening, folder_locks.hold(root, "choose another --folder"):
        atomic_files.remove_leftovers(root / "uploads")
        token = guard.make_token()
        app = server.build(server.Server(asked, root, line.Line(root)), token)
        port = listening.getsockname()[1]
        address = f"http://127.0.0.1:{port}/{token}/"
        print(f"{address}\n(keep it to yourself; Ctrl-C ends it)", flush=True)
        config = uvicorn.Config(app, log_level="warning", access_log=False)
        with contextlib.ExitStack() as stack:
            if not asked.no_browser:
                webbrowser.open(stack.enter_context(_written(root, address)).as_uri())
            uvicorn.Server(config).run(sockets=[listening])


@contextlib.contextmanager
def _written(root: pathlib.Path, address: str) -> Iterator[pathlib.Path]:
    """A file that leads to the address and that nobody else can read.

    All users of a machine see with which arguments a browser is started.
    """
    path = root / "open.html"
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(f'<meta http-equiv="refresh" content="0;url={address}">\n')
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _require(asked: options.AppOptions) -> None:
    """What cannot be used is said before a page opens."""
    from crystaljax.training import model_files

    model_files.resolve(asked.workdir, asked.model, model_files.DEFAULT)
    if asked.modify_with is not None:
        model_files.resolve(None, asked.modify_with)
    if asked.known is not None and not pathlib.Path(asked.known).exists():
        raise errors.UserError(
            f"no known crystals at `known={asked.known}`; expected a data set, a CSV "
            "with CIFs, entries in JSON, crystals, or a folder of them"
        )
    is_file = (asked.hull or "").endswith((".csv", ".json"))
    if asked.hull is not None and is_file and not pathlib.Path(asked.hull).is_file():
        raise errors.UserError(f"no entries at `hull={asked.hull}`")


def _listen(port: int) -> socket.socket:
    """A socket on this machine's own address, which no other machine reaches."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
        # Whoever comes before the server is up waits for it.
        listening.listen()
    except OSError as error:
        listening.close()
        raise errors.UserError(
            f"port {port} cannot be used ({error.strerror}); choose another with "
            "`port=`, or leave it out for a free one"
        ) from error
    return listening


def _run(chosen: options.AppOptions) -> None:
    serve(chosen)


COMMAND = command_line.Command(
    "app",
    __doc__,
    (options.AppOptions,),
    _run,
    uses_devices=False,
    goes_on="the same command shows the jobs again",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; ``arguments`` are those of the process if None."""
    command_line.run(COMMAND, arguments)


if __name__ == "__main__":
    main()
