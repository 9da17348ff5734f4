"""Supervised rollouts of a policy in simulation: the simulated person takes over before it fails. One online round.

    python experiments/online.py --config experiments/configs/sim.py --checkpoint runs/sim --out data/online

Records until every task has its number of corrected episodes: taken over and brought to success. What the policy
finishes alone or the person fails to save is recorded too. OUT/episodes holds the episodes, OUT/rlds the data set,
OUT/facts who was in control when and why, OUT/videos films. Calling it again goes on where it was.
"""

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
from dexhil.episodes.recorder import EpisodeWriter
from dexhil.evaluation.config import EvalConfig
from dexhil.evaluation.study import OnlineEpisode
from dexhil.evaluation.supervised import run_supervised
from dexhil.names import check_known
from dexhil.policy import Policy
from dexhil.reports.video import control_overlay, write_picture, write_video
from dexhil.retargeting.runtime import Model, load
from dexhil.rig import RigConfig
from dexhil.schema import EpisodeMetadata
from dexhil.sim.person import SimulatedPerson
from dexhil.sim.rig import SimRig
from dexhil.sim.teleoperation import SIMULATED_RETARGETER
from dexhil.training.checkpoints import find_step, fingerprint, load_meta
from experiments.collect import build, claim, episodes_per_task
from experiments.eval import EXECUTION, check_acts
from experiments.quota import fill_quota, recorded
from experiments.rigs import make_rig
from experiments.settings import OnlineConfig, SupervisorConfig

# Keys that say how the policy and the person act: the same for all episodes of a folder.
ACTING = ("rig.", "online.", "eval.latency_steps", *(f"eval.{name}" for name in EXECUTION))
FILM = (320, 240, 2)  # width, height, control steps per frame


@dataclasses.dataclass(frozen=True)
class Round:
    """One online round. checkpoint, step: of the policy. acting: as where it is scored."""

    out: Path
    number: int
    checkpoint: Path
    step: int
    rig: RigConfig
    acting: EvalConfig
    settings: OnlineConfig


def main(argv: Sequence[str]) -> None:
    config, options = load_config(argv, command_options.online())
    tasks = supervised_tasks(config)
    per_task = episodes_per_task(options.episodes, tasks)
    meta, found = load_meta(options.checkpoint), find_step(options.checkpoint)
    check_acts(config, meta.interface, meta.model)
    policy = f"{found.parent.parent.name}/{found.name}"
    claim(options.out, config, ACTING, round=options.round, policy=policy, weights=fingerprint(found))
    run = Run(options.out, "online", config)
    online = Round(
        options.out, options.round, options.checkpoint, int(found.name), read_section(config, "rig", RigConfig),
        read_section(config, "eval", EvalConfig), read_section(config, "online", OnlineConfig),
    )  # fmt: skip
    episodes = collect_online(online, tasks, per_task, config.collect.workers)
    dataset = build(options.out)
    results = {"dataset": dataset, "episodes": [dataclasses.asdict(episode) for episode in episodes]}
    run.report(results, lineage={"checkpoint": found})
    print(f"data set: {dataset} (card: {dataset / 'card.md'})\nreport: {run.workdir / 'report.json'}")


def supervised_tasks(config: Config) -> tuple[str, ...]:
    """Tasks of the round. Raises ValueError with the nearest name for one that the rig does not have."""
    for task in config.online.tasks:
        check_known("online.tasks:", task, config.rig.tasks)
    return tuple(config.online.tasks or config.rig.tasks)


def collect_online(online: Round, tasks: Sequence[str], per_task: int, workers: int) -> list[OnlineEpisode]:
    """Records the round; returns its episodes. A task that needs too few corrections is named and gets fewer."""
    episodes, settings = online.out / "episodes", online.settings
    episodes.mkdir(parents=True, exist_ok=True)
    load_retargeter(settings.person.retargeter)
    done = fill_quota(
        recorded(episodes, tasks, _is_corrected),
        per_task,
        first_seed=settings.first_seed,
        workers=workers,
        job=functools.partial(record_online, online),
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


def _is_corrected(facts: EpisodeMetadata) -> bool:
    return facts.takeovers > 0 and facts.success == 1


@functools.cache
def acting_once(online: Round) -> tuple[SimRig, Policy]:
    """Of this worker process: rig and policy."""
    return make_rig(online.rig), Policy.load(online.checkpoint, online.step, rtc=online.acting.policy_rtc)


def record_online(online: Round, task: str, seed: int) -> bool:
    """Runs and records one supervised episode, with its facts and, for the first seeds, its film; whether it counts."""
    rig, policy = acting_once(online)
    settings = online.settings
    episode_id = f"round{online.number}-{task}-{seed:07d}"
    filmed = seed - settings.first_seed < settings.videos_per_task
    frames: list[np.ndarray] = []
    rig.reset(task=task, seed=seed)
    person = make_person(rig, seed, settings.person)

    def watch(who: str) -> None:
        width, height, every = FILM
        if filmed and round(rig.time * rig.control_hz) % every == 0:
            frames.append(control_overlay(rig.render("scene", width, height), who))

    draft = EpisodeMetadata(
        episode_id=episode_id, task=task, success=-1, source="online", round=online.number, policy=policy.checkpoint_id,
        operator="simulated person", robot=rig.spec.name, seed=seed, takeovers=0, max_takeover_jump=0.0,
    )  # fmt: skip
    with EpisodeWriter(online.out / "episodes", control_hz=rig.control_hz, draft=draft) as writer:
        outcome = run_supervised(
            rig, policy, person, seed=seed, max_seconds=settings.max_seconds, record=writer.append, watch=watch,
            executor=online.acting, latency_steps=online.acting.latency_steps,
        )  # fmt: skip
        result = dataclasses.replace(
            draft,
            success=int(outcome.success),
            takeovers=len(outcome.engaged),
            max_takeover_jump=max((jump.max for jump in outcome.engaged), default=0.0),
        )
        if frames:
            film = online.out / "videos" / f"{episode_id}.mp4"
            film.parent.mkdir(exist_ok=True)
            write_video(film, frames, round(rig.control_hz / FILM[2]))
            write_picture(film.with_suffix(".jpg"), frames[-1])
        facts = {
            "task": task,
            "seed": seed,
            "success": outcome.success,
            "seconds": outcome.seconds,
            "control": outcome.control,
            "reasons": person.reasons,
            "engaged": [(jump.max, jump.l2) for jump in outcome.engaged],
            "released": [(jump.asked.max, jump.asked.l2) for jump in outcome.released],
            "released_executed": [(jump.executed.max, jump.executed.l2) for jump in outcome.released],
        }
        (online.out / "facts").mkdir(exist_ok=True)
        write_json(online.out / "facts" / f"{episode_id}.json", facts)
        writer.finish(result)
    return _is_corrected(result)


def make_person(rig: SimRig, seed: int, settings: SupervisorConfig) -> SimulatedPerson:
    """The simulated person of `config.online.person`."""
    return SimulatedPerson(rig, seed=seed, config=settings, model=load_retargeter(settings.retargeter))


@functools.cache
def load_retargeter(path: str) -> Model | None:
    """The model in a file of experiments/retarget.py; "simulated": the simulator's own; "": None."""
    return load(SIMULATED_RETARGETER if path == "simulated" else path) if path else None


if __name__ == "__main__":
    run_command(main)
