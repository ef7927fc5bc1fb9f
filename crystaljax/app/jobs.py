"""Jobs of the page: a folder each, whose ``job.json`` says what it is and its state.

jobs/ID/job.json     what `Job` holds
jobs/ID/log.txt      what the command printed
jobs/ID/input.*      the crystals that it starts from, where there are any
jobs/ID/output/      what the command wrote: a folder of samples, or a screening

IDs are made here and never by a user, so that nothing that is typed becomes a path.
"""

import dataclasses
import json
import pathlib
import re
import secrets
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from crystaljax.crystals import names
from crystaljax.system import atomic_files

WAITING, RUNNING, DONE = "waiting", "running", "done"
FAILED, STOPPED, INTERRUPTED = "failed", "stopped", "interrupted"
# A command that was stopped in one of these goes on where it was.
RESUMABLE = (FAILED, STOPPED, INTERRUPTED)

_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
_JOB, _LOG, _OUTPUT = "job.json", "log.txt", "output"


@dataclasses.dataclass(frozen=True)
class Job:
    """A command that the page asked for.

    Attributes:
        id: also the name of its folder.
        title: for the user.
        arguments: of the program, the verb first, without files and output.
        files: flag → name of a file in the job's folder.
        created: seconds since 1970.
        state: one of the words above.
        seconds: that it ran.
        reason: why it failed; "" if it did not.
    """

    id: str
    title: str
    arguments: tuple[str, ...]
    files: Mapping[str, str]
    created: float
    state: str = WAITING
    seconds: float = 0.0
    reason: str = ""

    @property
    def verb(self) -> str:
        """The command."""
        return self.arguments[0]


def new(title: str, arguments: Sequence[str], files: Mapping[str, str]) -> Job:
    """A job that waits, under a new ID."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    made = f"{stamp}-{secrets.token_hex(3)}"
    return Job(made, title, tuple(arguments), dict(files), time.time())


def folder_of(root: pathlib.Path, job: Job) -> pathlib.Path:
    """The folder of a job."""
    return root / "jobs" / job.id


def output_of(root: pathlib.Path, job: Job) -> pathlib.Path:
    """Where the command of a job writes."""
    return folder_of(root, job) / _OUTPUT


def log_of(root: pathlib.Path, job: Job) -> pathlib.Path:
    """What the command of a job printed."""
    return folder_of(root, job) / _LOG


def command(root: pathlib.Path, job: Job) -> list[str]:
    """Arguments of the process that does a job; see `worker`."""
    return [
        *(sys.executable, "-m", "crystaljax.app.worker"),
        *_arguments(root, job, str(output_of(root, job))),
    ]


def command_line(root: pathlib.Path, job: Job) -> str:
    """What makes the same again when it is typed."""
    output = names.unique_stem(job.title, set())
    return shlex.join(["crystaljax", *_arguments(root, job, output)])


def _arguments(root: pathlib.Path, job: Job, output: str) -> list[str]:
    folder = folder_of(root, job)
    given = [f"--{flag}={folder / name}" for flag, name in job.files.items()]
    return [*job.arguments, *given, f"--output={output}"]


def save(root: pathlib.Path, job: Job) -> None:
    """Writes ``job.json``.

    Raises:
        DiskError: it cannot be written.
    """
    atomic_files.write_json(folder_of(root, job) / _JOB, dataclasses.asdict(job))


def load_all(root: pathlib.Path) -> dict[str, Job]:
    """The jobs of a folder by ID, the oldest first; what is no job is passed over.

    Whatever was running when the server ended is interrupted.
    """
    found = {}
    folders = sorted((root / "jobs").glob("*")) if (root / "jobs").is_dir() else []
    for folder in folders:
        if not _ID.fullmatch(folder.name):
            continue
        job = _read(folder / _JOB)
        if job is None or job.id != folder.name:
            continue
        if job.state == RUNNING:
            job = dataclasses.replace(job, state=INTERRUPTED)
            save(root, job)
        found[job.id] = job
    return dict(sorted(found.items(), key=lambda item: item[1].created))


def _read(path: pathlib.Path) -> Job | None:
    """A job; None for a file that is not one, as a power cut may leave it."""
    try:
        values: dict[str, Any] = json.loads(path.read_bytes())
        # JSON has no tuples.
        return Job(**{**values, "arguments": tuple(values["arguments"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
