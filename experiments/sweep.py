"""Trains one policy per point of a grid or list of config overrides, and sets the results side by side.

    python experiments/sweep.py --config experiments/configs/sim.py --sweep experiments/sweeps/learning_rate.py
        [--workers N] [--launcher slurm --slurm partition=gpu --slurm gpus_per_node=1] [--config.a.b=v …]

A sweep file has get_sweep(): a dict of config key -> list of values is a grid, a list of dicts is a list of overrides.
Each trial is a call of train.py in WORKDIR/TRIAL NAME, its output in log.txt there. The same command again keeps the
finished trials and goes on with the others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import importlib
import itertools
import json
import operator
import os
import pickle
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from dexhil.commands import (
    REPOSITORY,
    Config,
    ConfigError,
    Progress,
    Run,
    command_parser,
    load_config,
    progress,
    read_metrics,
    run_command,
    stop_requested,
    to_json,
)
from dexhil.config import changed_keys
from dexhil.evaluation.page import Fact, Page, Section, Table, key_values, write_page
from dexhil.progress import format_seconds

TRAIN = (sys.executable, str(REPOSITORY / "experiments" / "train.py"))
POLL_S = 0.2
LOG_LINES = 15
NAME_LENGTH = 120
SLURM_MINUTES = 24 * 60  # where --slurm time is not given; submitit's own default is 5
UNKNOWN = "-"


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """One point of the sweep. arguments: of train.py, all but --workdir. config: what they make."""

    name: str
    overrides: dict[str, Any]
    arguments: list[str]
    config: Config
    workdir: Path

    @property
    def finished(self) -> bool:
        return (self.workdir / "report.json").is_file()

    @property
    def log(self) -> Path:
        return self.workdir / "log.txt"


class Handle(Protocol):
    """A trial that was started."""

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        ...

    def stop(self) -> None:
        """Asks it to save and end."""
        ...

    def kill(self) -> None:
        """Ends it at once."""
        ...


Launch = Callable[[Trial], Handle]


def main(argv: Sequence[str], command: Sequence[str] = TRAIN, cluster: str = "slurm") -> None:
    """command: what runs a trial. cluster: submitit's name of the executor behind --launcher slurm."""
    parser = command_parser("Trains one policy per point of a sweep.", config="experiments/configs/sim.py")
    parser.add_argument("--sweep", type=Path, required=True, help="a get_sweep() file")
    parser.add_argument("--launcher", choices=("local", "slurm"), default="local")
    parser.add_argument("--workers", type=int, help="trials at once (default: 1; on Slurm, all)")
    parser.add_argument(
        "--slurm",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="option of sbatch such as partition=gpu or time=240 (minutes); repeat it for more",
    )
    base, options = load_config(argv, parser, workdir=lambda options: Path("runs") / options.sweep.stem)
    if options.workers is not None and options.workers < 1:
        raise ConfigError(f"--workers {options.workers}: expected at least 1")
    shared = [f"--config={options.config}", *parser.parse_known_args(argv)[1]]
    trials = make_trials(options.sweep, shared, options.workdir)
    if options.launcher == "slurm":
        launch = slurm_launcher(command, options.workdir, options.slurm, cluster)
    else:
        launch = functools.partial(launch_local, command)
    run = Run(options.workdir, "sweep", base)
    run_trials(trials, launch, options.workers or (1 if options.launcher == "local" else len(trials)))
    rows = [trial_results(trial) for trial in trials]
    lineage = {"sweep": options.sweep, "trials": {trial.name: trial.workdir for trial in trials}}
    report = run.report({"trials": rows}, lineage=lineage)
    print(f"\n{text_table(trials_table(rows))}\n\nreport: {write_report(run.workdir, report)}")
    failed = [trial for trial in trials if not trial.finished]
    if failed:
        sys.exit(f"\n{len(failed)} of {len(trials)} trials failed\n" + "\n".join(map(describe_failure, failed)))


def read_sweep(path: Path) -> list[dict[str, Any]]:
    """The overrides of every trial of a get_sweep() file. Raises ConfigError."""
    if not path.is_file():
        names = ", ".join(sorted(str(file) for file in (REPOSITORY / "experiments" / "sweeps").glob("*.py")))
        raise ConfigError(f"--sweep {path}: no such file; available: {names}")
    get_sweep = runpy.run_path(str(path)).get("get_sweep")
    if get_sweep is None:
        raise ConfigError(f"--sweep {path}: the file has no function get_sweep(); every sweep defines it")
    sweep = get_sweep()
    try:
        points = grid(sweep) if isinstance(sweep, Mapping) else sweep
        if not isinstance(points, list) or not all(isinstance(point, Mapping) for point in points):
            raise ConfigError(f"expected a dict of lists or a list of dicts, got {sweep!r}")
        if not points:
            raise ConfigError(f"expected at least one trial, got {sweep!r}")
    except ConfigError as error:
        raise ConfigError(f"--sweep {path}: get_sweep(): {error}") from None
    return [dict(point) for point in points]


def grid(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the keys' values, the last key changing fastest. Raises ConfigError."""
    for key, choices in values.items():
        if not isinstance(choices, (list, tuple)):
            raise ConfigError(f"{key}: expected a list of values, got {choices!r}; write [{choices!r}]")
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]


def make_trials(sweep: Path, shared: Sequence[str], workdir: Path) -> list[Trial]:
    """The sweep's trials, each of them judged as train.py will judge it. shared: arguments that all trials get.

    Raises ConfigError on an unknown key, a value that does not fit its key, two equal trials, and a trial whose folder
    holds a run with another config.
    """
    trials = []
    for overrides in read_sweep(sweep):
        arguments = [*shared, *(f"--config.{key}={value}" for key, value in overrides.items())]
        try:
            config, _ = load_config(arguments)
            check_text(config, overrides)
        except ConfigError as error:
            raise ConfigError(f"--sweep {sweep}: {error}") from None
        name = trial_name(overrides)
        trials.append(Trial(name, overrides, arguments, config, workdir / name))
    names = [trial.name for trial in trials]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"--sweep {sweep}: {names.count(name)} trials are called {name}; make their values differ"
            )
    for trial in trials:
        check_folder(trial)
    return trials


def check_text(config: Config, overrides: Mapping[str, Any]) -> None:
    """Raises ConfigError where a text key gets another type: as an argument everything is text."""
    for key, value in overrides.items():
        if isinstance(functools.reduce(operator.getitem, key.split("."), config), str) and not isinstance(value, str):
            raise ConfigError(
                f"--config.{key}={value}: expected text, got {type(value).__name__}; write {str(value)!r}"
            )


def check_folder(trial: Trial) -> None:
    """Raises ConfigError where the trial's folder holds a run with another config: its results are not this sweep's."""
    path = trial.workdir / "config.json"
    changed = changed_keys(json.loads(path.read_text()), to_json(trial.config)) if path.is_file() else []
    if changed:
        raise ConfigError(
            f"{trial.workdir}: holds a run that differs in {', '.join(changed)}; choose another --workdir or delete it"
        )


def trial_name(overrides: Mapping[str, Any]) -> str:
    """A folder name made of the overrides alone, so that it stays when a sweep grows."""
    text = ",".join(f"{key}={value}" for key, value in overrides.items()) or "base"
    name = re.sub(r"[^\w.=,+-]+", "-", re.sub(r"[()\[\]' ]", "", text), flags=re.ASCII)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return name if len(name) <= NAME_LENGTH else f"{name[:NAME_LENGTH]}-{digest}"


def run_trials(trials: Sequence[Trial], launch: Launch, workers: int) -> None:
    """Runs what is not finished, `workers` at a time. Raises KeyboardInterrupt after a clean stop."""
    waiting = [trial for trial in trials if not trial.finished]
    running: list[tuple[Trial, Handle]] = []
    asked = False
    with (
        progress(steps(trials), "sweep", start=steps_done(trials, waiting)) as bar,
        stop_requested("the running trials save and stop") as stopping,
    ):
        try:
            while running or (waiting and not stopping()):
                while waiting and len(running) < workers and not stopping():
                    running.append((waiting[0], launch(waiting[0])))
                    del waiting[0]
                if stopping() and not asked:
                    asked = True
                    for _, handle in running:
                        handle.stop()
                time.sleep(POLL_S)
                ended = [(trial, handle) for trial, handle in running if handle.done()]
                running = [pair for pair in running if pair not in ended]
                waiting += [trial for trial, handle in ended if isinstance(handle, Leftover) and not trial.finished]
                show(bar, trials, [*waiting, *(trial for trial, _ in running)])
        finally:
            for _, handle in running:
                handle.kill()
    if stopping() and not all(trial.finished for trial in trials):
        print("stopped; the same command goes on from there")
        raise KeyboardInterrupt


def show(bar: Progress, trials: Sequence[Trial], unfinished: Sequence[Trial]) -> None:
    """Steps of all trials; unfinished: those that wait or run."""
    ended = len(trials) - len(unfinished)
    failed = sum(trial not in unfinished and not trial.finished for trial in trials)
    bar.update(steps_done(trials, unfinished), ended=f"{ended}/{len(trials)}", failed=failed)


def steps(trials: Sequence[Trial]) -> int:
    return sum(trial.config.train.steps for trial in trials)


def steps_done(trials: Sequence[Trial], unfinished: Sequence[Trial]) -> int:
    """Training steps behind the sweep; a trial that failed counts whole, it has none left."""
    return steps(trials) - steps(unfinished) + sum(last_step(trial) for trial in unfinished)


def last_step(trial: Trial) -> int:
    metrics = read_metrics(trial.workdir)
    return metrics[-1]["step"] if metrics else 0


def launch_local(command: Sequence[str], trial: Trial) -> Handle:
    """Starts a trial here; where a process that an earlier call left is still at it, waits for that one instead.

    The process holds a lock as long as it lives, whatever becomes of this one. It is in a session of its own: a Ctrl-C
    on the terminal reaches this command only, which passes it on once.
    """
    trial.workdir.mkdir(parents=True, exist_ok=True)
    with (trial.workdir / "lock").open("w") as lock, trial.log.open("a") as log:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{trial.name}: still running since an earlier call; waiting for it", file=sys.stderr, flush=True)
            return Leftover(trial.workdir / "lock")
        process = subprocess.Popen(
            trial_command(command, trial),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[lock.fileno()],
        )
    return Child(process)


def trial_command(command: Sequence[str], trial: Trial) -> list[str]:
    return [*command, *trial.arguments, f"--workdir={trial.workdir}"]


class Child:
    """A process of this call, with a session of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

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
    """A process that a killed sweep left behind; it is not ours to stop, and goes on without us."""

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
        self._left_alone = True

    def kill(self) -> None:
        self.stop()


def slurm_launcher(command: Sequence[str], workdir: Path, settings: Sequence[str], cluster: str) -> Launch:
    """Starts trials as jobs of submitit. Raises ConfigError without submitit, without Slurm and on a wrong setting."""
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
    return functools.partial(launch_job, command, executor)


def slurm_parameter(setting: str) -> tuple[str, int | str]:
    """`partition=gpu` -> ("slurm_partition", "gpu"). Raises ConfigError."""
    key, equals, value = setting.partition("=")
    if not (key and equals and value):
        raise ConfigError(f"--slurm {setting}: expected KEY=VALUE such as partition=gpu")
    return f"slurm_{key}", int(value) if value.isdecimal() else value


def launch_job(command: Sequence[str], executor: Any, trial: Trial) -> Handle:
    """Submits a trial; where an earlier call's job is still queued or running, watches that one instead."""
    trial.workdir.mkdir(parents=True, exist_ok=True)
    record = trial.workdir / "job.pickle"
    job = pickle.loads(record.read_bytes()) if record.is_file() else None
    if job is None or job.done():
        job = executor.submit(run_logged, trial_command(command, trial), trial.log)
        record.write_bytes(pickle.dumps(job))
    return Job(job, record)


def run_logged(command: Sequence[str], log: Path) -> int:
    """Runs a command, its output appended to `log`; returns the exit status."""
    with log.open("a") as file:
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT).returncode


class Job:
    """A job on the cluster. record: where it is written down for a later call."""

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


def trial_results(trial: Trial) -> dict[str, Any]:
    """A trial's entry in the report; the figures of a failed one are None."""
    report = json.loads((trial.workdir / "report.json").read_text()) if trial.finished else {"results": {}}
    figures = {key: report["results"].get(key) for key in ("final_loss", "heldout_loss", "score")}
    return {
        "name": trial.name,
        "overrides": trial.overrides,
        "status": "finished" if trial.finished else "failed",
        **figures,
        "seconds": report.get("seconds"),
        "workdir": trial.workdir,
        "log": [] if trial.finished else log_tail(trial),
    }


def log_tail(trial: Trial) -> list[str]:
    """The last lines of a trial's log, empty where it never began."""
    return trial.log.read_text(errors="replace").splitlines()[-LOG_LINES:] if trial.log.is_file() else []


def describe_failure(trial: Trial) -> str:
    lines = log_tail(trial) or [f"(the trial never began; Slurm's own logs are in {trial.workdir.parent / 'slurm'})"]
    return "\n  | ".join([f"{trial.name}: the end of {trial.log}:", *lines])


def trials_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A column for every key that a trial overrides, then the results."""
    keys = list(dict.fromkeys(key for row in rows for key in row["overrides"]))
    tasks = list(dict.fromkeys(task for row in rows if row["score"] for task in row["score"]["tasks"]))
    header = (*keys, "status", "final loss", "held-out loss", *(f"{task} (95 %)" for task in tasks), "seconds")
    cells = [
        (
            *(str(row["overrides"].get(key, UNKNOWN)) for key in keys),
            row["status"],
            number(row["final_loss"], ".4g"),
            number(row["heldout_loss"], ".4g"),
            *(success_rate(row["score"], task) for task in tasks),
            number(row["seconds"], ".0f"),
        )
        for row in rows
    ]
    return Table(header, cells)


def number(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else format(value, form)


def success_rate(score: Mapping[str, Any] | None, task: str) -> str:
    """`45 % (26 to 66)`."""
    if score is None or task not in score["tasks"]:
        return UNKNOWN
    entry = score["tasks"][task]
    low, high = entry["interval"]
    return f"{100 * entry['rate']:.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def text_table(table: Table) -> str:
    """Aligned columns for a terminal."""
    rows = [table.header, *table.rows]
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def write_report(workdir: Path, report: Mapping[str, Any]) -> Path:
    """Writes report.html: the table, the best trials, why trials failed."""
    rows = report["results"]["trials"]
    failures = [
        Section(f"Failed: {row['name']}", [Table(("last lines of the log",), [(line,) for line in row["log"]])])
        for row in rows
        if row["status"] == "failed"
    ]
    page = Page(
        title=f"sweep: {workdir.name}",
        subtitle=f"DexHiL {report['code_version']} · {format_seconds(report['seconds'])}",
        facts=best_facts(rows),
        sections=[
            Section("Trials", [trials_table(rows)]),
            *failures,
            Section("Lineage", [key_values(report["lineage"])]),
            Section("Config of all trials, before their overrides", [key_values(report["config"])], folded=True),
        ],
    )
    return write_page(workdir / "report.html", page)


def best_facts(rows: Sequence[Mapping[str, Any]]) -> list[Fact]:
    """How many trials finished, the lowest held-out loss and the highest success rate."""
    facts = [Fact("finished", f"{sum(row['status'] == 'finished' for row in rows)} of {len(rows)}", "trials")]
    held_out = [row for row in rows if row["heldout_loss"] is not None]
    if held_out:
        best = min(held_out, key=lambda row: row["heldout_loss"])
        facts.append(Fact("lowest held-out loss", f"{best['heldout_loss']:.3g}", best["name"]))
    scored = [row for row in rows if row["score"]]
    if scored:
        best = max(scored, key=lambda row: row["score"]["mean_rate"])
        facts.append(Fact("highest mean success", f"{100 * best['score']['mean_rate']:.0f} %", best["name"]))
    return facts


if __name__ == "__main__":
    run_command(main)
