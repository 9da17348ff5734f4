"""Demonstrations by the scripted operator in simulation, recorded and built into an RLDS data set.

    python experiments/collect.py --config experiments/configs/sim.py --episodes 60 --out data/sim

OUT/episodes holds the recorded episodes, OUT/rlds the data set. Episode k of a task is made from seed `first_seed + k`;
seeds are tried in order until the asked number of successes is there, failures stay on disk and are marked. Calling it
again goes on where it was.
"""

from dexhil.start import begin
from experiments import options as command_options

if __name__ == "__main__":
    begin(command_options.collect())

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.build import build_dataset
from dexhil.commands import ConfigError, Run, load_config, progress, refuse_other_config, run_command, write_json
from dexhil.config import Config, read_section
from dexhil.episodes.recorder import EpisodeWriter, list_episodes, read_facts
from dexhil.rig import RigConfig
from dexhil.schema import EpisodeMetadata, Step
from dexhil.sim.operator import ScriptedOperator
from experiments.quota import Done, fill_quota, recorded
from experiments.rigs import make_rig

OPERATOR = "scripted"
RECORDING = "recording.json"  # what all episodes of a folder share beside the config
MAY_CHANGE = ("collect.workers", "online.videos_per_task")


def main(argv: Sequence[str]) -> None:
    config, options = load_config(argv, command_options.collect())
    per_task = episodes_per_task(options.episodes, config.rig.tasks)
    demonstration_rig(config)
    claim(options.out, config, ("rig.", "collect."), round=options.round)
    run = Run(options.out, "collect", config)
    episodes = options.out / "episodes"
    episodes.mkdir(exist_ok=True)
    attempts = collect(config, episodes, per_task, options.round)
    dataset = build(options.out)
    tasks = {task: {"attempts": len(seeds), "successes": sum(seeds.values())} for task, seeds in attempts.items()}
    run.report({"dataset": dataset, "tasks": tasks})
    print(f"data set: {dataset} (card: {dataset / 'card.md'})\nreport: {run.workdir / 'report.json'}")


def claim(out: Path, config: Config, keys: tuple[str, ...], **facts: Any) -> None:
    """Makes the folder `out` this recording's; raises ConfigError where `keys` of its config or facts are others."""
    refuse_other_config(out, config, matters=lambda key: key.startswith(keys) and key not in MAY_CHANGE)
    record = out / RECORDING
    known = json.loads(record.read_text()) if record.is_file() else {}
    for path in list_episodes(out / "episodes")[:1] if not known and (out / "episodes").is_dir() else ():
        known = dataclasses.asdict(read_facts(path)[0])  # recorded before the file was there
    for name, value in facts.items():
        if known.get(name, value) != value:
            raise ConfigError(
                f"{out}: holds episodes of {name} {known[name]!r}, this command's is {value!r}; choose another --out"
            )
    out.mkdir(parents=True, exist_ok=True)
    write_json(record, facts)


def episodes_per_task(episodes: int, tasks: Sequence[str]) -> int:
    """Episodes of each task. Raises ConfigError where `episodes` is no multiple of the tasks."""
    per_task, rest = divmod(episodes, len(tasks))
    if rest or not per_task:
        raise ConfigError(f"--episodes {episodes}: expected a multiple of the {len(tasks)} tasks")
    return per_task


def build(out: Path) -> Path:
    """The RLDS data set OUT/rlds of what is recorded in OUT/episodes."""
    episodes = out / "episodes"
    with progress(len(list_episodes(episodes)), "building the data set") as bar:
        return build_dataset(episodes, out / "rlds", on_progress=lambda done, _: bar.update(done))


def collect(config: Config, root: Path, per_task: int, number: int = 0) -> Done:
    """Records until every task has `per_task` successes; returns {task: {seed: success}}."""
    return fill_quota(
        recorded(root, config.rig.tasks, lambda facts: facts.success == 1),
        per_task,
        first_seed=config.collect.first_seed,
        workers=config.collect.workers,
        job=functools.partial(
            record_demonstration, demonstration_rig(config), root, config.collect.approach_speed, number
        ),
        title="collecting",
    )


def demonstration_rig(config: Config) -> RigConfig:
    """Settings of the rig where demonstrations are made."""
    rig = read_section(config, "rig", RigConfig)
    return dataclasses.replace(rig, difficulty=config.collect.coverage * rig.difficulty)


rig_once = functools.cache(make_rig)  # of this worker process: compiling a scene takes longer than an episode's reset


def record_demonstration(
    rig_config: RigConfig, root: Path, approach_speed: float, number: int, task: str, seed: int
) -> bool:
    """Records one episode of the scripted operator; returns whether it succeeded."""
    rig = rig_once(rig_config)
    observation = rig.reset(task=task, seed=seed)
    operator = ScriptedOperator(rig, seed=seed, approach_speed=approach_speed)
    draft = EpisodeMetadata(
        episode_id=f"{task}-{seed:06d}", task=task, success=-1, source="offline", round=number, policy="",
        operator=OPERATOR, robot=rig.spec.name, seed=seed, takeovers=0, max_takeover_jump=0.0,
    )  # fmt: skip
    not_asked = np.full(rig.spec.action_dim, np.nan, np.float32)
    with EpisodeWriter(root, control_hz=rig.control_hz, draft=draft) as writer:
        while not rig.success() and rig.time < rig.horizon_s:
            executed = rig.apply(operator.act())
            writer.append(Step(observation, executed, policy_action=not_asked, is_intervention=True))
            observation = rig.observe()
        writer.finish(dataclasses.replace(draft, success=int(rig.success())))
    return rig.success()


if __name__ == "__main__":
    run_command(main)
