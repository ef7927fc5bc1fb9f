"""Damages good files of every format, and counts what is made of them.

    python experiments/hostile_input/run.py --num_inputs=100000 \
        --output=experiments/hostile_input/counts.json

Every input has a number, from which kind, file and damage follow; ``--show=NUMBER``
writes the damaged files to a folder and shows what is read of them. One worker process
reads; a watchdog ends it where one input takes more than `HANG` seconds. The counts are
written as they grow, and the same command goes on with them.
"""

import argparse
import collections
import dataclasses
import json
import multiprocessing
import os
import pathlib
import platform
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import numpy as np
from hostile_input import kinds as kinds_lib
from hostile_input import mutations

from crystaljax.crystals import structure, validity
from crystaljax.system import errors

SEED = 19
SLOW = 5.0  # s of the processor
HANG = 120.0  # s by the clock, after which the worker is ended from outside
SAVED_EVERY = 1000
MEMORY = 2**30  # bytes, beyond what the worker had before
# From harmless to bad; an input counts as the worst of what it holds.
OUTCOMES = (
    "refused",
    "same",
    "another, nothing says otherwise",
    "another, though the file says otherwise",
    "commands differ",
    "traceback",
    "slow",
    "memory",
    "crash",
)
BAD = OUTCOMES[3:]


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of one input."""

    number: int
    kind: str
    mutation: str
    outcome: str
    detail: str
    seconds: float


class _TooSlow(BaseException):
    """Raised by the alarm; no reader catches it."""


@dataclasses.dataclass(frozen=True)
class _Good:
    kind: kinds_lib.Kind
    items: Mapping[str, Any]


class Reader:
    """Reads inputs by number, in this process."""

    def __init__(self, place: pathlib.Path, seed: int = SEED):
        """Makes all good files, and reads each."""
        self._place = place
        self._seed = seed
        self._kinds: dict[str, list[_Good]] = {}
        for name, variants in kinds_lib.build().items():
            made = []
            for kind in variants:
                items = kind.read(self._write(kind.files))
                bad = [v for _, v in items if isinstance(v, kinds_lib.Refused)]
                if bad or not items:
                    raise AssertionError(f"a good {name} is not read: {bad}")
                made.append(_Good(kind, dict(items)))
            self._kinds[name] = made
        self.names = list(self._kinds)

    def make(self, number: int) -> tuple[str, _Good, dict[str, bytes], str]:
        """Kind, good input, damaged files and what was done to them."""
        rng = np.random.default_rng([self._seed, number])
        name = self.names[number % len(self.names)]
        good = self._kinds[name][int(rng.integers(len(self._kinds[name])))]
        kind = good.kind
        path = str(rng.choice(list(kind.mutated)))
        content = kind.files[path]
        if kind.unpack is not None and kind.pack is not None and rng.random() < 0.5:
            inner, done = mutations.mutate(kind.unpack(content), rng)
            content = kind.pack(inner)
        else:
            content, done = mutations.mutate(content, rng)
        return name, good, {**kind.files, path: content}, done

    def read(self, number: int) -> Result:
        """Makes an input and says what is read of it."""
        name, good, files, done = self.make(number)
        place = self._write(files)
        start = time.process_time()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # Of the processor: other work on the machine does not count.
        signal.setitimer(signal.ITIMER_PROF, SLOW)
        try:
            outcome, detail = _judge(good, files, place)
        except _TooSlow:
            outcome, detail = "slow", f"more than {SLOW:g} s"
        except MemoryError:
            outcome, detail = "memory", "MemoryError"
        except kinds_lib.RoutesDifferError as error:
            outcome, detail = "commands differ", str(error)[:600]
        except Exception:
            outcome, detail = "traceback", _shorten(traceback.format_exc())
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
        if grown > MEMORY:
            outcome, detail = "memory", f"{grown / 2**20:.0f} MiB"
        seconds = time.process_time() - start
        return Result(number, name, done, outcome, detail, seconds)

    def _write(self, files: Mapping[str, bytes]) -> pathlib.Path:
        # Anew, since readers leave files of their own.
        shutil.rmtree(self._place, ignore_errors=True)
        for name, content in files.items():
            path = self._place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return self._place


def _judge(
    good: _Good, files: Mapping[str, bytes], place: pathlib.Path
) -> tuple[str, str]:
    try:
        items = good.kind.read(place)
    except kinds_lib.USER_ERRORS as error:
        if not str(error).strip():
            raise AssertionError("refused without a word") from error
        return "refused", str(error)
    except OSError as error:
        if errors.describe_disk_error(error) is None:
            raise
        return "refused", str(error)
    worst, detail = "refused", ""
    for key, value in items:
        if isinstance(value, kinds_lib.Refused):
            continue
        outcome, found = _judge_value(good, files, key, value)
        if OUTCOMES.index(outcome) > OUTCOMES.index(worst):
            worst, detail = outcome, found
    return worst, detail


def _judge_value(
    good: _Good, files: Mapping[str, bytes], key: str, value: Any
) -> tuple[str, str]:
    if key in good.items and kinds_lib.same_value(good.items[key], value):
        return "same", ""
    is_crystal = isinstance(value, structure.Crystal)
    if is_crystal and any(
        kinds_lib.same_value(each, value) for each in good.items.values()
    ):
        return "same", ""
    if is_crystal and validity.find_cell_problem(value):
        # Every command asks this before it does anything with a crystal.
        return "refused", ""
    find = good.kind.find_contradiction
    problem = find(files, key, value) if find else ""
    if problem:
        return "another, though the file says otherwise", f"{key}: {problem}"
    return "another, nothing says otherwise", f"{key}: {_describe(value)}"


def _describe(value: Any) -> str:
    if isinstance(value, structure.Crystal):
        return f"{value.num_sites} sites"
    return str(value)[:200]


def _shorten(text: str) -> str:
    lines = text.strip().splitlines()
    places = [line.strip() for line in lines if line.strip().startswith("File ")]
    return " | ".join([lines[-1][:300], *[p.split("/")[-1] for p in places[-3:]]])


# ------------------------------------------------------------------------------ workers
def prepare_process(*, limits_memory: bool = True) -> None:
    """Limits for a process that reads: memory, and an alarm that nobody catches."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGPROF, _raise_too_slow)
    status = pathlib.Path("/proc/self/statm")
    if limits_memory and status.exists():
        size = int(status.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        limit = size + 3 * MEMORY // 2
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _raise_too_slow(*_: Any) -> None:
    raise _TooSlow


def _work(reader: Reader, first: int, last: int, pipe: Any) -> None:
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
        prepare_process()
        for number in range(first, last):
            pipe.send(reader.read(number))
    pipe.close()


def read_all(first: int, last: int, seed: int = SEED):
    """Yields the results of all inputs; one that ends the worker is a crash."""
    # Forked, since importing takes longer than a thousand inputs.
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        reader = Reader(pathlib.Path(folder, "input"), seed)
        while first < last:
            here, there = context.Pipe(duplex=False)
            worker = context.Process(target=_work, args=(reader, first, last, there))
            worker.start()
            there.close()
            try:
                while first < last:
                    if not here.poll(HANG):
                        raise TimeoutError
                    yield here.recv()
                    first += 1
            except (EOFError, TimeoutError) as error:
                kind = "slow" if isinstance(error, TimeoutError) else "crash"
                yield Result(first, "?", "?", kind, "the worker was ended", HANG)
                first += 1
            finally:
                worker.kill()
                worker.join()


class Counts:
    """Counts by kind and damage, and examples of what should not be."""

    def __init__(self):
        self._by_kind = collections.defaultdict(collections.Counter)
        self._by_mutation = collections.defaultdict(collections.Counter)
        self._examples = collections.defaultdict(list)
        self._seconds = 0.0
        self._longest = 0.0

    def add(self, result: Result) -> None:
        """Counts one input."""
        self._by_kind[result.kind][result.outcome] += 1
        for name in result.mutation.split("+"):
            self._by_mutation[name][result.outcome] += 1
        self._seconds += result.seconds
        self._longest = max(self._longest, result.seconds)
        if result.outcome in BAD and len(self._examples[result.outcome]) < 100:
            self._examples[result.outcome].append(dataclasses.asdict(result))

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        total: collections.Counter = collections.Counter()
        for counter in self._by_kind.values():
            total.update(counter)
        return {
            "num_inputs": sum(total.values()),
            "outcomes": {name: total[name] for name in OUTCOMES},
            "by_kind": _sorted(self._by_kind),
            "by_damage": _sorted(self._by_mutation),
            "seconds_of_the_processor": {
                "all": round(self._seconds, 1),
                "largest": round(self._longest, 3),
            },
            "examples": dict(self._examples),
        }

    def add_dict(self, counts: Mapping[str, Any]) -> None:
        """Adds what `to_dict` gave."""
        for mine, key in ((self._by_kind, "by_kind"), (self._by_mutation, "by_damage")):
            for name, outcomes in counts[key].items():
                mine[name].update(outcomes)
        for outcome, examples in counts["examples"].items():
            self._examples[outcome] += examples
        self._seconds += counts["seconds_of_the_processor"]["all"]
        self._longest = max(
            self._longest, counts["seconds_of_the_processor"]["largest"]
        )


def _sorted(counters: Mapping[str, collections.Counter]) -> dict[str, dict[str, int]]:
    return {
        name: {each: counter[each] for each in OUTCOMES if counter[each]}
        for name, counter in sorted(counters.items())
    }


def show(number: int, seed: int = SEED) -> None:
    """Writes a damaged input to a folder, and shows what is read of it."""
    place = pathlib.Path(tempfile.mkdtemp())
    reader = Reader(place / "input", seed)
    prepare_process()
    name, good, files, done = reader.make(number)
    print(f"{number}: {name}, {done}")
    for path, content in files.items():
        if content != good.kind.files[path]:
            print(f"--- {path}\n{content[:4000].decode('utf-8', 'backslashreplace')}")
    try:
        for key, value in good.kind.read(reader._write(files)):
            print(f"{key}: {value}")
    except Exception:
        traceback.print_exc()
    print(reader.read(number))
    print(f"the files are in {place}/input")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_inputs", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--machine", default=platform.machine())
    parser.add_argument("--show", type=int)
    arguments = parser.parse_args()
    if arguments.show is not None:
        show(arguments.show, arguments.seed)
        return
    last = arguments.first + arguments.num_inputs
    about = {
        "machine": arguments.machine,
        "seed": arguments.seed,
        "first": arguments.first,
    }
    counts = Counts()
    done = 0
    if arguments.output and arguments.output.exists():
        before = json.loads(arguments.output.read_text(encoding="utf-8"))
        if any(before[key] != value for key, value in about.items()):
            sys.exit(f"{arguments.output} has other counts; choose another --output")
        counts.add_dict(before)
        done = before["num_inputs"]
    results = read_all(arguments.first + done, last, arguments.seed)
    for number, result in enumerate(results, start=done + 1):
        counts.add(result)
        is_last = number == arguments.num_inputs
        # What was read is on record, should this be stopped.
        if arguments.output and (is_last or number % SAVED_EVERY == 0):
            text = json.dumps({**about, **counts.to_dict()}, indent=1)
            temporary = arguments.output.with_suffix(".part")
            temporary.write_text(text + "\n", encoding="utf-8")
            temporary.replace(arguments.output)
    found = counts.to_dict()
    for outcome, number in found["outcomes"].items():
        print(f"{number:8d}  {outcome}")
    for examples in found["examples"].values():
        for each in examples:
            print(f"{each['number']} ({each['kind']}, {each['mutation']}):", end=" ")
            print(f"{each['outcome']}: {each['detail'][:300]}")


if __name__ == "__main__":
    main()
