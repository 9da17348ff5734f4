"""Scores a checkpoint in paired trials: the same seeds give the same initial states for every policy.

    python experiments/eval.py --config experiments/configs/sim.py --checkpoint runs/sim [--trials 20]
    python experiments/eval.py --config experiments/configs/sim.py --checkpoint runs/a --against runs/b/eval
    python experiments/eval.py --config experiments/configs/sim.py --server ws://127.0.0.1:8000    # through serve.py

Writes report.json (success rates with 95 % intervals) and report.html (videos, contact sheets, every trial). Trials
that an earlier, interrupted call finished are kept.
"""

from dexhil.start import begin
from experiments import options as command_options

if __name__ == "__main__":
    begin(command_options.evaluate())

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dexhil.commands import ConfigError, Run, load_config, progress, run_command, stop_requested, to_json
from dexhil.config import Config, read_section
from dexhil.control.executor import ExecutorConfig
from dexhil.evaluation import rollout
from dexhil.evaluation.config import EvalConfig
from dexhil.evaluation.intervals import compare, score
from dexhil.evaluation.rollout import Trial
from dexhil.evaluation.trials import Bench, outcomes, run_trials
from dexhil.fit import Interface, PolicyInfo, check_fits, rig_interface
from dexhil.models.config import VLAConfig
from dexhil.policy import Policy, RtcChoice, choose_rtc
from dexhil.reports.comparison import read_outcomes
from dexhil.reports.evaluation import write_report
from dexhil.rig import RigConfig
from dexhil.serving.client import PolicyClient
from dexhil.serving.keys import read_key
from dexhil.training.checkpoints import find_step, load_meta, verify
from experiments.rigs import make_rig

# Settings that outcomes depend on.
EXECUTION = tuple(field.name for field in dataclasses.fields(ExecutorConfig))
DECISIVE = (*EXECUTION, "max_seconds", "latency_steps")


def main(argv: Sequence[str]) -> None:
    config, options = load_config(
        argv,
        command_options.evaluate(),
        workdir=lambda options: options.checkpoint / "eval" if options.checkpoint else Path("runs/served"),
    )
    if options.server and options.step is not None:
        raise ConfigError(f"--step {options.step}: a server has chosen its checkpoint; leave it out")
    workdir = options.workdir
    theirs = read_outcomes(options.against, to_json(config)) if options.against else None
    if options.server:
        client = functools.partial(PolicyClient, options.server, key=read_key(), rig=config_rig(config))
        with client() as policy:
            info = policy.info
        run, lineage = Run(workdir, "eval", config), {"server": options.server, **info.to_message()}
        trials = evaluate_served(config, client, info, workdir, count=options.trials)
    else:
        meta = load_meta(options.checkpoint, options.step)
        lineage = {"checkpoint": find_step(options.checkpoint, options.step), **meta.lineage}
        run = Run(workdir, "eval", config)
        trials = evaluate(config, options.checkpoint, workdir, step=options.step, count=options.trials)
    ours = outcomes(trials)
    facts = [{field: value for field, value in vars(trial).items() if field != "frames"} for trial in trials]
    results = {**score(ours), "outcomes": ours, "trials": facts}
    if theirs is not None:
        results["against"] = {"name": str(options.against), **compare(ours, theirs)}
        lineage["against"] = options.against
    report = run.report(results, lineage=lineage)
    print_rates(results)
    print(f"report: {write_report(workdir, report, trials, media=workdir)}")


def print_rates(results: Mapping[str, Any]) -> None:
    """A line per task of a score."""
    for task, entry in results["tasks"].items():
        low, high = entry["interval"]
        print(f"{task}: {entry['successes']} of {entry['trials']} ({entry['rate']:.0%}, 95 % {low:.0%} to {high:.0%})")


def evaluate(
    config: Config, checkpoint: Path, folder: Path, *, step: int | None = None, count: int | None = None
) -> list[Trial]:
    """Runs the config's trials of every task with a checkpoint; pictures and videos go to `folder`.

    Raises:
        ConfigError: the checkpoint does not fit the rig.
        KeyboardInterrupt: after a clean stop.
    """
    path, meta = find_step(checkpoint, step), load_meta(checkpoint, step)
    make_policy = functools.partial(
        Policy.load, checkpoint, int(path.name), rtc=check_acts(config, meta.interface, meta.model)
    )
    verify(path, "ema")
    return _run_trials(config, make_policy, [str(path), path.stat().st_mtime_ns], folder, count)


def evaluate_served(
    config: Config, client: Callable[[], PolicyClient], info: PolicyInfo, folder: Path, *, count: int | None = None
) -> list[Trial]:
    """As `evaluate`, with the policy behind a server: the same checkpoint gives the same trials."""
    check_fits(info, config_rig(config))
    check_execution(config, info.chunk, info.max_delay)
    return _run_trials(config, client, [info.to_message()], folder, count)


def _run_trials(
    config: Config, make_policy: Callable[[], rollout.Policy], identity: list[Any], folder: Path, count: int | None
) -> list[Trial]:
    rig, settings = read_section(config, "rig", RigConfig), read_section(config, "eval", EvalConfig)
    make_rig(rig).close()  # a wrong value is named here, not in a worker
    bench = Bench(
        make_rig=functools.partial(make_rig, rig),
        make_policy=make_policy,
        folder=folder,
        identity=json.dumps([*identity, to_json(config.rig), *(getattr(settings, name) for name in DECISIVE)]),
        executor=settings,
        max_seconds=settings.max_seconds or None,
        videos_per_task=settings.videos_per_task,
        latency_steps=settings.latency_steps,
    )
    per_task = settings.trials if count is None else count
    total, successes = per_task * len(rig.tasks), 0
    with progress(total, "evaluating") as bar, stop_requested("finishing the open trials") as stopping:

        def show(trial: Trial, done: int, _: int) -> None:
            nonlocal successes
            successes += trial.success
            bar.update(done, successes=successes)

        trials = run_trials(
            bench, rig.tasks, trials=per_task, first_seed=settings.first_seed, workers=settings.workers, on_trial=show,
            stop=stopping,
        )  # fmt: skip
    if len(trials) < total:
        raise KeyboardInterrupt
    return trials


def config_rig(config: Config) -> Interface:
    """What the config's rig offers a policy."""
    rig = config.rig
    return rig_interface(rig.robot, rig.cameras, rig.control_hz, rig.image_size)


def check_acts(config: Config, policy: Interface, model: VLAConfig) -> RtcChoice:
    """What to load the policy with. Raises ConfigError or ValueError where it cannot act as `config` says."""
    check_fits(policy, config_rig(config))
    rtc = ExecutorConfig.of(config.eval).policy_rtc
    check_execution(config, model.chunk, choose_rtc(rtc, model)[1])
    return rtc


def check_execution(config: Config, chunk: int, bridged: int) -> None:
    """Raises ConfigError where chunks, `bridged` by real-time chunking, cannot be executed as `config.eval` says."""
    if config.eval.execute_steps > chunk:
        raise ConfigError(f"eval.execute_steps {config.eval.execute_steps}: expected 1 to {chunk}, the policy's chunk")
    latency = config.eval.latency_steps
    if config.eval.handover == "rtc" and latency > bridged:
        raise ConfigError(
            f"eval.latency_steps {latency}: real-time chunking of this policy (eval.rtc {config.eval.rtc!r}) bridges "
            f"at most {bridged} steps; take less, or handover 'replace'"
        )


if __name__ == "__main__":
    run_command(main)
