"""Kills the commands at random moments, goes on, and compares with an undisturbed end.

    nice -n 19 python experiments/chaos/run.py kill --kills=50 \
        --output=experiments/chaos/kills.json

A chain is a command that is killed (SIGKILL) at a random moment, started again, killed
again, … up to five times, and then left to end. What was finished at a kill (lines of
the log up to the last checkpoint, shards, relaxations) must be there at the end as it
was; the end must equal that of an uninterrupted run. The JSON is written after every
chain, and the same command goes on with it.
"""

import argparse
import contextlib
import functools
import hashlib
import importlib
import json
import os
import pathlib
import random
import shutil
import sys
import tempfile
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

# JAX reads these when it is imported.
_CACHE = pathlib.Path(tempfile.gettempdir()) / "crystaljax-chaos-programs"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(2**30))
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from chaos import commands, processes  # noqa: E402

KILLS_OF_A_CHAIN = 5
# How often a command that saves every 10 s saves here, where it takes 3 s in all.
SECONDS_BETWEEN_COMMITS = 0.05


def main() -> None:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of each command")
    parser.add_argument("--commands", default="", help="names, with commas between")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="smaller yet: a test")
    parser.add_argument("--folder", type=pathlib.Path, default=None)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    names = [each for each in args.commands.split(",") if each]
    with contextlib.ExitStack() as stack:
        folder = args.folder or pathlib.Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-"))
        )
        workshop = Workshop(folder, args.seed, is_small=args.small)
        results = {}
        if args.output.exists():
            results = json.loads(args.output.read_text())
        chosen = [each for each in workshop.cases if not names or each.name in names]
        # In turns, so that all have been killed about as often wherever it ends.
        while any([kill_some(each, args, workshop, results) for each in chosen]):
            pass
    print(json.dumps(summarize(results), indent=1))


class Workshop:
    """Inputs, the uninterrupted run of each command, and folders for the others."""

    def __init__(self, folder: pathlib.Path, seed: int = 0, *, is_small: bool = False):
        """Writes the inputs."""
        self.folder = folder.absolute()
        self.inputs = self.folder / "inputs"
        self.seed = seed
        self.is_small = is_small
        self.cases = commands.build_cases(self.inputs, is_small=is_small)
        self._forget_another_package()
        if not self.inputs.exists():
            writing = self.folder / "writing"
            shutil.rmtree(writing, ignore_errors=True)
            processes.call(
                functools.partial(commands.write_inputs, writing, is_small=is_small)
            )
            writing.rename(self.inputs)

    def _forget_another_package(self) -> None:
        """Removes what an earlier version of the package has made of the inputs.

        It may have written another key into a file, which no kill has changed.
        """
        digest = hashlib.sha256()
        for path in sorted((commands.ROOT / "crystaljax").rglob("*.*")):
            if path.suffix in (".py", ".js", ".html"):
                digest.update(path.read_bytes())
        kept = self.folder / "package"
        if kept.exists() and kept.read_text() != digest.hexdigest():
            for each in [*self.folder.glob("*-whole*"), self.inputs / "run"]:
                shutil.rmtree(each) if each.is_dir() else each.unlink(missing_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        kept.write_text(digest.hexdigest())

    def flags(self, case: commands.Case, *, again: bool = False) -> list[str]:
        """Flags of a command, the first time or when it goes on."""
        if case.verb == "sample" and not (self.inputs / "run").exists():
            train = next(each for each in self.cases if each.verb == "train")
            done = self.undisturbed(train)
            shutil.copytree(done / commands.OUTPUT, self.inputs / "run")
        return [*case.flags, *(case.again if again else ())]

    def undisturbed(self, case: commands.Case) -> pathlib.Path:
        """Folder of a run that nothing interrupts, which is made at the first call."""
        # So that forks have what the command imports.
        for name in (f"crystaljax.{case.verb}", *case.preload):
            importlib.import_module(name)
        here = self.folder / f"{case.name.replace(' ', '_')}-whole"
        # Written last: a run that was stopped here itself is made again.
        cpu_seconds = here.with_suffix(".cpu")
        if not cpu_seconds.exists():
            flags = self.flags(case)
            # A first one compiles.
            for _ in range(2 if case.compiles else 1):
                shutil.rmtree(here, ignore_errors=True)
                ended = processes.Forked(case.verb, flags, here, hurry).wait()
                if ended.status != 0:
                    raise RuntimeError(f"{case.name}: {ended.text}")
            cpu_seconds.write_text(json.dumps(ended.cpu_seconds))
        return here

    def cpu_seconds(self, case: commands.Case) -> float:
        """What an uninterrupted run takes from its first line."""
        return json.loads(self.undisturbed(case).with_suffix(".cpu").read_text())

    def place(self, name: str) -> pathlib.Path:
        """A folder that is not there yet."""
        here = self.folder / name
        shutil.rmtree(here, ignore_errors=True)
        return here


def hurry() -> None:
    """Commits as often in seconds as otherwise in minutes; called in the command."""
    from crystaljax.data import reading

    reading._SECONDS_BETWEEN_COMMITS = SECONDS_BETWEEN_COMMITS
    reading._LAST_CHUNK_ROWS = 32


def kill_some(
    case: commands.Case,
    args: argparse.Namespace,
    workshop: Workshop,
    results: dict[str, Any],
) -> bool:
    """One chain more, if a command has not been killed often enough; keeps a file."""
    found = results.setdefault(case.name, {"chains": []})
    done = sum(len(each["kills"]) for each in found["chains"])
    if done >= args.kills:
        return False
    found["cpu_seconds"] = round(workshop.cpu_seconds(case), 2)
    number = len(found["chains"])
    most = min(KILLS_OF_A_CHAIN, args.kills - done)
    chain = run_chain(case, number, most, workshop)
    found["chains"].append(chain)
    temporary = args.output.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=1) + "\n")
    temporary.replace(args.output)
    print(f"{time.strftime('%H:%M:%S')} {case.name} {number}: {chain}", flush=True)
    return True


def run_chain(
    case: commands.Case, number: int, kills: int, workshop: Workshop
) -> dict[str, Any]:
    """Kills a command, goes on, …, and compares the end.

    Returns:
        ``kills``: share of an uninterrupted run's CPU time at each; ``lost``: what was
        finished at one and is not there at the end; ``different``: what the end has
        otherwise; ``hanging``: commands that did not end, and processes that outlived
        theirs; ``failed``: what was printed if it did not end well.
    """
    draw = random.Random(f"{workshop.seed} {case.name} {number}")
    here = workshop.place(f"{case.name.replace(' ', '_')}-{number}")
    budget = workshop.cpu_seconds(case)
    chain: dict[str, Any] = {"kills": [], "lost": [], "different": [], "hanging": 0}
    finished: dict[str, Any] = {}
    ended = None
    for _ in range(kills):
        moment = draw.random()
        again = bool(chain["kills"])
        flags = workshop.flags(case, again=again)
        process = processes.Forked(case.verb, flags, here, hurry)
        is_killed = process.kill_after(moment * budget)
        ended = process.wait()
        chain["hanging"] += ended.num_left + (ended.status is None)
        if not is_killed:
            break
        chain["kills"].append(round(moment, 3))
        finished |= processes.call(case.read_finished, here)
        ended = None
    if ended is None:
        flags = workshop.flags(case, again=True)
        ended = processes.Forked(case.verb, flags, here, hurry).wait()
        chain["hanging"] += ended.num_left + (ended.status is None)
    # A command that was killed after its last line finds its result.
    if ended.status != 0 and not is_finished(ended.text):
        chain["failed"] = ended.text[-2000:]
        return chain
    compare(case, here, finished, workshop, chain)
    shutil.rmtree(here)
    return chain


def compare(
    case: commands.Case,
    here: pathlib.Path,
    finished: dict[str, Any],
    workshop: Workshop,
    chain: dict[str, Any],
) -> None:
    """Adds to a chain what is lost of what was finished, and what ends otherwise."""
    try:
        at_end = processes.call(case.read_finished, here)
        result = processes.call(case.read_result, here)
    except RuntimeError as error:
        chain["failed"] = str(error)[-2000:]
        return
    expected = processes.call(case.read_result, workshop.undisturbed(case))
    chain["lost"] = [
        name for name, value in finished.items() if at_end.get(name) != value
    ]
    chain["different"] = [
        name
        for name in sorted(result.keys() | expected.keys())
        if result.get(name, "-") != expected.get(name, "-")
    ]


def is_finished(text: str) -> bool:
    """Whether a command says that all is there: it was killed after its last line."""
    return "is there already" in text or f"{commands.OUTPUT} exists" in text


def summarize(results: dict[str, Any]) -> dict[str, Any]:
    """Counts of all chains, by command."""
    table = {}
    for name, found in results.items():
        chains = found["chains"]
        table[name] = {
            "kills": sum(len(each["kills"]) for each in chains),
            "chains": len(chains),
            **{
                what: sum(bool(each[what]) for each in chains)
                for what in ("lost", "different", "hanging")
            },
            "failed": sum("failed" in each for each in chains),
        }
    return table


if __name__ == "__main__":
    main()
