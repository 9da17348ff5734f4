"""Episodes with a person on a robot: demonstrations, or an online round in which a policy acts and the person corrects.

    python hardware/collect.py --config hardware/configs/fr3_dexhand021.py --episodes 60 --out data/lab
    python hardware/collect.py --config … --checkpoint runs/lab --round 1 --out runs/study/dexhil/round1/online
    python hardware/collect.py --config … --server ws://HOST:8000 --round 1 --out …    # the policy on another machine
    … --rig sim    # the same against the simulator and the simulated person

OUT/episodes holds the episodes, OUT/rlds their data set, OUT/facts who was in control when: what experiments/hil.py
expects of a round, which takes a folder that is finished and goes on with training. Episodes that succeeded count (of a
round: those that were also corrected); the others stay, marked. Calling it again goes on where it was.
"""

from dexhil.start import begin
from hardware.runtime import options as command_options

if __name__ == "__main__":
    begin(command_options.collect())

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dexhil.commands import REPOSITORY, ConfigError, Run, run_command, write_json
from dexhil.config import Config
from hardware.runtime.done import Done
from hardware.runtime.options import load_rig_config, policy_factory
from hardware.runtime.report import finish_run
from hardware.runtime.trials import Limits, Purpose, facts_of, run_trials

ALWAYS = {"late_s": 0.0, "reaction_s": (0.0, 0.1), "hand_back": 0.0}  # a simulated person who demonstrates


def main(argv: Sequence[str]) -> None:
    config, options = load_rig_config(argv, command_options.collect())
    per_task = _per_task(options, config)
    policy = policy_factory(options, config)
    number = options.round or 1
    purpose = Purpose("online", number, f"round{number}", scored=False)
    if policy is None:
        purpose = Purpose("offline", 0, "demo", scored=False)
        with config.unlocked():  # the simulated person demonstrates from the start, and waits for no failure
            config.sim.person.update(ALWAYS)
    run = Run(options.out, "hardware collect", config)

    def counts(found: Done) -> bool:
        return found.recorded and found.succeeded and (policy is None or found.takeovers > 0)

    def on_done(found: Done) -> None:
        run.log(found.seed, facts_of(found))
        if found.recorded:
            write_facts(options.out / "facts" / f"{found.episode_id}.json", found)

    limits = Limits(per_task, counts=counts)
    done = run_trials(config, options.rig, options.out, policy=policy, limits=limits, purpose=purpose, on_done=on_done)
    finish_run(run, done, server=options.server, dataset=options.out / "rlds")
    if not any(found.recorded for found in done.done):
        raise ConfigError(f"no episode was recorded in {options.out / 'episodes'}; the same command starts again")
    dataset = options.out / "rlds"
    for task in config.rig.tasks:
        enough = sum(counts(found) for found in done.done if found.task == task)
        if enough < per_task:
            what = "corrected" if policy else "successful"
            print(f"{task}: {enough} of {per_task} {what} episodes; remove {dataset} and call again for more")
    build(options.out / "episodes", dataset)
    print(f"data set: {dataset} (card: {dataset / 'card.md'})")


def _per_task(options: argparse.Namespace, config: Config) -> int:
    per_task, rest = divmod(options.episodes, len(config.rig.tasks))
    if rest or not per_task:
        raise ConfigError(f"--episodes {options.episodes}: expected a multiple of the {len(config.rig.tasks)} tasks")
    if options.round and not (options.checkpoint or options.server):
        raise ConfigError(f"--round {options.round}: a round needs a policy, --checkpoint or --server")
    return per_task


def build(episodes: Path, dataset: Path) -> None:
    """The data set of a folder of episodes, in a process of its own: TensorFlow stays out of this one."""
    command = [sys.executable, "-m", "data_pipeline.build", str(episodes.absolute()), str(dataset.absolute())]
    if subprocess.run(command, cwd=REPOSITORY).returncode:
        raise ConfigError(f"building {dataset} failed; its message is above. The episodes are kept in {episodes}")


def write_facts(path: Path, found: Done) -> None:
    """What experiments/hil.py's report shows of an episode."""
    path.parent.mkdir(exist_ok=True)
    control = [(begin, end, "person" if who == "person" else "policy") for begin, end, who in found.control]
    facts = {
        "task": found.task, "seed": found.seed, "success": found.succeeded, "seconds": found.seconds,
        "control": control, "reasons": ["person"] * found.takeovers, "engaged": found.takeover_jumps,
        "released": found.release_jumps,
    }  # fmt: skip
    write_json(path, facts)


if __name__ == "__main__":
    run_command(main)
