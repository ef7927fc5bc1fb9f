"""What else happens to commands: SIGTERM, full and read-only disks, clocks, damage.

    unshare -rm nice -n 19 python experiments/chaos/others.py \
        --output=experiments/chaos/others.json

Every part counts what it tried and lists what went wrong. Disks are small tmpfs: root
may mount them, others in a name space of their own (unshare -rm). The clock is that of
libfaketime (Debian's package faketime).
"""

import argparse
import functools
import json
import os
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

# Sets the cache of programs, before JAX is imported.
from chaos import run  # isort: skip
from chaos import commands, processes

ROOT = pathlib.Path(__file__).parents[2]
STOPPED = 75
# Slurm kills what has not ended so long after SIGTERM.
KILL_WAIT_SECONDS = 30
# Sizes of full disks, as shares of what the whole result takes.
SHARES = (0.1, 0.4, 0.7, 0.95)
_PAGE = 4096  # bytes


def main() -> None:
    """Runs the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--commands", default="", help="names, with commas between")
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    workshop = run.Workshop(args.folder, is_small=args.small)
    results = json.loads(args.output.read_text()) if args.output.exists() else {}
    names = [each for each in args.commands.split(",") if each]
    for part in args.parts.split(","):
        of_part = results.setdefault(part, {})
        for case in workshop.cases:
            if case.name in of_part or (names and case.name not in names):
                continue
            of_part[case.name] = list(PARTS[part](case, workshop))
            args.output.write_text(json.dumps(results, indent=1) + "\n")
            print(time.strftime("%H:%M:%S"), part, case.name, of_part[case.name])


def end_well(
    case: commands.Case, here: pathlib.Path, workshop: run.Workshop, **found: Any
) -> dict[str, Any]:
    """Goes on with a command, and compares the end with an undisturbed one."""
    flags = workshop.flags(case, again=True)
    ended = processes.Forked(case.verb, flags, here, run.hurry).wait()
    if ended.status != 0 and not run.is_finished(ended.text):
        return found | {"failed": ended.text[-2000:]}
    chain: dict[str, Any] = {}
    run.compare(case, here, {}, workshop, chain)
    return found | chain


# -------------------------------------------------------------------------------- parts
def terminate(case: commands.Case, workshop: run.Workshop) -> Iterator[dict[str, Any]]:
    """SIGTERM at random moments: status, seconds until it ended, and the end."""
    draw = random.Random(case.name)
    for number in range(3):
        here = workshop.place(f"{case.verb}-stopped")
        process = processes.Forked(case.verb, workshop.flags(case), here, run.hurry)
        moment = draw.random()
        is_sent = process.after(moment * workshop.cpu_seconds(case))
        process.kill(signal_number := 15)
        sent = time.monotonic()
        ended = process.wait()
        seconds = time.monotonic() - sent
        yield end_well(
            case,
            here,
            workshop,
            number=number,
            signal=signal_number,
            moment=round(moment, 3),
            sent=is_sent,
            status=ended.status,
            as_documented=ended.status == (STOPPED if is_sent else 0),
            seconds=round(seconds, 1),
            in_time=seconds < KILL_WAIT_SECONDS,
            num_left=ended.num_left,
            said=ended.text.strip().splitlines()[-1:] or "",
        )


def fill_disk(case: commands.Case, workshop: run.Workshop) -> Iterator[dict[str, Any]]:
    """Disks that are too small by various shares, and then grow."""
    whole = workshop.undisturbed(case)
    # A page is the least that a file or folder takes.
    needed = sum(
        max(1, -(-each.stat().st_size // _PAGE)) if each.is_file() else 1
        for each in whole.rglob("*")
    )
    for share in SHARES:
        here = workshop.place(f"{case.verb}-full")
        here.mkdir()
        pages = max(int(share * needed), 4)
        _mount(here, f"size={pages * _PAGE}")
        try:
            ended = processes.Forked(
                case.verb, workshop.flags(case), here, run.hurry
            ).wait()
            _mount(here, "remount,size=100m")
            yield end_well(
                case,
                here,
                workshop,
                share=share,
                bytes=pages * _PAGE,
                **_refusal(ended, "the disk is full"),
            )
        finally:
            subprocess.run(["umount", here], check=True)


def read_only(case: commands.Case, workshop: run.Workshop) -> Iterator[dict[str, Any]]:
    """A folder that cannot be written, and goes on to be one that can."""
    here = workshop.place(f"{case.verb}-read-only")
    here.mkdir()
    _mount(here, "ro")
    try:
        ended = processes.Forked(case.verb, workshop.flags(case), here).wait()
        _mount(here, "remount,rw")
        yield end_well(
            case, here, workshop, **_refusal(ended, "the file system is read-only")
        )
    finally:
        subprocess.run(["umount", here], check=True)


def _mount(here: pathlib.Path, options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(here)]
    subprocess.run(command, check=True)


def _refusal(ended: processes.Ended, expected: str) -> dict[str, Any]:
    """Whether it ended with one line that says why; progress bars are no lines."""
    text = ended.text.replace("\r", "\n").strip()
    last = text.splitlines()[-1] if text else ""
    return {
        "status": ended.status,
        "refused": last.startswith("error: ") and expected in last,
        "traceback": "Traceback" in text,
        # All of the result may fit.
        "fits": ended.status == 0,
        "said": last[:300],
        "num_left": ended.num_left,
    }


def set_clock_back(
    case: commands.Case, workshop: run.Workshop
) -> Iterator[dict[str, Any]]:
    """Killed in the middle, then gone on with two days before that."""
    here = workshop.place(f"{case.verb}-clock")
    process = processes.Forked(case.verb, workshop.flags(case), here, run.hurry)
    process.kill_after(0.6 * workshop.cpu_seconds(case))
    process.wait()
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        # What waits is not to wait for two days.
        "DONT_FAKE_MONOTONIC": "1",
    }
    flags = workshop.flags(case, again=(here / commands.OUTPUT).exists())
    command = [sys.executable, "-m", f"crystaljax.{case.verb}", *flags]
    ended = subprocess.run(
        ["faketime", "-f", "-2d", *command],
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    found: dict[str, Any] = {"status": ended.returncode}
    # It may have ended before it was to be killed.
    if ended.returncode and not run.is_finished(ended.stderr):
        found["failed"] = ended.stderr[-2000:]
    # The clock is right again.
    yield end_well(case, here, workshop, **found)


def start_twice(
    case: commands.Case, workshop: run.Workshop
) -> Iterator[dict[str, Any]]:
    """The same command while it runs: refused, with host and process; then the end."""
    here = workshop.place(f"{case.verb}-twice")
    first = processes.Forked(case.verb, workshop.flags(case), here, run.hurry)
    first.after(0.3 * workshop.cpu_seconds(case))
    flags = workshop.flags(case, again=True)
    log = here.with_name(f"{here.name}-second.log")
    second = processes.Forked(case.verb, flags, here, log=log).wait()
    owner = f"is being written by process {first.pid} on {socket.gethostname()}"
    first_ended = first.wait()
    yield end_well(
        case,
        here,
        workshop,
        status=second.status,
        refused=second.status == 1 and owner in second.text,
        said=second.text.strip().splitlines()[-1:],
        first_status=first_ended.status,
    )


def damage(case: commands.Case, workshop: run.Workshop) -> Iterator[dict[str, Any]]:
    """Every file of a trained run removed, emptied and cut in half, one by one."""
    if case.verb != "train":
        return
    whole = workshop.undisturbed(case) / commands.OUTPUT
    yield processes.call(
        functools.partial(_damage_states, whole, workshop.place("damaged"))
    )


def _damage_states(whole: pathlib.Path, copy: pathlib.Path) -> dict[str, Any]:
    """What `train --resume` restores of a state with a damaged file."""
    from crystaljax.models import scaling
    from crystaljax.sampling import shards
    from crystaljax.system import errors, sharding
    from crystaljax.training import build, checkpoints, runs, train_step

    config = runs.load_config(whole)
    scale = scaling.load_scaling(whole / "scaling.json")
    trainee = build.build_trainee(config, scale, config.train.num_steps)
    like, mesh = train_step.state_shapes(trainee), sharding.build_mesh()

    def restore(path: pathlib.Path) -> tuple[int, str]:
        with checkpoints.open_manager(path, keep=9) as manager:
            state, _, _ = checkpoints.restore_state(manager, like, mesh)
        return int(state.step), shards.fingerprint(state)

    last, _ = restore(whole)
    expected = {}
    for path in sorted((whole / "checkpoints").iterdir()):
        shutil.copytree(whole, copy)
        for other in (copy / "checkpoints").iterdir():
            if other.name != path.name:
                shutil.rmtree(other)
        step, digest = restore(copy)
        expected[step] = digest
        shutil.rmtree(copy)
    counts = {"files": 0, "last": 0, "earlier": 0, "refused": 0, "wrong": 0}
    failures = []
    folder = whole / "checkpoints" / str(last)
    for file in sorted(each for each in folder.rglob("*") if each.is_file()):
        counts["files"] += 1
        for how in ("removed", "emptied", "cut"):
            shutil.copytree(whole, copy)
            place = copy / file.relative_to(whole)
            content = place.read_bytes()
            if how == "removed":
                place.unlink()
            else:
                place.write_bytes(content[: len(content) // 2 * (how == "cut")])
            try:
                step, digest = restore(copy)
            except errors.UserError:
                counts["refused"] += 1
            except Exception as error:
                failures.append(f"{place.name} {how}: {type(error).__name__}: {error}")
            else:
                is_right = digest == expected[step]
                counts["wrong"] += not is_right
                counts["last" if step == last else "earlier"] += is_right
            shutil.rmtree(copy)
    return counts | {"tracebacks": failures}


PARTS = {
    "twice": start_twice,
    "terminate": terminate,
    "read_only": read_only,
    "full": fill_disk,
    "clock": set_clock_back,
    "damage": damage,
}

if __name__ == "__main__":
    main()
