"""Progress for people: a bar on a terminal, elsewhere plain lines with percent, rate and time left; clean stops."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress(Protocol):
    """What a loop calls as it goes."""

    def update(self, done: int, **figures: float | str) -> None:
        """`done` of the total is finished; figures are shown behind it, such as loss=0.31."""
        ...


@contextlib.contextmanager
def progress(
    total: int, label: str, *, start: int = 0, stream: TextIO | None = None, interval_s: float = 5.0
) -> Iterator[Progress]:
    """Shows how far a loop of `total` steps is. start: steps done by an earlier run, left out of the rate.

    interval_s: the least time between two plain lines (s).
    """
    out = stream or sys.stdout
    if out.isatty():
        with _Bar(total, label, start, out) as bar:
            yield bar
    else:
        lines = _Lines(total, label, start, out, interval_s)
        yield lines
        lines.close()


class _Bar:
    """Rich progress bar."""

    def __init__(self, total: int, label: str, start: int, out: TextIO) -> None:
        self._rich = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(file=out),
        )
        self._task = self._rich.add_task(label, total=total, completed=start, figures="")

    def __enter__(self) -> _Bar:
        self._rich.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._rich.stop()

    def update(self, done: int, **figures: float | str) -> None:
        self._rich.update(self._task, completed=done, figures=format_figures(figures))


class _Lines:
    """One line every few seconds: `training  120/3000 (4 %)  12.3/s  left 3m54s  loss 0.31`."""

    def __init__(self, total: int, label: str, start: int, out: TextIO, interval_s: float) -> None:
        self._total, self._label, self._start, self._out, self._interval_s = total, label, start, out, interval_s
        self._began = self._printed = time.monotonic()
        self._done, self._figures = start, {}
        self._pending = False

    def update(self, done: int, **figures: float | str) -> None:
        self._done, self._figures, self._pending = done, figures, True
        if time.monotonic() - self._printed >= self._interval_s:
            self._print()

    def close(self) -> None:
        if self._pending:
            self._print()

    def _print(self) -> None:
        self._printed, self._pending = time.monotonic(), False
        rate = (self._done - self._start) / max(self._printed - self._began, 1e-9)
        left = format_seconds((self._total - self._done) / rate) if rate > 0 else "?"
        percent = 100 * self._done / max(self._total, 1)
        line = f"{self._label}  {self._done}/{self._total} ({percent:.0f} %)  {rate:.3g}/s  left {left}"
        print(f"{line}  {format_figures(self._figures)}".rstrip(), file=self._out, flush=True)


def format_figures(figures: dict[str, float | str]) -> str:
    """{"loss": 0.3123} -> "loss 0.312"."""
    return "  ".join(f"{k} {v}" if isinstance(v, (str, int)) else f"{k} {v:.3g}" for k, v in figures.items())


def format_seconds(seconds: float) -> str:
    """75 -> "1m15s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


@contextlib.contextmanager
def stop_requested(what: str = "finishing this step and saving") -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether Ctrl-C (or SIGTERM) came. The first asks, the second aborts at once.

    Outside the main thread, where Python delivers no signals, the answer is always False.
    """
    asked = threading.Event()

    def ask(number: int, _: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        print(f"\n{signal.Signals(number).name}: {what}; once more aborts", file=sys.stderr, flush=True)

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
