"""Trials of a policy on a robot, under a person who may take over: the loops of hardware/runtime/session.py.

    python hardware/eval.py --config hardware/configs/fr3_dexhand021.py --checkpoint runs/sim [--trials 20]
    python hardware/eval.py --config … --checkpoint … --rig sim --minutes 10    # the same loops against the simulator

A person ends a trial with success, failure or discard; in simulation the rig judges itself. `score` counts what the
policy did alone, `score_assisted` also what a person brought to success. Every trial is recorded in WORKDIR/episodes.
Writes report.json and report.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dexhil.commands import Run, command_parser, run_command
from hardware.runtime.policy_process import checkpoint_policy
from hardware.runtime.report import results_of, write_hardware_report
from hardware.runtime.rig import load_rig_config
from hardware.runtime.trials import Limits, Trials, run_trials


def main(argv: Sequence[str]) -> None:
    parser = command_parser("Scores a checkpoint on a robot, with takeovers allowed.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="workdir of a training run")
    parser.add_argument("--step", type=int, help="step of the checkpoint (default: the newest)")
    parser.add_argument("--trials", type=int, help="per task (default: episode.trials of the config)")
    parser.add_argument("--minutes", type=float, help="trials for so long, instead of a number of them")
    config, options = load_rig_config(argv, parser)
    run = Run(options.workdir, "hardware eval", config)
    done: Trials = run_trials(
        config,
        options.rig,
        options.workdir / "episodes",
        policy=checkpoint_policy(options.checkpoint.resolve(), options.step),
        limits=Limits(options.trials or config.episode.trials, options.minutes),
        log=run.log,
    )
    results = results_of(done)
    report = run.report(results, lineage={"checkpoint": done.checkpoint})
    print(f"report: {write_hardware_report(options.workdir, report, done)}")


if __name__ == "__main__":
    run_command(main)
