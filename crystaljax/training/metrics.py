"""Metrics of a training run: their mean over steps, metrics.jsonl, TensorBoard."""

import json
import math
import os
import pathlib
import time
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore
from tensorboard.summary.writer import event_file_writer

from crystaljax.system import atomic_files, sharding


def mean_metrics(dispatches: list[dict[str, Any]], step: int) -> dict[str, float]:
    """Mean over dispatches; raises FloatingPointError if one is not finite."""
    means = {
        name: float(np.mean([metrics[name] for metrics in dispatches]))
        for name in dispatches[0]
    }
    broken = [name for name, value in means.items() if not math.isfinite(value)]
    if broken:
        raise FloatingPointError(
            f"{', '.join(broken)} became NaN or infinite in the steps up to {step}; "
            "lower optimizer.learning_rate, or use train.dtype=float32"
        )
    return means


class MetricsLog:
    """metrics.jsonl and TensorBoard files of a run.

    Attributes:
        is_validated: whether the log had a validation of the step that it was opened
            at.
    """

    def __init__(self, workdir: pathlib.Path, step: int):
        """Opens the log; lines after ``step``, which will come again, are dropped."""
        self._path = workdir / "metrics.jsonl"
        self.is_validated = False
        if not sharding.is_first_process():
            return
        if self._path.exists():
            text = self._path.read_text(encoding="utf-8", errors="replace")
            lines = text.splitlines(keepends=True)
            kept = [line for line in lines if _upto(line, step)]
            atomic_files.write_bytes(self._path, "".join(kept).encode())
            self.is_validated = any(_is_validation(line, step) for line in kept)
        # TensorBoard's own writer: others bring TensorFlow or PyTorch.
        self._tensorboard = event_file_writer.EventFileWriter(
            str(workdir / "tensorboard")
        )

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Appends one line."""
        if not (metrics and sharding.is_first_process()):
            return
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in metrics.items()
        ]
        self._tensorboard.add_event(
            Event(
                wall_time=time.time(),
                step=step,
                summary=Summary(value=values),
            )
        )

    def flush(self) -> None:
        """Makes all lines so far survive the end of the process and of the machine."""
        if not sharding.is_first_process():
            return
        self._tensorboard.flush()
        if self._path.exists():
            with self._path.open("a") as file:
                os.fsync(file.fileno())

    def close(self) -> None:
        """Flushes TensorBoard."""
        if sharding.is_first_process():
            self._tensorboard.close()


def _upto(line: str, step: int) -> bool:
    try:
        return json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        # The line that was being written when the run was killed.
        return False


def _is_validation(line: str, step: int) -> bool:
    entry = json.loads(line)
    return entry["step"] == step and any("validation/" in name for name in entry)
