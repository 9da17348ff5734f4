"""Trains one policy per point of a grid or list of config overrides, and sets the results side by side.

    python experiments/sweep.py --config experiments/configs/sim.py --sweep experiments/sweeps/learning_rate.py
        [--workers N] [--launcher slurm --slurm partition=gpu --slurm gpus_per_node=1] [--config.a.b=v …]

A sweep file has get_sweep(): a dict of config key -> list of values is a grid, a list of dicts is a list of overrides.
Each trial is a call of train.py in WORKDIR/TRIAL NAME, its output in log.txt there. The same command again keeps the
finished trials and goes on with the others.
"""

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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dexhil.commands import (
    REPOSITORY,
    Config,
    ConfigError,
    Run,
    load_config,
    progress,
    read_metrics,
    refuse_other_config,
    run_command,
    stop_requested,
)
from experiments.launchers import Launch, Part, launch_local, run_parts, slurm_launcher
from experiments.sweep_report import Trial, describe_failure, text_table, trial_results, trials_table, write_report

NAME_LENGTH = 120


def main(argv: Sequence[str], script: str = "train.py", cluster: str = "slurm") -> None:
    """script: what runs a trial. cluster: submitit's name of the executor behind --launcher slurm."""
    parser = command_options.sweep()
    base, options = load_config(argv, parser, workdir=lambda options: Path("runs") / options.sweep.stem)
    shared = [f"--config={options.config}", *parser.parse_known_args(argv)[1]]
    trials = make_trials(options.sweep, shared, options.workdir, script)
    local = options.launcher == "local"
    launch = launch_local if local else slurm_launcher(options.workdir, options.slurm, cluster)
    run = Run(options.workdir, "sweep", base)
    run_trials(trials, launch, options.workers or (1 if local else len(trials)))
    rows = [trial_results(trial) for trial in trials]
    lineage = {"sweep": options.sweep, "trials": {trial.title: trial.folder for trial in trials}}
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


def make_trials(sweep: Path, shared: Sequence[str], workdir: Path, script: str) -> list[Trial]:
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
        trials.append(Trial(name, script, workdir / name, tuple(arguments), overrides, config))
    names = [trial.title for trial in trials]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"--sweep {sweep}: {names.count(name)} trials are called {name}; make their values differ"
            )
    for trial in trials:
        refuse_other_config(trial.folder, trial.config)
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


def run_trials(trials: Sequence[Trial], launch: Launch, workers: int) -> None:
    """Runs what is not finished, `workers` at a time. Raises KeyboardInterrupt after a clean stop."""
    total = sum(trial.config.train.steps for trial in trials)
    failed: set[Path] = set()

    def steps_done() -> int:
        """Training steps behind the sweep; a trial that failed counts whole, it has none left."""
        return sum(
            trial.config.train.steps if trial.finished or trial.folder in failed else last_step(trial)
            for trial in trials
        )

    def ended(part: Part, _: int | None) -> None:
        if not part.finished:
            failed.add(part.folder)

    with (
        progress(total, "sweep", start=steps_done()) as bar,
        stop_requested("the running trials save and stop") as stopping,
    ):

        def watch() -> None:
            finished = sum(trial.finished for trial in trials)
            bar.update(steps_done(), ended=f"{finished + len(failed)}/{len(trials)}", failed=len(failed))

        chains = [[trial] for trial in trials]
        run_parts(chains, launch, stopping, workers=workers, ended=ended, watch=watch)
        watch()
    if stopping() and not all(trial.finished for trial in trials):
        print("stopped; the same command goes on from there")
        raise KeyboardInterrupt


def last_step(trial: Trial) -> int:
    metrics = read_metrics(trial.folder)
    return metrics[-1]["step"] if metrics else 0


if __name__ == "__main__":
    run_command(main)
