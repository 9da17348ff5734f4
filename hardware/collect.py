"""Episodes with a person on a robot: demonstrations, or an online round in which a policy acts and the person corrects.

    python hardware/collect.py --config hardware/configs/fr3_dexhand021.py --episodes 60 --out data/lab
    python hardware/collect.py --config … --checkpoint runs/lab --round 1 --out runs/study/dexhil/round1/online
    … --rig sim    # the same against the simulator and the simulated person

OUT/episodes holds the episodes, OUT/rlds their data set, OUT/facts who was in control when: what experiments/hil.py
expects of a round, which takes a folder that is finished and goes on with training. Episodes that succeeded count (of a
round: those that were also corrected); the others stay, marked. Calling it again goes on where it was.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dexhil.commands import REPOSITORY, ConfigError, Run, command_parser, run_command, write_json
from dexhil.config import Config
from dexhil.episodes.recorder import list_episodes, read_facts
from dexhil.schema import EpisodeMetadata
from hardware.runtime.policy_process import checkpoint_policy
from hardware.runtime.report import results_of, write_hardware_report
from hardware.runtime.rig import load_rig_config
from hardware.runtime.trials import Done, Limits, Purpose, run_trials

ALWAYS = {"late_s": 0.0, "reaction_s": (0.0, 0.1), "hand_back": 0.0}  # a simulated person who demonstrates


def main(argv: Sequence[str]) -> None:
    parser = command_parser("Records demonstrations or an online round on a robot, and builds their data set.")
    parser.add_argument("--checkpoint", type=Path, help="workdir of a training run: an online round with its policy")
    parser.add_argument("--step", type=int, help="step of the checkpoint (default: the newest)")
    parser.add_argument("--round", type=int, default=1, help="number of the round, with --checkpoint")
    parser.add_argument("--episodes", type=int, default=20, help="episodes that count, spread evenly over the tasks")
    parser.add_argument("--out", type=Path, required=True, help="folder of the episodes and the data set")
    config, options = load_rig_config(argv, parser)
    per_task, rest = divmod(options.episodes, len(config.rig.tasks))
    if rest or not per_task:
        raise ConfigError(f"--episodes {options.episodes}: expected a multiple of the {len(config.rig.tasks)} tasks")
    online = options.checkpoint is not None
    if not online:
        _demonstrate(config)
    run = Run(options.out, "hardware collect", config)
    purpose = Purpose("online", options.round, f"round{options.round}") if online else Purpose("offline", 0, "demo")
    done = run_trials(
        config,
        options.rig,
        options.out / "episodes",
        policy=checkpoint_policy(options.checkpoint.resolve(), options.step) if online else None,
        limits=Limits(per_task, counts=_corrected if online else _succeeded),
        purpose=purpose,
        log=run.log,
    )
    for found in done.done:
        if found.episode.path is not None:
            write_facts(options.out / "facts" / f"{found.episode_id}.json", found)
    report_shortage(options.out, config, per_task, online)
    dataset = build(options.out)
    results = {**results_of(done), "dataset": dataset}
    report = run.report(results, lineage={"checkpoint": done.checkpoint})
    print(f"report: {write_hardware_report(options.out, report, done)}")
    print(f"data set: {dataset} (card: {dataset / 'card.md'})")


def _demonstrate(config: Config) -> None:
    """The simulated person demonstrates from the start instead of waiting for a failure."""
    with config.unlocked():
        config.sim.person.update(ALWAYS)


def report_shortage(out: Path, config: Config, per_task: int, online: bool) -> None:
    """Says which task has too few. Raises ConfigError where nothing was recorded at all."""
    facts = [read_facts(path)[0] for path in list_episodes(out / "episodes")]
    if not facts:
        raise ConfigError(f"no episode was recorded in {out / 'episodes'}; the same command starts again")
    for task in config.rig.tasks:
        found = sum((_corrected if online else _succeeded)(fact) for fact in facts if fact.task == task)
        if found < per_task:
            what = "corrected" if online else "successful"
            print(f"{task}: {found} of {per_task} {what} episodes; remove {out / 'rlds'} and call again for more")


def _succeeded(facts: EpisodeMetadata) -> bool:
    return facts.success == 1


def _corrected(facts: EpisodeMetadata) -> bool:
    return facts.success == 1 and facts.takeovers > 0


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
    episode = found.episode
    facts = {
        "task": found.task,
        "seed": found.seed,
        "success": found.success,
        "seconds": episode.seconds,
        "control": [(begin, end, "person" if who == "person" else "policy") for begin, end, who in episode.control],
        "reasons": ["person"] * len(episode.takeovers),
        "engaged": episode.jumps("takeover"),
        "released": episode.jumps("release"),
    }
    write_json(path, facts)


if __name__ == "__main__":
    run_command(main)
