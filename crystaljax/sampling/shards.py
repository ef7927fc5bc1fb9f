"""Where samples go: files in shards, what was requested, and a thread that writes.

A folder of samples holds ``request.json`` and one shard, or several:

samples.extxyz    samples-00000-of-00012.extxyz      crystals, conditions in ``info``
cifs/ or .zip     cifs-00000-of-00012/ or .zip       the same as CIFs
samples.csv       samples-00000-of-00012.csv         one row per sample
samples.parquet   samples-00000-of-00012.parquet     the same; written last
relaxed_draws.jsonl   likewise                       what a judge has relaxed

Each file appears when it is whole, and a shard whose last file is there is finished: it
is kept when the same request is made again.
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from crystaljax.system import atomic_files, saved_requests, sharding

DEFAULT_SIZE = 10_000
REQUEST_FILE = "request.json"
_PART = r"(-\d{5,}-of-\d{5,})?"
_OUTPUT = re.compile(
    rf"samples{_PART}\.(extxyz|csv|parquet)|cifs{_PART}(\.zip)?"
    rf"|relaxed_draws{_PART}\.jsonl"
)
# Where the writers of older versions write before they rename: left by a process that
# was killed.
_TEMPORARY = re.compile(rf"\.(samples|cifs){_PART}(\.(extxyz|csv|parquet|zip))?\.\w+.*")
# Shards that may wait to be written: memory holds no more than these.
_MAX_PENDING = 2


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the samples of a request are divided into shards.

    Attributes:
        num_samples: of the request.
        shard_size: samples of a shard; the last may have fewer.
    """

    num_samples: int
    shard_size: int

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-self.num_samples // self.shard_size)

    def numbers(self, shard: int) -> range:
        """Numbers of a shard's samples."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.num_samples))

    def part(self, shard: int) -> str:
        """What stands in the names of a shard's files."""
        if self.num_shards == 1:
            return ""
        return f"-{shard:05d}-of-{self.num_shards:05d}"

    def finished(self, output: pathlib.Path) -> set[int]:
        """Shards that are there."""
        return {
            shard
            for shard in range(self.num_shards)
            if (output / f"samples{self.part(shard)}.parquet").exists()
        }


def wait_until_finished(
    output: pathlib.Path, layout: Layout, *, patience_seconds: float = 3600.0
) -> None:
    """Returns when all shards are there, or none has come in ``patience_seconds``.

    JAX ends all processes of a job a few minutes after the first of them has ended, so
    the one that has made its shards first has to stay.
    """
    num_finished, since = -1, time.monotonic()
    while len(finished := layout.finished(output)) < layout.num_shards:
        if len(finished) != num_finished:
            num_finished, since = len(finished), time.monotonic()
        elif time.monotonic() - since > patience_seconds:
            return
        time.sleep(min(1.0, patience_seconds))


def default_size(num_samples: int) -> int:
    """Samples of a shard where nothing is said: every process has some to make."""
    return max(min(DEFAULT_SIZE, -(-num_samples // jax.process_count())), 1)


def fingerprint(tree: Any) -> str:
    """Hash of the arrays in a pytree, with their names, types and shapes."""
    digest = hashlib.blake2b(digest_size=16)
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        array = np.ascontiguousarray(jax.device_get(leaf))
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(array.view(np.uint8).data)
    return digest.hexdigest()


def open_output(
    output: pathlib.Path,
    request: dict[str, Any],
    num_samples: int,
    *,
    shard_size: int | None,
    overwrite: bool,
) -> Layout:
    """Prepares a folder for a request, or finds what was made of it before.

    Args:
        output: the folder.
        request: all that decides what the samples are, for ``request.json``.
        num_samples: of the request.
        shard_size: samples of a shard; as before, or `default_size`, if None.
        overwrite: remove the samples of another request.

    Raises:
        FileExistsError: the folder holds samples of another request, and ``overwrite``
            is False.
    """
    request = {**request, "num_in_all": num_samples}
    if shard_size is not None:
        request["shard_size"] = shard_size
    if not overwrite:
        _require_same_request(output, request)
    # One process prepares, the others wait; making samples needs no such agreement.
    if sharding.is_first_process():
        if overwrite:
            _remove_samples(output)
        _remove_temporaries(output)
        if not (output / REQUEST_FILE).exists():
            size = {"shard_size": shard_size or default_size(num_samples)}
            atomic_files.write_json(output / REQUEST_FILE, request | size)
    sharding.wait_for_all("request")
    saved = json.loads((output / REQUEST_FILE).read_text())
    return Layout(num_samples, saved["shard_size"])


def require_new(output: str | pathlib.Path, overwrite: bool) -> None:
    """Raises FileExistsError if a folder holds samples and they may not go."""
    if overwrite:
        return
    for path in _outputs(pathlib.Path(output)):
        if path.name.startswith("samples"):
            raise FileExistsError(
                f"{output} already holds samples; pass --overwrite, or choose another "
                "--output"
            )


def _require_same_request(output: pathlib.Path, request: dict[str, Any]) -> None:
    remedy = "pass --overwrite, or choose another --output"
    saved = saved_requests.load(output / REQUEST_FILE, remedy)
    if saved is None:
        require_new(output, overwrite=False)
        return
    made_by = saved.get("made_by", {})
    if "candidates" in made_by:
        # Its name in folders of older versions.
        made_by["draws"] = made_by.pop("candidates")
    made_by.setdefault("follow_known", None)
    saved_requests.require_same(
        request,
        saved,
        path=output,
        contents="samples",
        remedy=remedy,
        optional=("shard_size",),
    )


def _outputs(output: pathlib.Path) -> list[pathlib.Path]:
    if not output.is_dir():
        return []
    return sorted(path for path in output.iterdir() if _OUTPUT.fullmatch(path.name))


def _remove_samples(output: pathlib.Path) -> None:
    paths = _outputs(output)
    for path in paths:
        others = [
            each.name
            for each in (path.iterdir() if path.is_dir() else ())
            if each.suffix != ".cif"
        ]
        if others:
            raise FileExistsError(
                f"{path} holds other files than CIFs, such as {others[0]!r}, and is "
                "not replaced; choose another --output"
            )
    # Without it nothing that is left counts as samples of this request.
    (output / REQUEST_FILE).unlink(missing_ok=True)
    for path in paths:
        _remove(path)


def _remove_temporaries(output: pathlib.Path) -> None:
    atomic_files.remove_leftovers(output)
    if output.is_dir():
        for path in output.iterdir():
            if _TEMPORARY.fullmatch(path.name):
                _remove(path)


def _remove(path: pathlib.Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def write_behind(items: Iterable[Any], write_fn: Callable[[Any], Any]) -> list[Any]:
    """Calls ``write_fn(item)`` in a thread, while the next items are made.

    Returns:
        The results, in order. An exception in the thread ends the loop.
    """
    results: list[Any] = []
    pending: collections.deque[concurrent.futures.Future[Any]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        for item in items:
            while pending and (len(pending) >= _MAX_PENDING or pending[0].done()):
                results.append(pending.popleft().result())
            pending.append(pool.submit(write_fn, item))
        results += [future.result() for future in pending]
    return results
