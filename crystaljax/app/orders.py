"""From what the page asks for to jobs in the line, with crystals they start from."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from crystaljax.app import asking, jobs, line, offers, options, results, uploads
from crystaljax.crystals import elements, structure_files
from crystaljax.system import errors


def add(
    values: Mapping[str, Any],
    root: pathlib.Path,
    waiting: line.Line,
    model: offers.Model,
    asked: options.AppOptions,
) -> jobs.Job:
    """Puts what is asked for into the line.

    Args:
        values: of the page; ``kind`` says what is asked.
        root: folder of the app.
        waiting: the line.
        model: that makes crystals.
        asked: options of the server.

    Raises:
        KeyError: a job, crystal or upload that is not there.
        UserError: what is asked cannot be made.
    """
    kind = values.get("kind")
    if kind == "sample":
        made = asking.sample(values, model, asked)
        return waiting.add(jobs.new(made.title, made.arguments, {}))
    if kind == "relax" and not values.get("upload"):
        return _relax_chosen(values, root, waiting, asked)
    if kind not in ("relax", "keep", "modify"):
        raise errors.UserError(
            f"unknown kind {kind!r}; expected sample, relax, keep or modify"
        )
    upload = uploads.load(root, str(values.get("upload")))
    if kind == "relax":
        counts = elements.parse_formula(upload.described["formula"])
        arguments = asking.screen(values, asked, frozenset(counts))
        return _add_upload(upload, waiting, "relaxed", arguments, "samples")
    if kind == "keep":
        arguments = asking.keep(values, model)
        return _add_upload(upload, waiting, "a part kept", arguments, "template")
    arguments = asking.modify(values, model, asked)
    return _add_upload(upload, waiting, "modified", arguments, "input")


def _add_upload(
    upload: uploads.Upload,
    waiting: line.Line,
    what: str,
    arguments: Sequence[str],
    flag: str,
) -> jobs.Job:
    """A job that starts from a file of a user, of which it gets a copy."""
    name = f"input{upload.path.suffix}"
    content = upload.path.read_bytes()
    job = jobs.new(f"{upload.name}, {what}", arguments, {flag: name})

    def write(folder: pathlib.Path) -> None:
        (folder / name).write_bytes(content)

    return waiting.add(job, write)


def _relax_chosen(
    values: Mapping[str, Any],
    root: pathlib.Path,
    waiting: line.Line,
    asked: options.AppOptions,
) -> jobs.Job:
    source = waiting.find(str(values.get("job")))
    rows = choose(results.read(root, source), values.get("numbers"))
    symbols = {
        elements.symbol(int(number))
        for row in rows
        for number in row.crystal.atomic_numbers
    }
    arguments = asking.screen(values, asked, frozenset(symbols))
    name = "input.extxyz"
    job = jobs.new(f"{source.title}, relaxed", arguments, {"samples": name})
    return waiting.add(job, _writer(rows, name))


def _writer(rows: Sequence[results.Row], name: str) -> Callable[[pathlib.Path], None]:
    """Writes crystals with what was asked of them, as a screening reads it."""
    # What the page calls it → what samples call it.
    columns = {"requested_energy": "formation_energy", "requested_group": "space_group"}
    infos = [
        {
            "name": row.name,
            **{
                column: row.values[key]
                for key, column in columns.items()
                if row.values.get(key) is not None
            },
        }
        for row in rows
    ]
    crystals = [row.crystal for row in rows]

    def write(folder: pathlib.Path) -> None:
        structure_files.write_extxyz(folder / name, crystals, infos)

    return write


def choose(found: results.Results, numbers: Any) -> list[results.Row]:
    """The crystals of these numbers, in their order.

    Raises:
        KeyError: there is none of a number.
        UserError: no list of whole numbers, or an empty one.
    """
    if not isinstance(numbers, list) or not numbers:
        raise errors.UserError("no crystals are chosen; expected one at least")
    if not all(isinstance(number, int) for number in numbers):
        raise errors.UserError("numbers: expected whole numbers of crystals")
    return [found.find(number) for number in dict.fromkeys(numbers)]
