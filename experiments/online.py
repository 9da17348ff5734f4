"""Supervised rollouts of a policy in simulation: the simulated person takes over before it fails. One online round.

    python experiments/online.py --config experiments/configs/sim.py --checkpoint runs/sim --out data/online

Records until every task has its share of corrected episodes: taken over and brought to success. What the policy
finishes alone or the person fails to save is recorded too. OUT/episodes holds the episodes, OUT/rlds the data set,
OUT/facts who was in control when and why, OUT/videos films. Calling it again goes on where it was.
"""

from __future__ import annotations

from dexhil.start import begin
from experiments import options as command_options

if __name__ == "__main__":
    begin(command_options.online())

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dexhil.commands import Run, load_config, run_command, write_json
from dexhil.config import Config, read_section
from dexhil.control.executor import ExecutorConfig
from dexhil.episodes.recorder import EpisodeWriter, list_episodes, read_facts
from dexhil.evaluation.study import OnlineEpisode
from dexhil.evaluation.supervised import Supervised, run_supervised
from dexhil.names import check_known
from dexhil.policy import Policy, RtcChoice
from dexhil.reports.video import control_overlay, write_picture, write_video
from dexhil.retargeting.runtime import Model, load
from dexhil.rig import RigConfig
from dexhil.schema import EpisodeMetadata
from dexhil.sim.person import SimulatedPerson
from dexhil.sim.rig import SimRig
from dexhil.sim.teleoperation import SIMULATED_RETARGETER
from dexhil.training.checkpoints import find_step, fingerprint, load_meta
from experiments.collect import build, claim, share_of_a_task
from experiments.eval import check_acts, executor_config
from experiments.quota import fill_quota
from experiments.rigs import make_rig
from experiments.settings import OnlineConfig, SupervisorConfig

# Keys that say how the policy and the person act: the same for all episodes of a folder.
ACTING = ("rig.", "online.", "eval.execute_steps", "eval.latency_steps", "eval.handover", "eval.rtc")
FILM = (320, 240, 2)  # width, height, control steps per frame


@dataclasses.dataclass(frozen=True)
class Round:
    """One online round. checkpoint, step: of the policy. first_seed: of its starts, the same for all tasks.

    executor, latency_steps, rtc: of `config.eval`, so that the policy acts as where it is scored.
    """

    out: Path
    checkpoint: Path
    step: int
    number: int
    first_seed: int
    executor: ExecutorConfig
    latency_steps: int
    rtc: RtcChoice


def main(argv: Sequence[str]) -> None:
    config, options = load_config(argv, command_options.online())
    tasks = supervised_tasks(config)
    per_task = share_of_a_task(options.episodes, tasks)
    meta, settings, found = load_meta(options.checkpoint), config.eval, find_step(options.checkpoint)
    rtc = check_acts(config, meta.interface, meta.model)
    policy = f"{found.parent.parent.name}/{found.name}"
    claim(options.out, config, ACTING, round=options.round, policy=policy, weights=fingerprint(found))
    run = Run(options.out, "online", config)
    online = Round(
        options.out, options.checkpoint, int(found.name), options.round,
        config.online.first_seed, executor_config(config), settings.latency_steps,
        rtc,
    )  # fmt: skip
    episodes = collect_online(config, online, tasks, per_task)
    dataset = build(options.out)
    results = {"dataset": dataset, "episodes": [dataclasses.asdict(episode) for episode in episodes]}
    run.report(results, lineage={"checkpoint": found})
    print(f"data set: {dataset} (card: {dataset / 'card.md'})")


def supervised_tasks(config: Config) -> tuple[str, ...]:
    """Tasks of the round. Raises ValueError with the nearest name for one that the rig does not have."""
    for task in config.online.tasks:
        check_known("online.tasks:", task, config.rig.tasks)
    return tuple(config.online.tasks or config.rig.tasks)


def collect_online(config: Config, online: Round, tasks: Sequence[str], per_task: int) -> list[OnlineEpisode]:
    """Records the round; returns its episodes. A task that needs too few corrections is named and gets fewer."""
    episodes = online.out / "episodes"
    episodes.mkdir(parents=True, exist_ok=True)
    settings = read_section(config, "online", OnlineConfig)
    load_retargeter(settings.person.retargeter)
    done = fill_quota(
        {task: _recorded(episodes, task) for task in tasks},
        per_task,
        first_seed=online.first_seed,
        workers=config.collect.workers,
        job=functools.partial(_record, read_section(config, "rig", RigConfig), online, settings),
        title="supervising",
        max_seeds=per_task * settings.max_attempts,
    )
    for task, seeds in done.items():
        corrected = sum(seeds.values())
        if corrected < per_task:
            print(
                f"{task}: {corrected} of {per_task} corrected episodes in {len(seeds)} rollouts; the rest needed no "
                f"correction or failed under it (online.max_attempts = {settings.max_attempts} ends the search)"
            )
    return read_online(online.out, "", online.number)


def read_online(out: Path, arm: str, number: int) -> list[OnlineEpisode]:
    """The recorded episodes of the round under `out`, as the study's report wants them."""
    found = []
    for path in sorted((out / "facts").glob("*.json")):
        facts, film = json.loads(path.read_text()), out / "videos" / f"{path.stem}.mp4"
        if (out / "episodes" / path.stem).is_dir():
            shown = film if film.is_file() else None
            poster = film.with_suffix(".jpg") if shown else None
            found.append(OnlineEpisode(arm=arm, round=number, video=shown, poster=poster, **facts))
    return found


def _recorded(root: Path, task: str) -> dict[int, bool]:
    """{seed: corrected} of the finished episodes of `task` under `root`."""
    facts = [read_facts(path)[0] for path in list_episodes(root)]
    return {fact.seed: _is_corrected(fact) for fact in facts if fact.task == task}


def _is_corrected(facts: EpisodeMetadata) -> bool:
    return facts.takeovers > 0 and facts.success == 1


_workers: dict[Round, tuple[SimRig, Policy]] = {}  # of this worker process: rig and policy are built once


def _record(rig_config: RigConfig, online: Round, settings: OnlineConfig, task: str, seed: int) -> bool:
    if online not in _workers:
        _workers[online] = make_rig(rig_config), Policy.load(online.checkpoint, online.step, rtc=online.rtc)
    rig, policy = _workers[online]
    return _is_corrected(record_online(rig, policy, online, settings, task, seed))


def record_online(
    rig: SimRig, policy: Policy, online: Round, settings: OnlineConfig, task: str, seed: int
) -> EpisodeMetadata:
    """Runs and records one supervised episode, with its facts and, for the first seeds, its film."""
    episode_id = f"round{online.number}-{task}-{seed:07d}"
    filmed = seed - online.first_seed < settings.videos_per_task
    frames: list[np.ndarray] = []
    rig.reset(task=task, seed=seed)
    person = make_person(rig, seed, settings.person)

    def watch(who: str) -> None:
        width, height, every = FILM
        if filmed and round(rig.time * rig.control_hz) % every == 0:
            frames.append(control_overlay(rig.render("scene", width, height), who))

    def metadata(success: int, outcome: Supervised | None) -> EpisodeMetadata:
        return EpisodeMetadata(
            episode_id=episode_id,
            task=task,
            success=success,
            source="online",
            round=online.number,
            policy=policy.checkpoint_id,
            operator="simulated person",
            robot=rig.spec.name,
            seed=seed,
            takeovers=len(outcome.engaged) if outcome else 0,
            max_takeover_jump=max((jump.max for jump in outcome.engaged), default=0.0) if outcome else 0.0,
        )

    draft = metadata(-1, None)
    with EpisodeWriter(online.out / "episodes", control_hz=rig.control_hz, draft=draft) as writer:
        outcome = run_supervised(
            rig, policy, person, seed=seed, max_seconds=settings.max_seconds, record=writer.append, watch=watch,
            executor=online.executor, latency_steps=online.latency_steps,
        )  # fmt: skip
        result = metadata(int(outcome.success), outcome)
        if frames:
            film = online.out / "videos" / f"{episode_id}.mp4"
            film.parent.mkdir(exist_ok=True)
            write_video(film, frames, round(rig.control_hz / FILM[2]))
            write_picture(film.with_suffix(".jpg"), frames[-1])
        _write_facts(online.out / "facts" / f"{episode_id}.json", result, outcome, person.reasons)
        writer.finish(result)
    return result


def make_person(rig: SimRig, seed: int, settings: SupervisorConfig) -> SimulatedPerson:
    """The simulated person of `config.online.person`."""
    return SimulatedPerson(rig, seed=seed, config=settings, model=load_retargeter(settings.retargeter))


@functools.cache
def load_retargeter(path: str) -> Model | None:
    """The model in a file of experiments/retarget.py, or the one that comes with the simulator ("simulated"); None for
    no path. Raises ValueError where it is none.
    """
    return load(SIMULATED_RETARGETER if path == "simulated" else path) if path else None


def _write_facts(path: Path, metadata: EpisodeMetadata, outcome: Supervised, reasons: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    facts = {
        "task": metadata.task,
        "seed": metadata.seed,
        "success": outcome.success,
        "seconds": outcome.seconds,
        "control": outcome.control,
        "reasons": reasons,
        "engaged": [(jump.max, jump.l2) for jump in outcome.engaged],
        "released": [(jump.asked.max, jump.asked.l2) for jump in outcome.released],
        "released_executed": [(jump.executed.max, jump.executed.l2) for jump in outcome.released],
    }
    write_json(path, facts)


if __name__ == "__main__":
    run_command(main)
