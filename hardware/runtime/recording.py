"""The recorder in a process of its own behind a bounded queue: a full disk or a dead process never blocks control.

An episode's folder gets `safety.jsonl` too: one object per intervention, times in s since the episode began.
"""

import contextlib
import json
import multiprocessing
import os
import queue
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dexhil.episodes.recorder import REPAIR_COMMAND, EpisodeWriter
from dexhil.episodes.repair import repair
from dexhil.schema import EpisodeMetadata, Step
from dexhil.workers import leave_signals_to_parent

SAFETY_FILE = "safety.jsonl"
START_S = 60.0
QUEUE_STEPS = 100  # 5 s at 20 Hz


class Recorder:
    """Records episodes under `root`. `fault` says what is wrong; after a fault `start` begins anew."""

    def __init__(self, root: Path, *, control_hz: float) -> None:
        self.root, self._hz = Path(root), control_hz
        self.fault = ""
        self._process: Any = None
        self._answered: dict[str, str] = {}

    def start(self) -> None:
        """Starts the process; a former one is ended. What it had open stays on disk, for repair."""
        self.stop()
        context, self._answered = multiprocessing.get_context("spawn"), {}
        self.root.mkdir(parents=True, exist_ok=True)
        self._queue = context.Queue(QUEUE_STEPS)
        self._answers, theirs = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_serve, args=(self.root, self._hz, self._queue, theirs, os.getpid()), name="recorder", daemon=True
        )
        self._process.start()
        theirs.close()
        self.fault = (
            "" if self._answers.poll(START_S) else f"recorder: its process does not start within {START_S:.0f} s"
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def open(self, draft: EpisodeMetadata, timeout_s: float = 20.0) -> None:
        """Begins an episode; on return its file is there, or `fault` says why not. Not for a control loop."""
        self._ask("open", draft, timeout_s)

    def step(self, step: Step) -> None:
        self._send("step", step)

    def events(self, events: Sequence[dict[str, Any]]) -> None:
        self._send("events", list(events))

    def finish(self, metadata: EpisodeMetadata, timeout_s: float = 20.0) -> Path | None:
        """Ends the episode; its path, None where `fault` says why there is none. Waits: not for a control loop."""
        path = self._ask("finish", metadata, timeout_s)
        return Path(path) if path else None

    def _ask(self, kind: str, value: Any, timeout_s: float) -> str:
        self._send(kind, value)
        deadline = time.monotonic() + timeout_s
        while not self.poll() and kind not in self._answered:
            if time.monotonic() > deadline:
                self.fault = f"recorder: no answer for {timeout_s:.0f} s; is the disk under {self.root} working?"
            time.sleep(0.01)
        return self._answered.pop(kind, "")

    def abandon(self) -> None:
        """Drops the open episode."""
        self._send("abandon", None)

    def poll(self) -> str:
        """`fault`, brought up to date; never waits."""
        with contextlib.suppress(EOFError, OSError):
            while self._process is not None and self._answers.poll():
                kind, value = self._answers.recv()
                if kind == "error":
                    self.fault = self.fault or f"recorder: {value}"
                else:
                    self._answered[kind] = value
        if self._process is not None and not self._process.is_alive() and not self.fault:
            self.fault = (
                f"recorder: its process ended; finished episodes under {self.root} are untouched, the steps of the "
                f"open one are kept by `{REPAIR_COMMAND} {self.root}`"
            )
        return self.fault

    def salvage(self) -> str:
        """Begins anew after a fault; what was open becomes an episode, as far as it was written. What came of it."""
        self.start()
        try:
            return "\n".join(f"repair: {line}" for line in repair(self.root).lines())
        except (OSError, ValueError) as error:
            return f"repair of {self.root} failed: {error}"

    def stop(self) -> None:
        """Ends the process after what is in its queue. May be called again."""
        if self._process is None:
            return
        if self._process.is_alive() and not self.fault:
            self._send("stop", None)
            self._process.join(5.0)
        self._process.kill()
        self._process.join()
        self._queue.cancel_join_thread()
        self._queue.close()
        self._process = None

    def _send(self, kind: str, value: Any) -> None:
        if self.fault or self._process is None:
            return
        try:
            self._queue.put_nowait((kind, value))
        except queue.Full:
            self.fault = f"recorder: {QUEUE_STEPS} steps behind; is the disk under {self.root} slow or stuck?"


def _serve(root: Path, hz: float, incoming: Any, answers: Any, parent: int) -> None:
    """The process: writes what comes. After an error the episode stays open on disk and the rest of it is dropped."""
    leave_signals_to_parent()
    os.nice(5)
    writer: EpisodeWriter | None = None
    answers.send(("ready", None))
    while os.getppid() == parent:
        try:
            kind, value = incoming.get(timeout=1.0)
        except queue.Empty:
            continue
        if kind == "stop":
            break
        try:
            if kind == "open":
                _close(writer)
                writer = EpisodeWriter(root, control_hz=hz, draft=value)
                answers.send((kind, str(writer.directory)))
            elif writer is not None:
                writer = _obey(writer, kind, value, answers)
        except (OSError, ValueError) as error:
            answers.send(("error", str(error)))
            writer = _close(writer)
    _close(writer)


def _obey(writer: EpisodeWriter, kind: str, value: Any, answers: Any) -> EpisodeWriter | None:
    if kind == "step":
        writer.append(value)
    elif kind == "events":
        with (writer.directory / SAFETY_FILE).open("a") as file:
            file.writelines(json.dumps(event) + "\n" for event in value)
    elif kind == "abandon":
        writer.abandon()
        return None
    elif kind == "finish":
        answers.send((kind, str(writer.finish(value))))
        return None
    return writer


def _close(writer: EpisodeWriter | None) -> None:
    if writer is not None:
        with contextlib.suppress(OSError, ValueError):
            writer.__exit__()
