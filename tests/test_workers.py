"""Worker processes end with the process that started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from dexhil.workers import worker_pool


def report(path: Path) -> None:
    path.write_text(str(os.getpid()))


START = """
import signal, sys
from pathlib import Path
from dexhil.workers import worker_pool
from tests.test_workers import report
if __name__ == "__main__":
    pool = worker_pool(1)
    pool.submit(report, Path(sys.argv[1])).result()
    print("ready", flush=True)
    signal.pause()
"""


def runs(pid: int) -> bool:
    """Whether the process still does anything: one that ended and that nobody waited for is a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_that_waits_for_work_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script, told = tmp_path / "start.py", tmp_path / "pid"
    script.write_text(START)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    parent = subprocess.Popen([sys.executable, script, told], stdout=subprocess.PIPE, env=environment)
    assert parent.stdout is not None
    with parent.stdout:
        assert parent.stdout.readline() == b"ready\n"
    worker = int(told.read_text())
    assert runs(worker)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until = time.monotonic() + 30.0
    while runs(worker) and time.monotonic() < until:
        time.sleep(0.05)
    assert not runs(worker)


def test_work_is_done_in_another_process(tmp_path: Path) -> None:
    with worker_pool(1) as pool:
        pool.submit(report, tmp_path / "pid").result()
    assert int((tmp_path / "pid").read_text()) != os.getpid()
