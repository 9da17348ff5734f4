"""Episodes one after the other on a session: tasks in turns, seeds upwards, messages to the person, films, memory."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dexhil.commands import ConfigError
from dexhil.config import Config
from dexhil.episodes.recorder import list_episodes, read_facts
from dexhil.evaluation.rollout import Policy
from dexhil.progress import stop_requested
from dexhil.reports.video import control_overlay, write_picture, write_video
from dexhil.schema import EpisodeMetadata, Source
from hardware.runtime.policy_process import PolicyProcess
from hardware.runtime.recording import Recorder
from hardware.runtime.rig import Rig, make_rig
from hardware.runtime.session import Episode, Session

FILM_HZ, FILM_SIZE = 5.0, (320, 240)
MEMORY_EVERY_S = 10.0
PAGE = 4096
LARGEST_IMAGE = 3 * 1920 * 1080


@dataclasses.dataclass(frozen=True)
class Limits:
    """per_task: episodes of each task, or as many as go into `minutes`.

    counts: which recorded episodes count; those of an earlier call do, too. None: every one of this call that was not
    discarded. most_attempts: episodes per wanted one, at most.
    """

    per_task: int
    minutes: float | None = None
    counts: Callable[[EpisodeMetadata], bool] | None = None
    most_attempts: int = 5


@dataclasses.dataclass(frozen=True)
class Purpose:
    """What the episodes are for, as recorded: source, number of the round. prefix: of their names."""

    source: Source = "online"
    round: int = 0
    prefix: str = "eval"

    @property
    def demonstrates(self) -> bool:
        """Whether an episode begins only when the person takes over."""
        return self.source == "offline"


@dataclasses.dataclass(frozen=True)
class Done:
    """One finished episode."""

    task: str
    seed: int
    episode_id: str
    episode: Episode
    failure: str

    @property
    def success(self) -> bool:
        return self.episode.success == 1

    @property
    def autonomous(self) -> bool:
        """Whether the policy succeeded alone."""
        return self.success and not self.episode.takeovers


@dataclasses.dataclass(frozen=True)
class Trials:
    """What a run came to. memory_mb: per process, resident megabytes over time as (s, MB)."""

    tasks: tuple[str, ...]
    done: list[Done]
    loops: dict[str, dict[str, Any]]
    causes: dict[str, int]
    checkpoint: str
    policy_restarts: int
    memory_mb: dict[str, list[tuple[float, float]]]
    films: dict[str, Path]


def run_trials(
    config: Config,
    kind: str,
    root: Path,
    *,
    policy: Callable[[], Policy] | None,
    limits: Limits,
    purpose: Purpose = Purpose(),
    log: Callable[[int, Mapping[str, Any]], None] = lambda step, metrics: None,
    say: Callable[[str], None] = lambda text: print(text, flush=True),
) -> Trials:
    """Runs and records episodes under `root` with the config's rig (kind: "real" or "sim").

    policy: a picklable factory, None where a person does all. Raises ConfigError or DeviceError where rig and policy do
    not fit or do not work.
    """
    rig = make_rig(config, kind)
    process = None
    if policy is not None:
        process = PolicyProcess(policy, hz=config.rates.policy_hz, image_bytes=LARGEST_IMAGE * len(config.rig.cameras))
    recorder = Recorder(root, control_hz=config.rates.policy_hz)
    control = rig.control(config, process)
    say("connecting; a policy takes a while to load")
    with Session(control, process, recorder, say) as session, stop_requested("ending this episode") as stopping:
        checkpoint = check_policy(session, config)
        runner = _Runner(config, rig, session, root, purpose, checkpoint, say, stopping)
        done = runner.run(limits, log)
        return Trials(
            tuple(config.rig.tasks), done, session.loops(), dict(session.causes), checkpoint,
            session.policy_restarts, runner.memory, runner.films,
        )  # fmt: skip


def check_policy(session: Session, config: Config) -> str:
    """The checkpoint's id. Raises ConfigError where the policy is of another robot or needs other cameras."""
    if session.policy is None:
        return ""
    identity = session.identity
    if identity.get("robot", config.rig.robot) != config.rig.robot:
        raise ConfigError(f"the checkpoint was trained on {identity['robot']!r}, rig.robot is {config.rig.robot!r}")
    missing = sorted(set(identity.get("cameras", ())) - set(config.rig.cameras))
    if missing:
        raise ConfigError(f"the checkpoint needs cameras {missing}, rig.cameras are {list(config.rig.cameras)}")
    return identity["checkpoint_id"]


class _Quota:
    """Whose turn it is. seeds: of the next episode of each task, counted from the first."""

    def __init__(self, tasks: tuple[str, ...], limits: Limits, recorded: list[EpisodeMetadata]) -> None:
        self._limits = limits
        self.seeds = {task: sum(fact.task == task for fact in recorded) for task in tasks}
        self._tried = dict.fromkeys(tasks, 0)
        counts = limits.counts or (lambda fact: True)
        self._counted = {task: sum(fact.task == task and counts(fact) for fact in recorded) for task in tasks}

    def next_task(self) -> str | None:
        """The task with the fewest attempts that wants more; None where all have enough."""
        limits = self._limits
        most = limits.most_attempts * limits.per_task
        wanting = [
            task
            for task, tried in self._tried.items()
            if limits.minutes is not None or (self._counted[task] < limits.per_task and tried < most)
        ]
        return min(wanting, key=lambda task: self._tried[task], default=None)

    def add(self, task: str, found: Done) -> None:
        if found.episode.ended in ("discard", "quit"):
            return  # the same start once more
        self._tried[task] += 1
        self.seeds[task] += 1
        if self._limits.counts is None:
            self._counted[task] += 1
        elif found.episode.path is not None:
            self._counted[task] += self._limits.counts(read_facts(found.episode.path)[0])


class _Runner:
    """The episodes of one session."""

    def __init__(
        self, config: Config, rig: Rig, session: Session, root: Path, purpose: Purpose, checkpoint: str,
        say: Callable[[str], None], stopping: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._config, self._rig, self._session, self._root = config, rig, session, root
        self._purpose, self._checkpoint, self._say, self._stopping = purpose, checkpoint, say, stopping
        self.memory: dict[str, list[tuple[float, float]]] = {}
        self.films: dict[str, Path] = {}
        self._began = time.monotonic()
        self._measured = -np.inf

    def run(self, limits: Limits, log: Callable[[int, Mapping[str, Any]], None]) -> list[Done]:
        """Tasks in turns until there are enough, time is up or the person has had enough."""
        until = None if limits.minutes is None else self._began + 60.0 * limits.minutes
        quota = _Quota(tuple(self._config.rig.tasks), limits, self._recorded(limits))
        done: list[Done] = []
        while not self._stopping() and not (until is not None and time.monotonic() >= until):
            task = quota.next_task()
            if task is None:
                break
            found = self._one(task, self._config.episode.first_seed + quota.seeds[task], until)
            quota.add(task, found)
            if found.episode.ended == "quit":
                break
            if found.episode.ended != "discard":
                done.append(found)
                log(len(done), _facts(found))
                self._say(_line(found))
        return done

    def _recorded(self, limits: Limits) -> list[EpisodeMetadata]:
        """Earlier episodes that this call goes on from."""
        if limits.counts is None or not self._root.is_dir():
            return []
        facts = [read_facts(path)[0] for path in list_episodes(self._root)]
        return [fact for fact in facts if fact.source == self._purpose.source and fact.round == self._purpose.round]

    def _one(self, task: str, seed: int, until: float | None) -> Done:
        config, episode_id = self._config, self._free_id(task, seed)
        horizon = self._rig.prepare(self._session, task, seed, self._say)
        limit = config.episode.max_seconds or horizon or float("inf")
        self._say(f"{task}, seed {seed}: begins")
        frames: list[np.ndarray] = []
        filmed = (
            self._rig.world is not None and sum(task in name for name in self.films) < config.episode.videos_per_task
        )
        every = 1.0 / FILM_HZ

        def watch(seconds: float) -> bool:
            self._measure_memory()
            self._rig.attend(self._session)
            if filmed and self._rig.world is not None and seconds >= len(frames) * every:
                who = "person" if self._session.control.latest.is_intervention else "policy"
                frames.append(control_overlay(self._rig.world.film(*FILM_SIZE), who))
            return not self._stopping() and (until is None or time.monotonic() < until)

        draft = self._draft(task, seed, episode_id)
        episode = self._session.run_episode(
            draft, self._rig.instructions[task], limit, watch=watch, from_takeover=self._purpose.demonstrates
        )
        failure = "" if episode.success == 1 else self._rig.judge(episode.ended)
        if frames and episode.path is not None:
            self.films[episode_id] = self._film(episode_id, frames)
        return Done(task, seed, episode_id, episode, failure)

    def _draft(self, task: str, seed: int, episode_id: str) -> EpisodeMetadata:
        simulated = self._rig.world is not None
        return EpisodeMetadata(
            episode_id=episode_id, task=task, success=-1, source=self._purpose.source, round=self._purpose.round,
            policy=self._checkpoint, operator="simulated person" if simulated else self._config.episode.operator,
            robot=self._rig.spec.name, seed=seed, takeovers=0, max_takeover_jump=0.0,
        )  # fmt: skip

    def _free_id(self, task: str, seed: int) -> str:
        name = f"{self._purpose.prefix}-{task}-{seed:07d}"
        taken = {path.name for path in list_episodes(self._root)} if self._root.is_dir() else set()
        names = (name if k == 0 else f"{name}-{k}" for k in range(len(taken) + 1))
        return next(free for free in names if free not in taken)

    def _film(self, episode_id: str, frames: list[np.ndarray]) -> Path:
        path = self._root.parent / "videos" / f"{episode_id}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_video(path, frames, round(FILM_HZ))
        write_picture(path.with_suffix(".jpg"), frames[-1])
        return path

    def _measure_memory(self) -> None:
        now = time.monotonic()
        if now - self._measured < MEMORY_EVERY_S:
            return
        self._measured = now
        pids = {"control": os.getpid(), "recorder": self._session.recorder.pid}
        if self._session.policy is not None:
            pids["policy"] = self._session.policy.pid
        if self._rig.world is not None:
            pids["simulator"] = self._rig.world.pid
        for name, pid in pids.items():
            megabytes = resident_mb(pid)
            if megabytes is not None:
                self.memory.setdefault(name, []).append((round(now - self._began, 1), round(megabytes, 1)))


def resident_mb(pid: int) -> float | None:
    """Megabytes of memory that a process holds; None where the system does not say."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 1e6
    except (OSError, IndexError, ValueError):
        return None


def _facts(found: Done) -> dict[str, Any]:
    episode = found.episode
    return {
        "episode_seconds": episode.seconds,
        "success": int(found.success),
        "takeovers": len(episode.takeovers),
        "interventions": len(episode.interventions),
    }


def _line(found: Done) -> str:
    episode, outcome = found.episode, "success" if found.success else found.failure or found.episode.ended
    return (
        f"{found.task}, seed {found.seed}: {outcome} after {episode.seconds:.1f} s, {len(episode.takeovers)} "
        f"takeovers, {len(episode.interventions)} interventions of the safety layer"
    )
