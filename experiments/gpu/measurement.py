"""Figures of one part, on their way from its process to the record."""

import dataclasses
import datetime
import json
import pathlib
import time
from typing import Any, ClassVar

from gpu import sizes


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Where a part reports, and what it has to keep to.

    Attributes:
        figures: file with a line of JSON for each figure; the runner reads it.
        scratch: folder that all parts of a run share.
        size: how large everything is.
        deadline: when the part is stopped, in the seconds of `time.monotonic`.
        dataset: of the model `mp`, whose held-out structures are asked for; see
            `orbits`.
    """

    figures: pathlib.Path
    scratch: pathlib.Path
    size: sizes.Size
    deadline: float
    dataset: str | None = None
    experiments: ClassVar[pathlib.Path] = pathlib.Path(__file__).resolve().parents[1]

    def add(self, name: str, **values: Any) -> None:
        """Reports a figure: from now on it is in the record, whatever happens."""
        line = json.dumps({"name": name, **values}, default=_plain)
        # Reading starts at the last whole line.
        with self.figures.open("a") as file:
            file.write(line + "\n")
        print(f"figure: {line[:300]}", flush=True)

    def add_stage(self, stage: str) -> None:
        """Reports how far the part is, so that one that is stopped says where."""
        left = round(self.remaining(), 1)
        self.add("stage", stage=stage, when=_now(), seconds_left=left)

    def remaining(self) -> float:
        """Seconds until the part is stopped."""
        return self.deadline - time.monotonic()


def read(figures: pathlib.Path) -> list[dict[str, Any]]:
    """All figures so far; a line that is being written is left for later."""
    if not figures.exists():
        return []
    whole, _, _ = figures.read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def describe_error(error: BaseException) -> str:
    """Type and message, in so many characters as a table's reader will read."""
    return f"{type(error).__name__}: {error}"[:1000]


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _plain(value: Any) -> Any:
    """What JSON has for NumPy's numbers and arrays."""
    return value.tolist()
