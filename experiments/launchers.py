"""Runs commands, each in a folder with its log, here or on a Slurm cluster, and watches, stops and ends them."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import importlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dexhil.commands import REPOSITORY
from dexhil.config import ConfigError

LOG = "log.txt"  # in the command's folder: what it printed
POLL_S = 0.2
SLURM_MINUTES = 24 * 60  # where --slurm time is not given; submitit's own default is 5


@dataclasses.dataclass(frozen=True)
class Part:
    """One command of experiments/, finished when its folder holds a report. arguments: all but --workdir."""

    title: str
    script: str
    folder: Path
    arguments: tuple[str, ...]

    @property
    def finished(self) -> bool:
        return (self.folder / "report.json").is_file()

    @property
    def command(self) -> list[str]:
        script = REPOSITORY / "experiments" / self.script
        return [sys.executable, str(script), f"--workdir={self.folder}", *self.arguments]


def run_parts(
    chains: Iterable[Sequence[Part]],
    launch: Launch,
    stopping: Callable[[], bool],
    *,
    workers: int = 1,
    started: Callable[[Part], None] = lambda part: None,
    ended: Callable[[Part, int | None], None],
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Runs what is not finished, `workers` chains at a time, until `stopping()`; then what runs saves and ends.

    The parts of a chain come one after the other; one that fails ends its chain. ended(part, exit status where it is
    known), started, watch: called as parts end and start, and every POLL_S.
    """
    waiting = [chain for chain in ([part for part in parts if not part.finished] for parts in chains) if chain]
    running: list[tuple[list[Part], Handle]] = []
    asked = False
    try:
        while running or (waiting and not stopping()):
            while waiting and len(running) < workers and not stopping():
                chain = waiting.pop(0)
                started(chain[0])
                running.append((chain, launch(chain[0].command, chain[0].folder)))
            if stopping() and not asked:
                asked = True
                for _, handle in running:
                    handle.stop()
            time.sleep(POLL_S)
            watch()
            for chain, handle in [(chain, handle) for chain, handle in running if handle.done()]:
                running.remove((chain, handle))
                if isinstance(handle, Leftover) and not chain[0].finished:
                    waiting.insert(0, chain)
                    continue
                ended(chain[0], handle.status)
                if chain[0].finished and chain[1:]:
                    waiting.insert(0, chain[1:])
    finally:
        for _, handle in running:
            handle.kill()


def launch_local(
    command: Sequence[str], workdir: Path, *, environment: Mapping[str, str] | None = None, shown: bool = False
) -> Handle:
    """Starts a command here; where a process that an earlier call left is still at it, waits for that one instead.

    environment: the command's, by default this process's. shown: it prints here, not into its log.
    The process holds a lock as long as it lives, whatever becomes of this one. It is in a session of its own: a Ctrl-C
    on the terminal reaches this command only, which passes it on once.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / "lock").open("w") as lock, contextlib.ExitStack() as opened:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{workdir.name}: still running since an earlier call; waiting for it", file=sys.stderr, flush=True)
            return Leftover(workdir / "lock")
        log = None if shown else opened.enter_context((workdir / LOG).open("a"))
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=None if shown else subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            pass_fds=[lock.fileno()],
        )
    return Child(process)


class Child:
    """A process of this call, with a session of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def status(self) -> int | None:
        """Exit status, None while it runs."""
        return self._process.poll()

    def done(self) -> bool:
        if self._process.poll() is None:
            return False
        self.kill()  # workers of a process that did not end by itself
        return True

    def stop(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Leftover:
    """A process that a killed call left behind; it is not ours to stop, and goes on without us."""

    status = None

    def __init__(self, lock: Path) -> None:
        self._lock = lock
        self._left_alone = False

    def done(self) -> bool:
        with self._lock.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return self._left_alone
        return True

    def stop(self) -> None:
        print(f"{self._lock.parent}: goes on by itself, it was started by an earlier call", file=sys.stderr, flush=True)
        self._left_alone = True

    def kill(self) -> None:
        """It is not ours."""


def slurm_launcher(workdir: Path, settings: Sequence[str], cluster: str) -> Launch:
    """Starts submitit jobs. Raises ConfigError without submitit, without Slurm and on a wrong setting."""
    try:
        submitit = importlib.import_module("submitit")
    except ModuleNotFoundError:
        raise ConfigError(
            "--launcher slurm: submitit is not installed; install the extra slurm: "
            ".venv/bin/python -m pip install -e '.[slurm]'"
        ) from None
    parameters = {"slurm_time": SLURM_MINUTES, **dict(map(slurm_parameter, settings))}
    try:
        executor = submitit.AutoExecutor(workdir / "slurm", cluster=cluster)
        executor.update_parameters(name=workdir.name, **parameters)
    except (RuntimeError, NameError, ValueError) as error:
        raise ConfigError(f"--launcher slurm: {error}") from None
    return functools.partial(launch_job, executor)


def slurm_parameter(setting: str) -> tuple[str, int | str]:
    """`partition=gpu` -> ("slurm_partition", "gpu"). Raises ConfigError."""
    key, equals, value = setting.partition("=")
    if not (key and equals and value):
        raise ConfigError(f"--slurm {setting}: expected KEY=VALUE such as partition=gpu")
    return f"slurm_{key}", int(value) if value.isdecimal() else value


def launch_job(executor: Any, command: Sequence[str], workdir: Path) -> Handle:
    """Submits a command; where an earlier call's job is still queued or running, watches that one instead."""
    workdir.mkdir(parents=True, exist_ok=True)
    record = workdir / "job.pickle"
    job = pickle.loads(record.read_bytes()) if record.is_file() else None
    if job is None or job.done():
        job = executor.submit(run_logged, command, workdir / LOG)
        record.write_bytes(pickle.dumps(job))
    return Job(job, record)


def run_logged(command: Sequence[str], log: Path) -> int:
    """Runs a command, its output appended to `log`; returns the exit status."""
    with log.open("a") as file:
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT).returncode


class Job:
    """A job on the cluster. record: where it is written down for a later call."""

    status = None

    def __init__(self, job: Any, record: Path) -> None:
        self._job, self._record = job, record

    def done(self) -> bool:
        done = self._job.done()
        if done:
            self._record.unlink(missing_ok=True)
        return done

    def stop(self) -> None:
        self._job.cancel(check=False)

    def kill(self) -> None:
        self.stop()


Handle = (
    Child | Leftover | Job
)  # done() says whether it has ended, stop() asks it to save and end, kill() ends it at once
Launch = Callable[[Sequence[str], Path], Handle]  # command, folder -> what was started
