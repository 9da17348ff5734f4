"""The curves of a training run: metrics.jsonl, TensorBoard, and the figures of the report."""

import time
from typing import Any

import jax
import numpy as np
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from dexhil.commands import Run, read_metrics


class Curves:
    """Collects the metrics of steps and writes their means. batch_size: samples of one step, on all processes."""

    def __init__(self, run: Run, batch_size: int) -> None:
        self._run, self._batch_size = run, batch_size
        self._board = EventFileWriter(str(run.workdir / "tensorboard"))
        self._window: list[dict[str, jax.Array]] = []
        self._began = run.seconds

    def add(self, metrics: dict[str, jax.Array]) -> None:
        """One step's scalars, still on the device."""
        self._window.append(metrics)

    def write(self, step: int, **more: float | None) -> dict[str, Any]:
        """Writes, and returns, the mean of every metric since the last call, samples per second, and `more`."""
        values = jax.device_get(self._window)
        line: dict[str, Any] = {name: float(np.mean([line[name] for line in values])) for name in values[0]}
        line["samples_per_second"] = len(values) * self._batch_size / (self._run.seconds - self._began)
        line |= more
        self._run.log(step, line)
        points = [Summary.Value(tag=name, simple_value=value) for name, value in line.items() if value is not None]
        self._board.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=points)))
        self._window, self._began = [], self._run.seconds
        return line

    def close(self) -> None:
        self._board.close()


def summary(run: Run, steps: int) -> dict[str, Any]:
    """The report's figures, from the metrics of the whole run, earlier parts included."""
    lines = read_metrics(run.workdir)
    rates = [line["samples_per_second"] for line in lines if "samples_per_second" in line]
    heldout = [line["heldout_loss"] for line in lines if "heldout_loss" in line]
    return {
        "steps": steps,
        "samples_per_second": float(np.median(rates)),
        "final_loss": lines[-1]["loss"],
        "heldout_loss_untrained": heldout[0],
        "heldout_loss": heldout[-1],
    }
