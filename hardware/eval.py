"""Trials of a policy on a robot, under a person who may take over: the loops of hardware/runtime/session.py.

    python hardware/eval.py --config hardware/configs/fr3_dexhand021.py --checkpoint runs/sim [--trials 20]
    python hardware/eval.py --config … --server ws://HOST:8000 [--key-file FILE]    # the policy on another machine
    python hardware/eval.py --config … --checkpoint … --rig sim --minutes 10    # the same loops against the simulator

A person ends a trial with success, failure or discard; in simulation the rig judges itself. `score` counts what the
policy did alone, `score_assisted` also what a person brought to success. Every trial is recorded in WORKDIR/episodes.
Trials that an earlier, interrupted call finished are kept. Writes report.json and report.html.
"""

from dexhil.start import begin
from hardware.runtime import options as command_options

if __name__ == "__main__":
    begin(command_options.evaluate())

from collections.abc import Sequence

from dexhil.commands import Run, run_command
from hardware.runtime.options import load_rig_config, policy_factory
from hardware.runtime.report import finish_run
from hardware.runtime.trials import Limits, facts_of, run_trials


def main(argv: Sequence[str]) -> None:
    config, options = load_rig_config(argv, command_options.evaluate())
    policy = policy_factory(options, config)
    run = Run(options.workdir, "hardware eval", config)
    done = run_trials(
        config, options.rig, options.workdir, policy=policy,
        limits=Limits(options.trials or config.episode.trials, options.minutes),
        on_done=lambda found: run.log(found.seed, facts_of(found)),
    )  # fmt: skip
    finish_run(run, done, server=options.server)


if __name__ == "__main__":
    run_command(main)
