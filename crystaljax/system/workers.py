"""Worker processes for host work: matching, checks, reading files."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import threadpoolctl
import tqdm

# Processes take seconds to start: less work than this is not worth them.
_MIN_SECONDS = 2.0


def default_num_workers() -> int:
    """Number of CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose_num_workers(
    num_workers: int | None, num_items: int, seconds_each: float
) -> int:
    """Number of processes for `map_in_workers`: one where there is little to do.

    Args:
        num_workers: that the user wants, which is what they get; 0: all CPUs; None: not
            said.
        num_items: to map over.
        seconds_each: that one of them takes, roughly.
    """
    if num_workers is not None:
        return num_workers or default_num_workers()
    return 1 if num_items * seconds_each < _MIN_SECONDS else default_num_workers()


def map_in_workers(
    fn: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    num_workers: int | None = None,
    description: str | None = None,
    total: int | None = None,
) -> Iterator[Any]:
    """Yields ``fn(item)`` for every item, in order, computed by worker processes.

    ``fn`` runs with one thread per library, since worker processes that each start a
    pool of BLAS threads are many times slower. It should return a failure as a value:
    an exception ends the whole map.

    Args:
        fn: a module-level function (it is sent to other processes).
        items: what to map over; consumed as workers become free.
        num_workers: processes; all CPUs if None. With 1, everything runs in this one.
        description: label of a progress bar with rate and time left; none if None.
        total: number of items where ``items`` has no length.
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    num_workers = num_workers or default_num_workers()
    if num_workers == 1:
        with threadpoolctl.threadpool_limits(1):
            yield from with_progress(map(fn, items), description, total)
        return
    # Only here: commands and worker processes start sooner without it.
    import joblib

    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        parallel = joblib.Parallel(
            n_jobs=num_workers, return_as="generator", batch_size="auto"
        )
        results: Iterable[Any] = parallel(joblib.delayed(fn)(item) for item in items)
        yield from with_progress(results, description, total)


def with_progress(
    results: Iterable[Any], description: str | None, total: int | None
) -> Iterable[Any]:
    """The same, with a progress bar of that label; without one if it is None."""
    if description is None:
        return results
    return tqdm.tqdm(results, desc=description, total=total, smoothing=0.05)
