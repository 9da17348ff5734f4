"""Running the project's commands in tests: start, kill -9 when something has happened, read the report."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dexhil.commands import REPOSITORY


def report_of(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "report.json").read_text())


def start(script: str, arguments: Sequence[str]) -> subprocess.Popen:
    """The command in a process group of its own, so that a kill reaches its workers too."""
    return subprocess.Popen([sys.executable, script, *arguments], start_new_session=True)


def wait_for(process: subprocess.Popen, condition: Callable[[], Any]) -> None:
    """Returns once `condition()` holds, while the command runs."""
    deadline = time.monotonic() + 900
    while not condition():
        assert process.poll() is None, f"the command ended with {process.returncode} before it could be killed"
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.05)


def kill_when(process: subprocess.Popen, condition: Callable[[], Any]) -> None:
    """Kills the command and all that it started in its process group, once `condition()` holds."""
    wait_for(process, condition)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def serving(run: Path, workdir: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """experiments/serve.py in a process of its own, and its address. Asks it to end; after 30 s ends it by force."""
    command = [sys.executable, "experiments/serve.py", f"--checkpoint={run}", "--port=0", f"--workdir={workdir}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
        assert process.stdout is not None
        try:
            words = next((line.split() for line in process.stdout if line.startswith("serving ")), None)
            if words is None:
                raise RuntimeError(f"serve.py ended with {process.wait()} before it served; its message is above")
            drain = threading.Thread(target=process.stdout.read, daemon=True)
            drain.start()
            yield process, words[3]
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            drain.join()
        finally:
            process.kill()
