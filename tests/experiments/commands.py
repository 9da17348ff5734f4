"""Running the project's commands in tests: start, kill -9 when something has happened, read the report."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def report_of(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "report.json").read_text())


def start(script: str, arguments: Sequence[str]) -> subprocess.Popen:
    """The command in a process group of its own, so that a kill reaches its workers too."""
    return subprocess.Popen([sys.executable, script, *arguments], start_new_session=True)


def wait_for(process: subprocess.Popen, condition: Callable[[], Any]) -> None:
    """Returns once `condition()` holds, while the command runs."""
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, f"the command ended with {process.returncode} before it could be killed"
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.05)


def kill_when(process: subprocess.Popen, condition: Callable[[], Any]) -> None:
    """Kills the command and all that it started in its process group, once `condition()` holds."""
    wait_for(process, condition)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
