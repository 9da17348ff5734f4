"""Trials of a policy on a robot, under a person who may take over: the loops of hardware/runtime/session.py.

    python hardware/eval.py --config hardware/configs/fr3_dexhand021.py --checkpoint runs/sim [--trials 20]
    python hardware/eval.py --config … --server ws://HOST:8000 [--key-file FILE]    # the policy on another machine
    python hardware/eval.py --config … --checkpoint … --rig sim --minutes 10    # the same loops against the simulator

A person ends a trial with success, failure or discard; in simulation the rig judges itself. `score` counts what the
policy did alone, `score_assisted` also what a person brought to success. Every trial is recorded in WORKDIR/episodes.
Trials that an earlier, interrupted call finished are kept. Writes report.json and report.html.
"""

from __future__ import annotations

from collections.abc import Sequence

from dexhil.commands import ConfigError, Run, run_command
from hardware.runtime.options import above_zero, load_rig_config, policy_factory, rig_parser


def main(argv: Sequence[str]) -> None:
    parser = rig_parser("Scores a policy on a robot, with takeovers allowed.", policy=True)
    parser.add_argument("--trials", type=above_zero(int), help="per task (default: episode.trials of the config)")
    parser.add_argument("--minutes", type=above_zero(float), help="trials for so long, instead of a number of them")
    config, options = load_rig_config(argv, parser)
    policy = policy_factory(options, config)

    from hardware.runtime.report import finish_run
    from hardware.runtime.trials import Limits, facts_of, run_trials

    run = Run(options.workdir, "hardware eval", config)
    limits = Limits(options.trials or config.episode.trials, options.minutes)
    done = run_trials(
        config,
        options.rig,
        options.workdir,
        policy=policy,
        limits=limits,
        on_done=lambda found: run.log(found.seed, facts_of(found)),
    )
    finish_run(run, done, {"server": options.server} if options.server else {})
    if done.error:
        raise ConfigError(done.error)


if __name__ == "__main__":
    run_command(main)
