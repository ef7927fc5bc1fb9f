"""The pages and answers of `crystaljax app`: HTTP over the modules beside it."""

import contextlib
import dataclasses
import functools
import json
import pathlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette import applications, concurrency, requests, responses, routing

from crystaljax import command_line
from crystaljax.app import (
    asking,
    details,
    downloads,
    guard,
    jobs,
    line,
    offers,
    options,
    orders,
    progress,
    results,
    uploads,
)
from crystaljax.screening import html_report
from crystaljax.system import errors

_STATIC = pathlib.Path(__file__).parent / "static"
# What the page shares with the report of a screening.
_SHARED = ("text.js", "charts.js", "hulls.js", "crystal.js", "viewer.js", "table.js")
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_MAX_JSON = 100_000
# Whose flags messages name.
_COMMAND = command_line.Command("app", "", (options.AppOptions,), lambda _: None)


@dataclasses.dataclass(frozen=True)
class Server:
    """What the answers are made of.

    Attributes:
        asked: options of the command.
        root: folder of the jobs.
        line: of the jobs.
    """

    asked: options.AppOptions
    root: pathlib.Path
    line: line.Line

    @functools.cached_property
    def model(self) -> offers.Model:
        """The model that is asked; loaded when it is first wanted."""
        return offers.load_model(self.asked)


def build(server: Server, token: str) -> guard.Guard:
    """The application.

    Args:
        server: what it answers with.
        token: that every address begins with.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: applications.Starlette) -> AsyncIterator[None]:
        server.line.start()
        yield
        await concurrency.run_in_threadpool(server.line.close)

    def route(path: str, answer: Callable, method: str = "GET") -> routing.Route:
        return routing.Route(path, _endpoint(server, answer), methods=[method])

    app = applications.Starlette(
        routes=[
            route("/", _show_page),
            route("/static/{name}", _show_static),
            route("/api/about", _show_about),
            route("/api/check", _check, "POST"),
            route("/api/jobs", _list_jobs),
            route("/api/jobs", _add_job, "POST"),
            route("/api/jobs/{job}/stop", _stop, "POST"),
            route("/api/jobs/{job}/resume", _resume, "POST"),
            route("/api/jobs/{job}/remove", _remove, "POST"),
            route("/api/jobs/{job}/results", _show_results),
            route("/api/jobs/{job}/crystals/{number:int}", _show_crystal),
            route("/api/uploads", _add_upload, "POST"),
            route("/jobs/{job}/files/{format}", _download),
            route("/jobs/{job}/report.html", _show_report),
        ],
        lifespan=lifespan,
    )
    return guard.Guard(app, token)


@dataclasses.dataclass(frozen=True)
class _Question:
    """A request, with what was read of it already."""

    server: Server
    path: Mapping[str, Any]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def job(self) -> jobs.Job:
        return self.server.line.find(self.path["job"])

    def values(self) -> dict[str, Any]:
        """The JSON object of the body."""
        try:
            found = json.loads(self.body or b"{}")
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise errors.UserError("expected a JSON object")
        return found


def _endpoint(server: Server, answer: Callable[[_Question], Any]) -> Callable:
    """An endpoint that answers in a thread; what cannot be used is status 400."""

    async def endpoint(request: requests.Request) -> responses.Response:
        limit = uploads.MAX_BYTES if answer is _add_upload else _MAX_JSON
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > limit:
                text = f"more than {limit:,} bytes were sent; expected fewer"
                return responses.JSONResponse({"error": text}, 413)
        question = _Question(
            server, request.path_params, request.query_params, request.headers, body
        )
        try:
            return await concurrency.run_in_threadpool(answer, question)
        except KeyError:
            return responses.JSONResponse({"error": "there is no such thing here"}, 404)
        except (errors.UserError, errors.MissingPackageError, OSError) as error:
            text = command_line.with_flags(str(error), _COMMAND)
            return responses.JSONResponse({"error": text}, 400)

    return endpoint


# ---- Files of the page ---------------------------------------------------------------


def _show_page(_: _Question) -> responses.Response:
    return _send_file(_STATIC / "page.html")


def _show_static(question: _Question) -> responses.Response:
    return _send_file(_static_files()[question.path["name"]])


@functools.cache
def _static_files() -> dict[str, pathlib.Path]:
    """All files that there are, by name: nothing else is ever opened."""
    own = {path.name: path for path in _STATIC.iterdir() if path.suffix in _TYPES}
    shared = {name: html_report.PAGE / name for name in _SHARED}
    return {**own, **shared, "report.css": html_report.PAGE / "page.css"}


def _send_file(path: pathlib.Path) -> responses.Response:
    return responses.Response(path.read_bytes(), media_type=_TYPES[path.suffix])


# ---- Asking --------------------------------------------------------------------------


def _show_about(question: _Question) -> responses.Response:
    server = question.server
    return responses.JSONResponse(offers.describe(server.asked, server.model))


def _check(question: _Question) -> responses.Response:
    """Whether a request can be made, and which space groups are feasible."""
    server, values = question.server, question.values()
    cells, groups = asking.feasible_groups(values, server.model)
    asked = asking.sample(values, server.model, server.asked)
    return responses.JSONResponse(
        {"cells": cells, "feasible": groups, "title": asked.title}
    )


def _add_job(question: _Question) -> responses.Response:
    server = question.server
    job = orders.add(
        question.values(), server.root, server.line, server.model, server.asked
    )
    return responses.JSONResponse(_describe_job(server, job), 201)


def _add_upload(question: _Question) -> responses.Response:
    name = question.query.get("name", "")
    upload = uploads.add(question.server.root, name, question.body)
    return responses.JSONResponse(
        {**upload.described, "id": upload.id, "name": upload.name}, 201
    )


# ---- Jobs ----------------------------------------------------------------------------


def _list_jobs(question: _Question) -> responses.Response:
    server = question.server
    found = [_describe_job(server, job) for job in server.line.all()]
    return responses.JSONResponse({"jobs": found})


def _describe_job(server: Server, job: jobs.Job) -> dict[str, Any]:
    bar = None
    if job.state == jobs.RUNNING:
        bar = progress.read(jobs.log_of(server.root, job))
    return {
        "id": job.id,
        "title": job.title,
        "verb": job.verb,
        "state": job.state,
        "created": job.created,
        "seconds": job.seconds,
        "reason": job.reason,
        "can_resume": job.state in jobs.RESUMABLE,
        "progress": dataclasses.asdict(bar) if bar else None,
        "command_line": jobs.command_line(server.root, job),
    }


def _stop(question: _Question) -> responses.Response:
    job = question.server.line.stop(question.path["job"])
    return responses.JSONResponse(_describe_job(question.server, job))


def _resume(question: _Question) -> responses.Response:
    job = question.server.line.resume(question.path["job"])
    return responses.JSONResponse(_describe_job(question.server, job))


def _remove(question: _Question) -> responses.Response:
    question.server.line.remove(question.path["job"])
    return responses.JSONResponse({})


# ---- Crystals ------------------------------------------------------------------------


def _show_results(question: _Question) -> responses.Response:
    root, job = question.server.root, question.job
    found = results.read(root, job)
    notes = progress.find_notes(jobs.log_of(root, job))
    return responses.JSONResponse(results.describe(found, notes))


def _show_crystal(question: _Question) -> responses.Response:
    found = results.read(question.server.root, question.job)
    row = found.find(question.path["number"])
    known = question.server.asked.known
    return responses.JSONResponse(details.describe(row.crystal, known))


def _download(question: _Question) -> responses.Response:
    root, job = question.server.root, question.job
    found = results.read(root, job)
    try:
        numbers = [int(each) for each in question.query["numbers"].split(",")]
    except (KeyError, ValueError):
        numbers = [row.number for row in found.rows]
    name, content = downloads.build(
        orders.choose(found, numbers),
        question.path["format"],
        job.title,
        jobs.command_line(root, job),
    )
    return responses.Response(
        content,
        media_type="application/octet-stream",
        # The name has letters, digits, dots, + and - alone; see `names.unique_stem`.
        headers={"content-disposition": f'attachment; filename="{name}"'},
    )


def _show_report(question: _Question) -> responses.Response:
    root, job = question.server.root, question.job
    results.read(root, job)
    path = jobs.output_of(root, job) / "report.html"
    if not path.is_file():
        raise KeyError(path.name)
    return responses.Response(
        path.read_bytes(),
        media_type="text/html",
        headers={"content-security-policy": guard.REPORT_POLICY},
    )
