"""What the tests of devices share: waiting for something, and emulators that are processes to kill and to freeze."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 15.0  # generous: the machine may be busy


def wait_for(what: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Waits until `what()` is true; fails with its name where it never is."""
    end = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < end, f"never became true: {what}"
        time.sleep(0.005)


class Emulator:
    """An emulator as a process of its own, `python -m module arguments`, ready once it has printed a line."""

    def __init__(self, module: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            cwd=ROOT,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        assert self.said, "the emulator ended without a word"

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def emulator(module: str, *arguments: str) -> Iterator[Emulator]:
    """An `Emulator` that is gone afterwards."""
    started = Emulator(module, *arguments)
    try:
        yield started
    finally:
        started.kill()


@contextmanager
def in_background(work: Callable[[Callable[[], bool]], None]) -> Iterator[None]:
    """Runs `work(stopped)` in a thread until the block ends; an error of the thread fails the test."""
    done, errors = threading.Event(), []

    def run() -> None:
        try:
            work(done.is_set)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(PATIENCE_S)
    assert not errors, errors
