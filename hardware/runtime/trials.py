"""Episodes one after the other on a session: tasks in turns, seeds upwards, messages to the person, films, memory."""

import dataclasses
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dexhil.commands import to_json
from dexhil.config import Config
from dexhil.episodes.recorder import list_episodes
from dexhil.evaluation.rollout import Policy
from dexhil.fit import check_fits, rig_interface
from dexhil.progress import stop_requested
from dexhil.schema import EpisodeMetadata, Source
from hardware.devices.base import DeviceError
from hardware.runtime.done import Done, done_of, keep, read_done, run_of
from hardware.runtime.films import Films
from hardware.runtime.policy_process import PolicyProcess
from hardware.runtime.recording import Recorder
from hardware.runtime.rig import Rig, make_rig
from hardware.runtime.session import Quit, Session

LARGEST_IMAGE = 3 * 1920 * 1080
FREE = ("trials", "videos_per_task")  # keys of the config's `episode` that change no outcome


@dataclasses.dataclass(frozen=True)
class Limits:
    """Episodes: `per_task`, or what goes into `minutes`; those that `counts`, of `max_attempts` per wanted one."""

    per_task: int
    minutes: float | None = None
    counts: Callable[[Done], bool] = lambda done: done.success >= 0
    max_attempts: int = 5


@dataclasses.dataclass(frozen=True)
class Purpose:
    """What episodes are for; a `scored` one counts only with those of the same checkpoint, rig and config."""

    source: Source = "online"
    round: int = 0
    prefix: str = "eval"
    scored: bool = True


@dataclasses.dataclass(frozen=True)
class Trials:
    """What a run came to; `done` has earlier calls' episodes too, `error` says why it could not go on, or ""."""

    tasks: tuple[str, ...]
    done: list[Done]
    loops: dict[str, dict[str, Any]]
    scheduling: str
    checkpoint: str
    policy_restarts: int
    error: str = ""
    interrupted: bool = False


def run_trials(
    config: Config, kind: str, workdir: Path, *, policy: Callable[[], Policy] | None, limits: Limits,
    purpose: Purpose = Purpose(), on_done: Callable[[Done], None] = lambda done: None,
    say: Callable[[str], None] = lambda text: print(text, flush=True),
) -> Trials:  # fmt: skip
    """Runs and records episodes under `workdir`/episodes with the config's rig (kind: "real" or "sim").

    The picklable factory `policy` is None where a person does all; `on_done` is called after each episode.

    Raises:
        ConfigError: rig and policy do not fit.
        DeviceError: they do not work.
    """
    rig = make_rig(config, kind)
    process = None
    if policy is not None:
        process = PolicyProcess(policy, hz=config.rates.policy_hz, image_bytes=LARGEST_IMAGE * len(config.rig.cameras))
    recorder = Recorder(workdir / "episodes", control_hz=config.rates.policy_hz)
    control = rig.control(config, process)
    say("connecting; a policy takes a while to load")
    with Session(control, process, recorder, say) as session, stop_requested("ending this episode") as stopping:
        session.stopping = stopping
        checkpoint = check_policy(session, config)
        runner = _Runner(config, kind, rig, session, workdir, purpose, checkpoint, say)
        error = ""
        try:
            runner.run(limits, on_done)
        except Quit:
            pass
        except DeviceError as failed:
            error = str(failed)
        return Trials(
            tuple(config.rig.tasks), runner.done, session.loop_stats(), session.loops.scheduling, checkpoint,
            session.upkeep.restarts, error, stopping(),
        )  # fmt: skip


def check_policy(session: Session, config: Config) -> str:
    """The checkpoint's id, "" without a policy. Raises ConfigError where it does not fit, see `fit.check_fits`."""
    if session.policy is None:
        return ""
    info = session.identity.get("info")
    if info is not None:
        check_fits(info, rig_interface(config.rig.robot, config.rig.cameras, config.rates.policy_hz))
    return session.identity["checkpoint_id"]


def next_task(tasks: Sequence[str], limits: Limits, earlier: Sequence[Done], new: Sequence[Done]) -> str | None:
    """The task with the fewest attempts in this call that wants more; None where all have enough."""
    tried = Counter(done.task for done in new)
    counted = Counter(done.task for done in [*earlier, *new] if limits.counts(done))
    most = limits.max_attempts * limits.per_task
    wanting = [task for task in tasks if counted[task] < limits.per_task and tried[task] < most]
    return min(tasks if limits.minutes is not None else wanting, key=lambda task: tried[task], default=None)


class _Runner:
    """The episodes of one session. done: with those of earlier calls that belong to them."""

    def __init__(
        self, config: Config, kind: str, rig: Rig, session: Session, workdir: Path, purpose: Purpose, checkpoint: str,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._config, self._rig, self._session, self._workdir = config, rig, session, workdir
        self._purpose, self._checkpoint, self._say = purpose, checkpoint, say
        self._run = _identity(config, kind, checkpoint) if purpose.scored else run_of(purpose.source, purpose.round)
        self.done = read_done(workdir, self._run) if purpose.scored else read_done(workdir)
        self.films = Films(rig, workdir / "videos", config.episode.videos_per_task)

    def run(self, limits: Limits, on_done: Callable[[Done], None]) -> None:
        """Tasks in turns until there are enough, time is up or the person has had enough; or Quit, DeviceError."""
        until = time.monotonic() + 60.0 * limits.minutes if limits.minutes is not None else float("inf")
        earlier = [done for done in self.done if done.run == self._run]
        if earlier:
            self._say(f"{len(earlier)} episodes are there already; going on")
        tasks, new = self._config.rig.tasks, list[Done]()
        while not self._over(until) and (task := next_task(tasks, limits, earlier, new)) is not None:
            number = sum(done.task == task for done in [*earlier, *new])  # no start is met twice
            found = self._one(task, self._config.episode.first_seed + number, until)
            if found.ended == "quit":
                break
            if found.ended != "discard":  # else the same start once more
                new.append(found)
                self.done.append(found)
                keep(self._workdir, found)
                on_done(found)
                self._say(_line(found))
            if self._session.broken:
                raise DeviceError(self._session.broken)

    def _one(self, task: str, seed: int, until: float) -> Done:
        session, episode_id = self._session, self._free_id(task, seed)
        horizon = self._rig.prepare(session, task, seed, self._say)
        limit = self._config.episode.max_seconds or horizon or float("inf")
        self._say(f"{task}, seed {seed}: begins")
        self.films.begin()

        def watch(seconds: float) -> bool:
            self._rig.attend(session)
            self.films.watch(seconds, "person" if session.control.latest.is_intervention else "policy")
            return not self._over(until)

        episode = session.run_episode(
            self._draft(task, seed, episode_id), self._rig.instructions[task], limit, watch=watch,
            from_takeover=self._purpose.source == "offline",  # a demonstration
        )  # fmt: skip
        failure = "" if episode.success == 1 or session.broken else self._rig.judge(episode.ended)
        if episode.path is not None:
            self.films.keep(task, episode_id, episode.success != 1)
        return done_of(episode, task=task, seed=seed, episode_id=episode_id, failure=failure, run=self._run)

    def _draft(self, task: str, seed: int, episode_id: str) -> EpisodeMetadata:
        simulated = self._rig.world is not None
        return EpisodeMetadata(
            episode_id=episode_id, task=task, success=-1, source=self._purpose.source, round=self._purpose.round,
            policy=self._checkpoint, operator="simulated person" if simulated else self._config.episode.operator,
            robot=self._rig.spec.name, seed=seed, takeovers=0, max_takeover_jump=0.0,
        )  # fmt: skip

    def _free_id(self, task: str, seed: int) -> str:
        root, name = self._workdir / "episodes", f"{self._purpose.prefix}-{task}-{seed:07d}"
        taken = {path.name for path in list_episodes(root)} if root.is_dir() else set()
        names = (name if k == 0 else f"{name}-{k}" for k in range(len(taken) + 1))
        return next(free for free in names if free not in taken)

    def _over(self, until: float) -> bool:
        return self._session.stopping() or time.monotonic() >= until


def _identity(config: Config, kind: str, checkpoint: str) -> str:
    plain: dict[str, Any] = to_json(config)
    plain["episode"] = {key: value for key, value in plain["episode"].items() if key not in FREE}
    text = json.dumps([kind, checkpoint, plain], sort_keys=True)
    return f"eval {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def facts_of(found: Done) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    return {
        "episode_seconds": found.seconds,
        "success": int(found.succeeded),
        "takeovers": found.takeovers,
        "interventions": sum(found.causes.values()),
    }


def _line(found: Done) -> str:
    outcome = "success" if found.succeeded else found.failure or found.ended
    return (
        f"{found.task}, seed {found.seed}: {outcome} after {found.seconds:.1f} s, {found.takeovers} "
        f"takeovers, {sum(found.causes.values())} interventions of the safety layer"
    )
