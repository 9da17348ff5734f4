"""The loops of a robot at work: control at the hand's rate, the observer at the policy's, both on absolute deadlines.

    policy process  <- observation -  observer thread (20 Hz)  - steps ->  recorder process
                    -  plan ->        control thread (90 Hz: hand every tick, arm every third)  -> actuators

`Session` starts and ends them, keeps policy and recorder alive, reconnects lost devices, and runs episodes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dexhil.control.executor import plan_seed
from dexhil.control.takeover import Mode
from dexhil.schema import EpisodeMetadata, Observation, Step
from hardware.devices.base import DeviceError
from hardware.runtime.changes import Change
from hardware.runtime.control import ARRIVED_RAD, Control, Phase, Snapshot
from hardware.runtime.loops import Loops
from hardware.runtime.policy_process import PolicyProcess, Question
from hardware.runtime.recording import Recorder
from hardware.runtime.upkeep import Upkeep
from hardware.runtime.watch import check_device

SUPERVISE_S = 0.02
REST_S = 0.5  # long enough to come to rest
ENDS = {"success": 1, "failure": 0, "discard": -1, "quit": -1}  # what a person presses, and the success it means


class Observer:
    """Observations for the policy, and the steps of a recorded episode: each with what was commanded at its time."""

    def __init__(self, control: Control, policy: PolicyProcess | None, recorder: Recorder) -> None:
        self._control, self._policy, self._recorder = control, policy, recorder
        self._pending: tuple[Observation, float] | None = None
        self._began: float | None = None
        self.instruction, self.seed, self.steps, self._ticks = "", 0, 0, -1

    def begin(self, now: float, instruction: str, seed: int) -> None:
        """Records from the next tick on."""
        self.instruction, self.seed, self.steps, self._pending = instruction, seed, 0, None
        self._began = now

    def end(self) -> None:
        self._began = None

    def tick(self, now: float) -> None:
        began = self._began
        observation = self._observe(now, now - (began or 0.0))
        if began is not None and self._pending is not None:
            self._recorder.step(_step(self._pending[0], self._control.since(self._pending[1])))
            self.steps += 1
        self._pending = None if began is None or observation is None or now <= began else (observation, now)
        self._ticks = self._ticks + 1 if self._control.latest.phase is Phase.RUNNING else -1
        if observation is not None and self._policy is not None and (request := self._control.policy.request(now)):
            self._policy.ask(Question(observation, request, plan_seed(self.seed, max(self._ticks, 0))))

    def _observe(self, now: float, timestamp: float) -> Observation | None:
        control, settings = self._control, self._control.safety.settings
        devices = [control.arm, control.hand, *control.cameras.values()]
        found = [check_device(device, now, settings) for device in devices]
        if any(fault for _, fault in found):
            return None
        arm, hand, *images = [reading.value for reading, _ in found if reading is not None]
        q_arm, q_hand, pose_base_ee = (np.asarray(value, np.float32) for value in (arm.q, hand, arm.pose_base_ee))
        return Observation(
            dict(zip(control.cameras, images, strict=True)), q_arm, q_hand, pose_base_ee, timestamp, self.instruction
        )


def _step(observation: Observation, latest: Snapshot) -> Step:
    return Step(
        observation, latest.command, policy_action=latest.policy_action, is_intervention=latest.is_intervention,
        is_commanded=latest.is_commanded,
    )  # fmt: skip


@dataclasses.dataclass
class Episode:
    """What came of one.

    Attributes:
        success: 1, 0, or -1 where nobody said.
        ended: "success", "failure", "discard", "quit", "time", or what broke.
        control: (start s, end s, "policy" | "person" | "nobody").
        path: None where it was not kept.
    """

    success: int
    ended: str
    seconds: float
    changes: list[Change]
    interventions: list[dict[str, Any]]
    control: list[tuple[float, float, str]]
    path: Path | None = None

    def max_jump(self, kind: str) -> float:
        return max((jump for jump, _ in self.jumps(kind)), default=0.0)

    def jumps(self, kind: str) -> list[tuple[float, float]]:
        """rad, of every change of control of that kind: largest joint's, Euclidean norm."""
        return [(change.asked.max, change.asked.l2) for change in self.changes if change.kind == kind]


class Quit(Exception):
    """The person has had enough, or asked the command to stop."""


class Session:
    """A robot, its loops and its helpers, as a context manager; `say` gets all messages, outside the control loop."""

    def __init__(
        self, control: Control, policy: PolicyProcess | None, recorder: Recorder, say: Callable[[str], None] = print
    ) -> None:
        self.control, self.policy, self.recorder, self._say = control, policy, recorder, say
        self.observer = Observer(control, policy, recorder)
        self.loops, self.upkeep = Loops(control, self.observer.tick), Upkeep(control, policy, say)
        self.stopping: Callable[[], bool] = lambda: False
        self.broken = ""
        self.identity: dict[str, Any] = {}
        self._changes, self._interventions = list[Change](), list[dict[str, Any]]()

    def __enter__(self) -> Session:
        with contextlib.ExitStack() as started:  # whatever fails, what was started is stopped, in reverse order
            started.callback(self.recorder.stop)
            self.recorder.start()
            if self.recorder.fault:
                raise DeviceError(self.recorder.fault)
            if self.policy is not None:
                started.callback(self.policy.stop)
                self.policy.start()
            for device in self.devices():
                started.callback(device.stop)
                device.connect()
            if self.policy is not None:
                self.identity = self.policy.wait_until_ready()
            started.callback(self.loops.stop)
            self.loops.start()
            started.callback(self._come_to_rest)
            self._started = started.pop_all()
        self._say(f"scheduling of the loops: {self.loops.scheduling}")
        return self

    def __exit__(self, *_: object) -> None:
        self._started.close()

    def _come_to_rest(self) -> None:
        self.control.request(Phase.IDLE)
        time.sleep(REST_S)

    def devices(self) -> list[Any]:
        control, teleop = self.control, self.control.teleop
        return [control.arm, control.hand, *control.cameras.values(), teleop.tracker, teleop.glove, teleop.operator]

    def loop_stats(self) -> dict[str, dict[str, Any]]:
        """Rate and jitter of every loop since the start."""
        report = self.policy.newest() if self.policy is not None else None
        return ({"policy": report.stats} if report is not None and report.stats else {}) | self.loops.stats()

    def go_to(self, phase: Phase, timeout_s: float = 5.0) -> None:
        """Changes the phase and waits until the control loop is in it. Raises DeviceError where it does not follow."""
        self.control.request(phase)
        self.wait(lambda: self.control.latest.phase is phase, f"the control loop to be {phase.value}", timeout_s)

    def home(self, timeout_s: float = 60.0) -> None:
        """Slowly to the home pose; returns at rest there."""
        self.control.request(Phase.HOMING)
        self.wait(self._at_home, "the robot to arrive at home", timeout_s)

    def _at_home(self) -> bool:
        latest = self.control.latest
        away = np.abs(latest.command - self.control.spec.home).max()
        return latest.phase is Phase.IDLE and bool(away < 2 * ARRIVED_RAD)

    def wait_for_event(self, wanted: str) -> None:
        """Waits, as long as it takes, until the person presses `wanted`. Raises Quit on "quit"."""
        self._pressed(())
        while (event := self._pressed((wanted, "quit"))) != wanted:
            if event or self.stopping():
                raise Quit
            self.supervise()
            time.sleep(SUPERVISE_S)

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Waits for `condition`. Raises DeviceError, with why the robot holds, where it does not come true."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                why = self.control.latest.holding
                raise DeviceError(f"waited {timeout_s:.0f} s for {what}" + (f"; {why}" if why else ""))
            self.supervise()
            time.sleep(SUPERVISE_S)

    def run_episode(
        self, draft: EpisodeMetadata, instruction: str, max_seconds: float, *,
        watch: Callable[[float], bool] = lambda seconds: True, from_takeover: bool = False,
    ) -> Episode:  # fmt: skip
        """Records one episode until a person (or a rig that judges itself) ends it, time is up or something breaks.

        Where the session cannot go on `broken` says why, and what was recorded is kept.

        Args:
            draft: of the episode's metadata.
            instruction: for the policy.
            max_seconds: then the episode ends as "time".
            watch: called with the seconds so far, some 50 times a second; False ends the episode as "quit".
            from_takeover: time and recording begin when the person first takes over, as in a demonstration.

        Raises:
            DeviceError: nothing can be recorded; before anything moves.
        """
        self._open(draft)
        self._changes, self._interventions, who = [], [], list[tuple[float, str]]()
        self._pressed(())
        self.observer.instruction, self.observer.seed = instruction, draft.seed
        self.control.request(Phase.RUNNING)
        ended = ""
        while from_takeover and not ended and not self.control.latest.is_intervention:
            ended = self._ended(0.0, np.inf, watch, ("discard", "quit"))
        began = time.monotonic()
        if not ended:
            self.observer.begin(began, instruction, draft.seed)
        while not ended:
            seconds = time.monotonic() - began
            who.append((seconds, _in_control(self.control.latest)))
            ended = self._ended(seconds, max_seconds, watch, tuple(ENDS))
        self.observer.end()
        self.control.request(Phase.IDLE)
        time.sleep(0.1)
        self._take_messages(all_interventions=True)
        return self._finish(draft, began, ended, who, from_takeover)

    def _open(self, draft: EpisodeMetadata) -> None:
        if self.recorder.poll():
            self.recorder.start()
        self.recorder.open(draft)
        if self.recorder.fault:
            raise DeviceError(self.recorder.fault)

    def _ended(
        self, seconds: float, max_seconds: float, watch: Callable[[float], bool], presses: tuple[str, ...]
    ) -> str:
        time.sleep(SUPERVISE_S)
        try:
            self.supervise()
            goes_on = watch(seconds)
        except DeviceError as error:
            self.broken = str(error)
            return self.broken
        pressed = self._pressed(presses) or self.recorder.fault
        return pressed or ("time" if seconds > max_seconds else "" if goes_on else "quit")

    def _pressed(self, wanted: tuple[str, ...]) -> str:
        while not self.control.events.empty():
            event = self.control.events.get()
            if event in wanted:
                return event
        return ""

    def _finish(
        self, draft: EpisodeMetadata, began: float, ended: str, who: list[tuple[float, str]], from_takeover: bool
    ) -> Episode:
        success = 0 if ended == "time" else ENDS.get(ended, -1)
        changes = [change.played() for change in self._changes[int(from_takeover) :]]
        episode = Episode(success, ended, who[-1][0] if who else 0.0, changes, self._interventions, _stretches(who))
        if ended in ("discard", "quit") or not who or self.observer.steps == 0:
            self.recorder.abandon()
            return episode
        spans = [span | {key: span[key] - began for key in ("begin", "end")} for span in self._interventions]
        self.recorder.events(spans)
        if not self.recorder.poll():
            jump, takeovers = episode.max_jump("takeover"), len(episode.jumps("takeover"))
            episode.path = self.recorder.finish(
                dataclasses.replace(draft, success=success, takeovers=takeovers, max_takeover_jump=jump)
            )
        if self.recorder.fault:
            self._say(self.recorder.fault)
            self._say(self.recorder.salvage())
            self.control.watch.outside = {}
        return episode

    def supervise(self) -> None:
        """One round beside the loops: messages, helpers, lost devices; DeviceError where the session cannot go on."""
        self._take_messages()
        self.loops.check()
        fault = self.recorder.poll()
        self.control.watch.outside = {"recorder": fault} if fault else {}
        self.upkeep.look_after(time.monotonic())

    def _take_messages(self, *, all_interventions: bool = False) -> None:
        control = self.control
        while control.messages.told:
            self._say(control.messages.told.popleft()[1])
        self._changes += control.changes.take()
        if all_interventions:
            control.request_log()
            time.sleep(0.05)
        while not control.messages.interventions.empty():
            self._interventions.append(control.messages.interventions.get())


def _in_control(latest: Snapshot) -> str:
    if latest.is_intervention:
        return "person"
    return "policy" if latest.mode is Mode.AUTONOMOUS else "nobody"


def _stretches(who: list[tuple[float, str]]) -> list[tuple[float, float, str]]:
    starts = [next(run) for _, run in itertools.groupby(who, key=lambda look: look[1])]
    ends = [seconds for seconds, _ in [*starts[1:], *who[-1:]]]
    return [(start, end, name) for (start, name), end in zip(starts, ends, strict=True)]
