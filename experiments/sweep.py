"""Trains one policy per point of a grid or list of config overrides, and sets the results side by side.

    python experiments/sweep.py --config experiments/configs/sim.py --sweep experiments/sweeps/learning_rate.py
        [--workers N] [--launcher slurm --slurm partition=gpu --slurm gpus_per_node=1] [--config.a.b=v …]

A sweep file has get_sweep(): a dict of config key -> list of values is a grid, a list of dicts is a list of overrides.
Each trial is a call of train.py in WORKDIR/TRIAL NAME, its output in log.txt there. The same command again keeps the
finished trials and goes on with the others.
"""

from __future__ import annotations

from dexhil.start import begin
from experiments import options as command_options

if __name__ == "__main__":
    begin(command_options.sweep())

import functools
import hashlib
import itertools
import operator
import re
import runpy
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dexhil.commands import (
    REPOSITORY,
    Config,
    ConfigError,
    Progress,
    Run,
    load_config,
    progress,
    read_metrics,
    refuse_other_config,
    run_command,
    stop_requested,
)
from experiments.launchers import Handle, Launch, Leftover, launch_local, slurm_launcher
from experiments.sweep_report import Trial, describe_failure, text_table, trial_results, trials_table, write_report

TRAIN = (sys.executable, str(REPOSITORY / "experiments" / "train.py"))
POLL_S = 0.2
NAME_LENGTH = 120


def main(argv: Sequence[str], command: Sequence[str] = TRAIN, cluster: str = "slurm") -> None:
    """command: what runs a trial. cluster: submitit's name of the executor behind --launcher slurm."""
    parser = command_options.sweep()
    base, options = load_config(argv, parser, workdir=lambda options: Path("runs") / options.sweep.stem)
    shared = [f"--config={options.config}", *parser.parse_known_args(argv)[1]]
    trials = make_trials(options.sweep, shared, options.workdir)
    local = options.launcher == "local"
    launch = launch_local if local else slurm_launcher(options.workdir, options.slurm, cluster)
    run = Run(options.workdir, "sweep", base)
    run_trials(trials, command, launch, options.workers or (1 if local else len(trials)))
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
        refuse_other_config(trial.workdir, trial.config)
    return trials


def check_text(config: Config, overrides: Mapping[str, Any]) -> None:
    """Raises ConfigError where a text key gets another type: as an argument everything is text."""
    for key, value in overrides.items():
        if isinstance(functools.reduce(operator.getitem, key.split("."), config), str) and not isinstance(value, str):
            raise ConfigError(
                f"--config.{key}={value}: expected text, got {type(value).__name__}; write {str(value)!r}"
            )


def trial_name(overrides: Mapping[str, Any]) -> str:
    """A folder name made of the overrides alone, so that it stays when a sweep grows."""
    text = ",".join(f"{key}={value}" for key, value in overrides.items()) or "base"
    name = re.sub(r"[^\w.=,+-]+", "-", re.sub(r"[()\[\]' ]", "", text), flags=re.ASCII)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return name if len(name) <= NAME_LENGTH else f"{name[:NAME_LENGTH]}-{digest}"


def run_trials(trials: Sequence[Trial], command: Sequence[str], launch: Launch, workers: int) -> None:
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
                    running.append((waiting[0], launch(trial_command(command, waiting[0]), waiting[0].workdir)))
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


def trial_command(command: Sequence[str], trial: Trial) -> list[str]:
    return [*command, *trial.arguments, f"--workdir={trial.workdir}"]


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


if __name__ == "__main__":
    run_command(main)
