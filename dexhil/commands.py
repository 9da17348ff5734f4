"""What every command shares: config, work directory (config, metrics and report in JSON), progress, clean stops."""

import fcntl
import importlib.metadata
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from dexhil.config import Config, ConfigError, changed_keys, load_config
from dexhil.files import write_durably
from dexhil.progress import Progress, progress, stop_requested
from dexhil.start import command_parser, fail

__all__ = [
    "Config", "ConfigError", "Progress", "Run", "code_version", "command_parser", "load_config", "progress",
    "refuse_other_config", "run_command", "stop_requested", "to_json", "write_json",
]  # fmt: skip

REPOSITORY = Path(__file__).resolve().parents[1]
COMPILED = "JAX_COMPILATION_CACHE_DIR"


class Run:
    """The work directory of one command.

    A run that continues there keeps metrics.jsonl up to `resume`'s step, and its seconds go on counting.

    Raises:
        ConfigError: another process is at work in it.
    """

    def __init__(self, workdir: Path, command: str, config: Config) -> None:
        self.workdir = Path(workdir)
        self.command = command
        self.config: dict[str, Any] = to_json(config)
        self.metrics_path = self.workdir / "metrics.jsonl"
        self._began = time.monotonic()
        self._seconds_before = 0.0
        self.workdir.mkdir(parents=True, exist_ok=True)
        weakref.finalize(self, os.close, _lock(self.workdir))
        if changed := _changes(self.workdir, self.config):
            print(f"{self.workdir}: config differs from the earlier run's in {', '.join(changed)}", file=sys.stderr)
        write_json(self.workdir / "config.json", self.config)

    @property
    def seconds(self) -> float:
        """Seconds of work, those of earlier runs in this directory included."""
        return self._seconds_before + time.monotonic() - self._began

    def resume(self, step: int) -> None:
        """Drops the metrics of steps after `step`: they are about to be computed again. 0 starts afresh."""
        kept = [line for line in read_metrics(self.workdir) if line["step"] <= step] if step > 0 else []
        self._seconds_before = kept[-1]["seconds"] if kept else 0.0
        write_durably(self.metrics_path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Appends {"step", "seconds", **metrics} to metrics.jsonl."""
        line = {"step": int(step), "seconds": round(self.seconds, 3), **to_json(metrics)}
        with self.metrics_path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def report(self, results: Mapping[str, Any], *, lineage: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Writes report.json in one step and returns its contents."""
        report = {
            "command": self.command,
            "invocation": shlex.join(["python", *sys.argv]),
            "config": self.config,
            "code_version": code_version(),
            "seconds": round(self.seconds, 3),
            "lineage": to_json(lineage or {}),
            "results": to_json(results),
        }
        write_json(self.workdir / "report.json", report)
        return report


def _lock(workdir: Path) -> int:
    lock = os.open(workdir / "run.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.truncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
    except BlockingIOError:
        if (owner := os.read(lock, 32).decode().strip()) != str(os.getpid()):
            os.close(lock)
            raise ConfigError(
                f"{workdir}: process {owner} is at work in it; wait until it ends or stop it, or choose another folder"
            ) from None
    return lock


def refuse_other_config(workdir: Path, config: Config, *, matters: Callable[[str], bool] = lambda key: True) -> None:
    """Raises ConfigError where `workdir` holds a run with another config, in a key that `matters`."""
    if changed := list(filter(matters, _changes(workdir, to_json(config)))):
        raise ConfigError(f"{workdir}: holds a run that differs in {', '.join(changed)}; choose another or delete it")


def _changes(workdir: Path, config: dict[str, Any]) -> list[str]:
    path = Path(workdir) / "config.json"
    return changed_keys(json.loads(path.read_text()), config) if path.is_file() else []


def run_command(main: Callable[[Sequence[str]], None]) -> None:
    """Calls `main(arguments)`; an error in the input is one line on stderr and status 2, Ctrl-C and SIGTERM are 130."""
    keep_compiled()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # `begin` had another one while modules loaded
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError) as error:
        fail(error)


def keep_compiled() -> None:
    """Has JAX keep what it compiles in JAX_COMPILATION_CACHE_DIR (~/.cache/dexhil/compiled; empty turns it off)."""
    if COMPILED in os.environ:
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ[COMPILED] = str(home / "dexhil" / "compiled")  # for the processes that this one starts
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_compilation_cache_dir", os.environ[COMPILED])


def code_version() -> str:
    """`git describe` with -dirty where files differ; the package's version outside a repository."""
    describe = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--tags"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return importlib.metadata.version("dexhil")


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The complete lines of metrics.jsonl; a last line cut off by a killed process is left out."""
    path = Path(workdir) / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}\n")]


def to_json(value: Any) -> Any:
    """Plain JSON values: numpy, paths, tuples and ConfigDict converted, non-finite numbers as null."""
    if isinstance(value, (ConfigDict, Mapping)):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "tolist"):
        return to_json(value.tolist())
    if isinstance(value, (list, tuple, set)):
        return [to_json(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON so that a reader sees the old file or the whole new one."""
    write_durably(path, (json.dumps(value, indent=2) + "\n").encode())
