"""Episodes with a person on a robot: demonstrations, or an online round in which a policy acts and the person corrects.

    python hardware/collect.py --config hardware/configs/fr3_dexhand021.py --episodes 60 --out data/lab
    python hardware/collect.py --config … --checkpoint runs/lab --round 1 --out runs/study/dexhil/round1/online
    python hardware/collect.py --config … --server ws://HOST:8000 --round 1 --out …    # the policy on another machine
    … --rig sim    # the same against the simulator and the simulated person

OUT/episodes holds the episodes, OUT/rlds their data set, OUT/facts who was in control when: what experiments/hil.py
expects of a round, which takes a folder that is finished and goes on with training. Episodes that succeeded count (of a
round: those that were also corrected); the others stay, marked. Calling it again goes on where it was.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dexhil.commands import REPOSITORY, ConfigError, Run, run_command, write_json
from dexhil.config import Config
from hardware.runtime.options import above_zero, load_rig_config, policy_factory, rig_parser

if TYPE_CHECKING:
    from hardware.runtime.done import Done

ALWAYS = {"late_s": 0.0, "reaction_s": (0.0, 0.1), "hand_back": 0.0}  # a simulated person who demonstrates


def main(argv: Sequence[str]) -> None:
    parser = rig_parser(
        "Records demonstrations or an online round on a robot, and builds their data set.", policy=False
    )
    parser.add_argument("--round", type=above_zero(int), help="number of the round (default: 1), with a policy")
    parser.add_argument(
        "--episodes", type=above_zero(int), default=20, help="episodes that count, spread evenly over the tasks"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the episodes and the data set")
    config, options = load_rig_config(argv, parser)
    per_task = _per_task(options, config)
    policy = policy_factory(options, config)

    from hardware.runtime.report import finish_run
    from hardware.runtime.trials import Limits, Purpose, facts_of, run_trials

    number, counts = options.round or 1, _corrected if policy else _succeeded
    purpose = Purpose("online", number, f"round{number}", scored=False)
    if policy is None:
        _demonstrate(config)
        purpose = Purpose("offline", 0, "demo", scored=False)
    run = Run(options.out, "hardware collect", config)

    def on_done(found: Done) -> None:
        run.log(found.seed, facts_of(found))
        if found.recorded:
            write_facts(options.out / "facts" / f"{found.episode_id}.json", found)

    done = run_trials(
        config,
        options.rig,
        options.out,
        policy=policy,
        limits=Limits(per_task, counts=counts),
        purpose=purpose,
        on_done=on_done,
    )
    finish_run(run, done, {"server": options.server} if options.server else {}, dataset=options.out / "rlds")
    if done.error:
        raise ConfigError(f"{done.error}. What was recorded is kept; the same command goes on")
    report_shortage(done.done, options.out, config, per_task, counts)
    dataset = build(options.out)
    print(f"data set: {dataset} (card: {dataset / 'card.md'})")


def _per_task(options: argparse.Namespace, config: Config) -> int:
    per_task, rest = divmod(options.episodes, len(config.rig.tasks))
    if rest or not per_task:
        raise ConfigError(f"--episodes {options.episodes}: expected a multiple of the {len(config.rig.tasks)} tasks")
    if options.round and not (options.checkpoint or options.server):
        raise ConfigError(f"--round {options.round}: a round needs a policy, --checkpoint or --server")
    return per_task


def _demonstrate(config: Config) -> None:
    """The simulated person demonstrates from the start instead of waiting for a failure."""
    with config.unlocked():
        config.sim.person.update(ALWAYS)


def report_shortage(
    done: Sequence[Done], out: Path, config: Config, per_task: int, counts: Callable[[Done], bool]
) -> None:
    """Says which task has too few. Raises ConfigError where nothing was recorded at all."""
    if not any(found.recorded for found in done):
        raise ConfigError(f"no episode was recorded in {out / 'episodes'}; the same command starts again")
    for task in config.rig.tasks:
        enough = sum(counts(found) for found in done if found.task == task)
        if enough < per_task:
            what = "corrected" if counts is _corrected else "successful"
            print(f"{task}: {enough} of {per_task} {what} episodes; remove {out / 'rlds'} and call again for more")


def _succeeded(found: Done) -> bool:
    return found.recorded and found.succeeded


def _corrected(found: Done) -> bool:
    return found.recorded and found.succeeded and found.takeovers > 0


def build(out: Path) -> Path:
    """OUT/rlds of OUT/episodes, in a process of its own: TensorFlow stays out of this one."""
    dataset = out / "rlds"
    command = [sys.executable, "-m", "data_pipeline.build", str(out / "episodes"), str(dataset)]
    if subprocess.run(command, cwd=REPOSITORY if not out.is_absolute() else None).returncode:
        raise ConfigError(
            f"building {dataset} failed; its message is above. The episodes are kept in {out / 'episodes'}"
        )
    return dataset


def write_facts(path: Path, found: Done) -> None:
    """What experiments/hil.py's report shows of an episode."""
    path.parent.mkdir(exist_ok=True)
    facts = {
        "task": found.task,
        "seed": found.seed,
        "success": found.succeeded,
        "seconds": found.seconds,
        "control": [(begin, end, "person" if who == "person" else "policy") for begin, end, who in found.control],
        "reasons": ["person"] * found.takeovers,
        "engaged": found.takeover_jumps,
        "released": found.release_jumps,
    }
    write_json(path, facts)


if __name__ == "__main__":
    run_command(main)
