"""The line of jobs: one runs, the others wait; stopped, resumed, removed.

Every change is on disk before it is seen, so that a server that is started again finds
the jobs as they were.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable

from crystaljax.app import jobs, progress
from crystaljax.system import errors, interruption

# Seconds that a command may take to stop by itself: a program that is being compiled
# hears of no signal before it is.
_PATIENCE = 3.0
# Jobs that may wait, against a page that asks in a loop.
_MAX_WAITING = 50
# Bars of progress ten times a second would make long logs.
_ENVIRONMENT = {"TQDM_MININTERVAL": "0.3", "PYTHONUNBUFFERED": "1"}


class Line:
    """Jobs of a folder, one of which runs at a time.

    Used from the threads of a server. The folder is this process's alone.
    """

    def __init__(self, root: pathlib.Path):
        self._root = root
        self._changed = threading.Condition()
        self._jobs = jobs.load_all(root)
        self._process: subprocess.Popen | None = None
        self._stopping: set[str] = set()
        self._closed = False
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        """Begins with the first job that waits."""
        self._thread.start()

    def close(self) -> None:
        """Ends what runs; it is shown as interrupted by the next server."""
        with self._changed:
            self._closed = True
            self._kill()
            self._changed.notify_all()
        self._thread.join(timeout=10)

    def all(self) -> list[jobs.Job]:
        """All jobs, the oldest first."""
        with self._changed:
            return list(self._jobs.values())

    def find(self, job_id: str) -> jobs.Job:
        """The job of an ID.

        Raises:
            KeyError: there is none.
        """
        with self._changed:
            return self._jobs[job_id]

    def add(
        self, job: jobs.Job, write_files: Callable[[pathlib.Path], None] | None = None
    ) -> jobs.Job:
        """Puts a job at the end of the line.

        Args:
            job: that waits.
            write_files: writes ``job.files`` into the folder that it is called with.

        Raises:
            UserError: too many wait, or a file cannot be written.
        """
        with self._changed:
            waiting = [each for each in self._jobs.values() if _is_open(each)]
            if len(waiting) >= _MAX_WAITING:
                raise errors.UserError(
                    f"{len(waiting)} jobs wait already; expected fewer than "
                    f"{_MAX_WAITING}: stop some, or wait until they are done"
                )
        folder = jobs.folder_of(self._root, job)
        folder.mkdir(parents=True)
        if write_files is not None:
            try:
                write_files(folder)
            except Exception:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        self._put(job)
        return job

    def stop(self, job_id: str) -> jobs.Job:
        """Stops a job that runs, or takes one that waits out of the line.

        Raises:
            KeyError: there is no such job.
            UserError: it neither runs nor waits.
        """
        with self._changed:
            job = self._jobs[job_id]
            if job.state == jobs.WAITING:
                return self._replace(job, state=jobs.STOPPED)
            if job.state != jobs.RUNNING:
                raise errors.UserError(f"the job is {job.state}; nothing to stop")
            self._stopping.add(job_id)
            process = self._process
        if process is not None:
            threading.Thread(target=_end, args=(process,), daemon=True).start()
        return job

    def resume(self, job_id: str) -> jobs.Job:
        """Puts a job that did not end at the end of the line again.

        Raises:
            KeyError: there is no such job.
            UserError: it is done, runs, or waits.
        """
        with self._changed:
            job = self._jobs[job_id]
            if job.state not in jobs.RESUMABLE:
                raise errors.UserError(f"the job is {job.state}; nothing to resume")
            # At the end of the line.
            del self._jobs[job_id]
            self._jobs[job_id] = job
            return self._replace(job, state=jobs.WAITING, reason="")

    def remove(self, job_id: str) -> None:
        """Removes a job with all its files.

        Raises:
            KeyError: there is no such job.
            UserError: it runs.
        """
        with self._changed:
            job = self._jobs[job_id]
            if job.state == jobs.RUNNING:
                raise errors.UserError("the job runs; stop it first")
            del self._jobs[job_id]
        shutil.rmtree(jobs.folder_of(self._root, job), ignore_errors=True)

    def _put(self, job: jobs.Job) -> None:
        with self._changed:
            jobs.save(self._root, job)
            self._jobs[job.id] = job
            self._changed.notify_all()

    def _replace(self, job: jobs.Job, **changes) -> jobs.Job:
        changed = dataclasses.replace(job, **changes)
        self._put(changed)
        return changed

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._run(job)
            except Exception as error:
                self._fail(job, error)

    def _next(self) -> jobs.Job | None:
        with self._changed:
            while not self._closed:
                job = next(filter(_waits, self._jobs.values()), None)
                if job is None:
                    self._changed.wait()
                    continue
                try:
                    return self._replace(job, state=jobs.RUNNING)
                except OSError as error:
                    self._fail(job, error)
        return None

    def _fail(self, job: jobs.Job, error: Exception) -> None:
        """What the disk refuses ends a job, and not the line."""
        with self._changed:
            self._jobs[job.id] = dataclasses.replace(
                job, state=jobs.FAILED, reason=str(error)
            )

    def _run(self, job: jobs.Job) -> None:
        start = time.monotonic()
        log = jobs.log_of(self._root, job)
        with log.open("wb") as printed:
            with self._changed:
                if self._closed:
                    return
                # A session of its own: the keyboard's interrupt is the server's alone,
                # and all that the command starts can be ended with it.
                self._process = process = subprocess.Popen(
                    jobs.command(self._root, job),
                    stdin=subprocess.PIPE,
                    stdout=printed,
                    stderr=printed,
                    start_new_session=True,
                    env={**os.environ, **_ENVIRONMENT},
                )
                if job.id in self._stopping:
                    threading.Thread(target=_end, args=(process,), daemon=True).start()
            # Its standard input closes with this process; see `worker`.
            status = process.wait()
            if process.stdin is not None:
                process.stdin.close()
        with self._changed:
            self._process = None
            if self._closed:
                # As if the server had been killed: the next one says so.
                return
            stopped = job.id in self._stopping
            self._stopping.discard(job.id)
            changes = {"seconds": job.seconds + time.monotonic() - start}
            if status == 0:
                self._replace(job, state=jobs.DONE, **changes)
            elif stopped or status == interruption.EXIT_STATUS:
                self._replace(job, state=jobs.STOPPED, **changes)
            else:
                reason = progress.find_reason(log)
                if status < 0:
                    name = signal.Signals(-status).name
                    reason = f"the process died by {name}; {reason}"
                self._replace(job, state=jobs.FAILED, reason=reason, **changes)

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)


def _waits(job: jobs.Job) -> bool:
    return job.state == jobs.WAITING


def _is_open(job: jobs.Job) -> bool:
    return job.state in (jobs.WAITING, jobs.RUNNING)


def _end(process: subprocess.Popen) -> None:
    """Asks a process to stop, and ends it with all it started if it does not."""
    with contextlib.suppress(OSError):
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
