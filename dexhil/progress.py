"""Progress for people: a bar on a terminal, elsewhere plain lines with percent, rate and time left; clean stops."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress:
    """One line every few seconds: `training  120/3000 (4 %)  12.3/s …`, at a rate without an earlier run's `start`."""

    def __init__(self, total: int, label: str, start: int, out: TextIO, interval_s: float) -> None:
        self._total, self._label, self._start, self._out, self._interval_s = total, label, start, out, interval_s
        self._began = self._printed = time.monotonic()
        self._pending: tuple[int, dict[str, float | str]] | None = None

    def update(self, done: int, **figures: float | str) -> None:
        """`done` of the total is finished; figures are shown behind it, such as loss=0.31."""
        self._pending = done, figures
        if time.monotonic() - self._printed >= self._interval_s:
            self.flush()

    def flush(self) -> None:
        """Prints what has not been."""
        if self._pending is None:
            return
        (done, figures), self._pending, self._printed = self._pending, None, time.monotonic()
        rate = (done - self._start) / max(self._printed - self._began, 1e-9)
        left = format_seconds((self._total - done) / rate) if rate > 0 else "?"
        percent = 100 * done / max(self._total, 1)
        line = f"{self._label}  {done}/{self._total} ({percent:.0f} %)  {rate:.3g}/s  left {left}"
        print(f"{line}  {format_figures(figures)}".rstrip(), file=self._out, flush=True)


class _Bar(Progress):
    """The same on a terminal, as a bar in place."""

    def __init__(self, rich: RichProgress, total: int, label: str, start: int) -> None:
        self._rich, self._task = rich, rich.add_task(label, total=total, completed=start, figures="")

    def update(self, done: int, **figures: float | str) -> None:
        self._rich.update(self._task, completed=done, figures=format_figures(figures))


@contextlib.contextmanager
def progress(
    total: int, label: str, *, start: int = 0, stream: TextIO | None = None, interval_s: float = 5.0
) -> Iterator[Progress]:
    """Shows how far a loop of `total` steps is, see `Progress`."""
    out = stream or sys.stdout
    if not out.isatty():
        lines = Progress(total, label, start, out, interval_s)
        yield lines
        lines.flush()
        return
    columns = (BarColumn(), TaskProgressColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn())
    texts = TextColumn("{task.description}"), TextColumn("{task.fields[figures]}")
    with RichProgress(texts[0], *columns, texts[1], console=Console(file=out)) as rich:
        yield _Bar(rich, total, label, start)


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
    """Yields whether Ctrl-C or SIGTERM came; a second one aborts. Outside the main thread always False."""
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
