"""How far a command is, by the progress bar that it prints."""

import dataclasses
import os
import pathlib
import re

# As tqdm draws it: "sample:  45%|████      | 9/20 [00:01<00:02, 5.1crystal/s]".
_BAR = re.compile(
    r"(?:^|[\r\n])(?P<label>[^\r\n|:]{0,60}): +\d+%\|[^|\r\n]*\| "
    r"(?P<done>\d+)/(?P<total>\d+) "
)
# Of the end of a log; bars are shorter than a terminal is wide.
_TAIL = 16_384
_MAX_REASON = 1_000


@dataclasses.dataclass(frozen=True)
class Progress:
    """A progress bar.

    Attributes:
        label: what is counted.
        done: of them.
        total: all of them.
    """

    label: str
    done: int
    total: int


def read(log: pathlib.Path) -> Progress | None:
    """The last progress bar of a log; None as long as there is none."""
    bars = list(_BAR.finditer(read_tail(log)))
    if not bars:
        return None
    last = bars[-1]
    return Progress(last["label"].strip(), int(last["done"]), int(last["total"]))


def read_tail(log: pathlib.Path) -> str:
    """The end of a log; "" where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(file.tell() - _TAIL, 0))
            return file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def find_reason(log: pathlib.Path) -> str:
    """Why a command failed: the line that says so, else the last that it printed."""
    lines = [each.strip() for each in re.split(r"[\r\n]+", read_tail(log))]
    lines = [each for each in lines if each]
    for place, line in enumerate(lines):
        if line.startswith("error: "):
            # Some messages go on for a few lines.
            text = "\n".join(lines[place:])
            return text.removeprefix("error: ")[:_MAX_REASON]
    return lines[-1][:_MAX_REASON] if lines else "it printed nothing"


def find_notes(log: pathlib.Path) -> list[str]:
    """What a command had to say of the request: its lines ``note: …``."""
    lines = re.split(r"[\r\n]+", read_tail(log))
    notes = [line[6:].strip() for line in lines if line.startswith("note: ")]
    return list(dict.fromkeys(notes))
