"""Worker processes for code that may not end, or may end its process.

Each process holds one item at a time, so that one that dies, or has to be killed after
a time limit, costs exactly that item. The processes of `workers.map_in_workers` are
joblib's, which cannot do that: the death of one breaks the pool, without a word on
which item it was.
"""

import collections
import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing import connection as connections
from typing import Any

from crystaljax.system import errors, workers

# An item whose process dies is tried once more: when memory runs out, the system kills
# a process that need not be the one to blame.
_MAX_DEATHS = 2
# Importing PyTorch from a network drive takes its time.
_START_SECONDS = 600.0
_CLUSTER_SECONDS = 60.0
# Items per thread of a cluster that wait there, so that no worker waits for us.
_QUEUED_PER_THREAD = 3
# As many libraries as there are have their own name for it. And several processes on
# one GPU cannot each take most of its memory, as JAX does.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """Where items are computed, and what is shown of it.

    Attributes:
        num_workers: processes; all CPUs if None. On a cluster: as many as it has.
        cluster: address of a Dask scheduler, ``tcp://host:port``; None: this machine.
            The package must be installed there.
        description: label of a progress bar; none if None.
    """

    num_workers: int | None = None
    cluster: str | None = None
    description: str | None = None


ALL_CPUS = WorkerOptions()


@dataclasses.dataclass(frozen=True)
class Lost:
    """What stands for the result of an item that has none.

    Attributes:
        reason: in words: the time limit passed, or the process died.
    """

    reason: str


def map_isolated(
    fn: Callable[[Any], Any],
    items: Sequence[Any],
    timeout: float,
    worker_options: WorkerOptions = ALL_CPUS,
) -> Iterator[tuple[int, Any]]:
    """Yields (index, ``fn(item)``) as the items are finished, one process per item.

    Whatever an item does to its process (a segmentation fault, all memory, an endless
    loop in C) costs that item: its result is a `Lost`. Processes are used again for the
    next item; a new one takes the place of one that is gone. What is printed in them
    is not seen.

    On a cluster the items go to Dask workers, which have such processes of their own.
    Items of a worker that is lost go to another. It is `distributed.Client` that is
    used and not joblib's Dask backend: there the loss of a worker can end the map, here
    an item that several workers were lost with is one more `Lost`.

    Args:
        fn: a module-level function, or a `functools.partial` of one.
        items: what to map over.
        timeout: seconds that an item may take.
        worker_options: where.

    Raises:
        ImportError: a cluster without Dask.
        RuntimeError: ``fn`` raised an exception; the message has its traceback.
        ValueError: there is no scheduler at the address, or it has no workers.
    """
    if not items:
        return
    results: Generator[tuple[int, Any], None, None]
    if worker_options.cluster is not None:
        results = _map_on_cluster(fn, items, timeout, worker_options.cluster)
    else:
        num_workers = worker_options.num_workers or workers.default_num_workers()
        results = _map_here(fn, items, timeout, num_workers)
    with contextlib.closing(results):
        description = worker_options.description
        yield from workers.with_progress(results, description, len(items))


def _map_here(
    fn: Callable[[Any], Any], items: Sequence[Any], timeout: float, num_workers: int
) -> Generator[tuple[int, Any], None, None]:
    # Only here: the processes that are started need none of it.
    import joblib

    calls = _Calls(fn, timeout)
    # Threads that wait, each for a process.
    parallel = joblib.Parallel(
        n_jobs=min(num_workers, len(items)),
        backend="threading",
        return_as="generator_unordered",
    )
    results: Any = parallel(
        joblib.delayed(calls.numbered)(index, item) for index, item in enumerate(items)
    )
    try:
        # "yield from" would let joblib wait for what runs before it is killed.
        for result in results:  # noqa: UP028
            yield result
    finally:
        calls.close()
        # Closed calls return at once; joblib complains of results that nobody took.
        collections.deque(results, maxlen=0)


class _Calls:
    """Calls of a function from any thread, each in a process of its own."""

    def __init__(self, fn: Callable[[Any], Any], timeout: float, folder: str = ""):
        self._fn = fn
        self._timeout = timeout
        self._folder = folder
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()
        self._closed = False

    def numbered(self, index: int, item: Any) -> tuple[int, Any]:
        return index, self(item)

    def __call__(self, item: Any) -> Any:
        outcome: Any = Lost("stopped before it was its turn")
        for _ in range(_MAX_DEATHS):
            process = self._take()
            if process is None:
                break
            outcome = process.call(item, self._timeout)
            if not isinstance(outcome, Lost):
                with self._lock:
                    self._idle.append(process)
                break
            with self._lock:
                self._all.discard(process)
            timed_out = process.is_alive()
            process.kill()
            if timed_out:
                break
        return outcome

    def _take(self) -> "_Process | None":
        with self._lock:
            if self._closed:
                return None
            if self._idle:
                return self._idle.pop()
            process = _Process(self._fn, self._folder)
            self._all.add(process)
            return process

    def close(self) -> None:
        """Ends all processes, in the middle of what they do; calls return."""
        with self._lock:
            self._closed = True
            for process in self._all:
                process.kill()
            self._all.clear()


class _Process:
    """A process that computes ``fn(item)``, one item at a time."""

    def __init__(self, fn: Callable[[Any], Any], folder: str):
        ours, theirs = multiprocessing.Pipe()
        self._connection = ours
        self._is_ready = False
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115
        # What can be imported here can be there; from the current directory too.
        path = [os.path.abspath(each) for each in [*sys.path, folder or "."]]
        environment = {**os.environ, **_ENVIRONMENT}
        environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path))
        # multiprocessing would import the caller's main module, and gives children to
        # no daemon, which Dask's workers are. A session of its own keeps the keyboard's
        # interrupt away, and lets what the process starts be killed with it.
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from crystaljax.system import isolation; "
                f"isolation.serve({theirs.fileno()}, {os.getpid()})",
            ],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=self._printed,
            stderr=self._printed,
            start_new_session=True,
            env=environment,
        )
        theirs.close()
        with contextlib.suppress(OSError):
            ours.send(fn)

    def call(self, item: Any, timeout: float) -> Any:
        """The result, or `Lost`, after which the process is of no more use."""
        try:
            if not self._is_ready:
                # Not counted as the item's: imports.
                if not self._connection.poll(_START_SECONDS):
                    return Lost(f"no worker process came up in {_START_SECONDS:g} s")
                self._connection.recv()
                self._is_ready = True
            self._connection.send(item)
            if not self._connection.poll(timeout):
                return Lost(f"timed out after {timeout:g} s")
            kind, value = self._connection.recv()
        except (EOFError, OSError):
            return Lost(self._describe_death())
        if kind == "raised":
            raise RuntimeError(f"in a worker process:\n{value}")
        return value

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _describe_death(self) -> str:
        # It has closed its end; its status takes a moment more.
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "the worker process went silent"
        how = f"with exit code {code}"
        if code < 0:
            how = f"by signal {-code} ({signal.Signals(-code).name})"
        if code == -signal.SIGKILL:
            how += ", as when memory runs out"
        self._printed.seek(0)
        lines = self._printed.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        printed = f"; the last it printed: {last[:200]}" if last else ""
        return f"the worker process died {how}{printed}"


def serve(file_descriptor: int, parent: int) -> None:
    """What a process of `map_isolated` does: takes items from a pipe, until it ends."""
    # Slurm sends it to all processes of a job: the one that asked says when to end, and
    # no item counts as the cause of it. Unlike one that is ignored, a signal that is
    # handled means to programs that are started here what it did.
    signal.signal(signal.SIGTERM, lambda *_: None)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    connection = connections.Connection(file_descriptor)
    fn = connection.recv()
    connection.send("ready")
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        try:
            outcome = ("returned", fn(item))
        except Exception:
            outcome = ("raised", traceback.format_exc())
        connection.send(outcome)


def _end_with(parent: int) -> None:
    """Nobody wants the result once the process that requested it is gone."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)


def _map_on_cluster(
    fn: Callable[[Any], Any], items: Sequence[Any], timeout: float, address: str
) -> Generator[tuple[int, Any], None, None]:
    distributed = _import_distributed()
    with _connect(address) as client:
        token = uuid.uuid4().hex
        waiting = iter(enumerate(items))
        numbers: dict[str, int] = {}
        futures = distributed.as_completed(loop=client.loop)

        def submit() -> None:
            # Workers come and go.
            num_threads = sum(client.nthreads().values())
            room = max(num_threads, 1) * _QUEUED_PER_THREAD - len(numbers)
            for index, item in itertools.islice(waiting, max(room, 0)):
                key = f"crystaljax-{token}-{index}"
                future = client.submit(
                    _call_on_worker, token, fn, item, timeout, os.getcwd(), key=key
                )
                numbers[key] = index
                futures.add(future)

        try:
            submit()
            for future in futures:
                index = numbers.pop(future.key)
                yield index, _result_of(future)
                submit()
        finally:
            with contextlib.suppress(Exception):
                client.run(_forget_calls, token)


def _result_of(future: Any) -> Any:
    # Waits for another worker if the one that has it was lost just now.
    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        return Lost(f"lost with the cluster's workers: {error}".split("\n")[0])


def _import_distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise errors.MissingPackageError(
            "a cluster needs Dask, which is not installed; install the 'cluster' "
            "extra: pip install 'crystaljax[cluster]'"
        ) from error
    return distributed


def _connect(address: str) -> Any:
    distributed = _import_distributed()
    client = None
    try:
        client = distributed.Client(
            address, timeout=_CLUSTER_SECONDS, set_as_default=False
        )
        client.wait_for_workers(1, timeout=_CLUSTER_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        problem = "has no workers" if client else f"does not answer ({error})"
        if client is not None:
            client.close()
        raise errors.UserError(
            f"the Dask scheduler at {address!r} {problem}; expected a running one with "
            "workers, such as tcp://10.0.0.1:8786: start them with `dask scheduler` "
            "and `dask worker`"
        ) from error
    return client


# Of this Dask worker, by the map that they belong to.
_calls_by_token: dict[str, _Calls] = {}
_calls_lock = threading.Lock()


def _call_on_worker(
    token: str, fn: Callable[[Any], Any], item: Any, timeout: float, folder: str
) -> Any:
    with _calls_lock:
        if token not in _calls_by_token:
            _calls_by_token[token] = _Calls(fn, timeout, folder)
        calls = _calls_by_token[token]
    return calls(item)


def _forget_calls(token: str) -> None:
    with _calls_lock:
        calls = _calls_by_token.pop(token, None)
    if calls is not None:
        calls.close()
