"""The loops of a robot at work: control at the hand's rate, the observer at the policy's, both on absolute deadlines.

    policy process  <- observation -  observer thread (20 Hz)  - steps ->  recorder process
                    -  plan ->        control thread (90 Hz: hand every tick, arm every third)  -> actuators

`Session` starts and ends them, keeps policy and recorder alive, reconnects lost devices, and runs episodes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dexhil.control.takeover import Mode
from dexhil.episodes.recorder import repair
from dexhil.evaluation.rollout import plan_seed
from dexhil.schema import EpisodeMetadata, Observation, Step
from hardware.devices.base import DeviceError
from hardware.runtime.control import ARRIVED_RAD, Change, Control, Phase, Snapshot
from hardware.runtime.pace import LoopStats, Pace
from hardware.runtime.policy_process import PolicyProcess, Request
from hardware.runtime.recording import Recorder
from hardware.runtime.safety import check_device

SUPERVISE_S = 0.02
RECONNECT_S = 2.0


class Observer:
    """Observations for the policy, and the steps of a recorded episode: each with what came of it a period later."""

    def __init__(self, control: Control, policy: PolicyProcess | None, recorder: Recorder) -> None:
        self._control, self._policy, self._recorder = control, policy, recorder
        self._pending: tuple[Observation, float] | None = None
        self._began: float | None = None
        self.instruction, self.seed, self.steps = "", 0, 0

    def begin(self, now: float, instruction: str, seed: int) -> None:
        """Records from the next tick on."""
        self.instruction, self.seed, self.steps, self._pending = instruction, seed, 0, None
        self._began = now

    def end(self) -> None:
        self._began = None

    def tick(self, now: float) -> None:
        began, latest = self._began, self._control.latest
        observation = self._observe(now, now - (began or 0.0))
        if began is not None and self._pending is not None:
            self._recorder.step(_step(self._pending[0], latest))
            self.steps += 1
        self._pending = None if began is None or observation is None or now <= began else (observation, now)
        if observation is not None and self._policy is not None:
            seed = plan_seed(self.seed, latest.epoch)  # the same noise between two takeovers: plans agree
            self._policy.ask(Request(observation, now, latest.epoch, seed))

    def _observe(self, now: float, timestamp: float) -> Observation | None:
        """What the devices say, None where one of them says nothing that can be trusted."""
        control, settings = self._control, self._control.safety.settings
        devices = [control.arm, control.hand, *control.cameras.values()]
        found = [check_device(device, now, settings) for device in devices]
        if any(fault for _, fault in found):
            return None
        values = [reading.value for reading, _ in found if reading is not None]
        arm, hand, *images = values
        return Observation(
            images=dict(zip(control.cameras, images, strict=True)),
            q_arm=np.asarray(arm.q, np.float32),
            q_hand=np.asarray(hand, np.float32),
            pose_base_ee=np.asarray(arm.pose_base_ee, np.float32),
            timestamp=timestamp,
            language_instruction=self.instruction,
        )


def _step(observation: Observation, latest: Snapshot) -> Step:
    return Step(observation, latest.command, policy_action=latest.policy_action, is_intervention=latest.is_intervention)


@dataclasses.dataclass
class Episode:
    """What came of one. success: 1, 0, -1 where nobody said. ended: "success", "failure", "discard", "quit", "time", or
    what broke. control: (start s, end s, "policy" | "person" | "nobody"). path: None where it was not kept.
    """

    success: int
    ended: str
    seconds: float
    changes: list[Change]
    interventions: list[dict[str, Any]]
    control: list[tuple[float, float, str]]
    path: Path | None = None

    @property
    def takeovers(self) -> list[Change]:
        return [change for change in self.changes if change.kind == "takeover"]

    def max_jump(self, kind: str) -> float:
        return max((jump for jump, _ in self.jumps(kind)), default=0.0)

    def jumps(self, kind: str) -> list[tuple[float, float]]:
        """rad, of every change of control of that kind: largest joint's, Euclidean norm."""
        return [(change.asked.max, change.asked.l2) for change in self.changes if change.kind == kind]

    def human_seconds(self) -> float:
        return sum(end - begin for begin, end, who in self.control if who == "person")


class Session:
    """A robot, its loops and its helpers. Use it as a context manager.

    say: gets every message for the person, outside the control loop.
    """

    def __init__(
        self, control: Control, policy: PolicyProcess | None, recorder: Recorder, say: Callable[[str], None] = print
    ) -> None:
        self.control, self.policy, self.recorder, self._say = control, policy, recorder, say
        self.observer = Observer(control, policy, recorder)
        settings = control.settings
        self._per_arm = round(settings.hand_hz / settings.arm_hz)
        self.hand_pace, self.observer_pace = Pace(settings.hand_hz), Pace(settings.policy_hz)
        self.arm_stats = LoopStats(settings.arm_hz)
        self.causes: Counter[str] = Counter()
        self.policy_restarts = 0
        self._running = threading.Event()
        self._threads: list[threading.Thread] = []
        self._reconnecting: threading.Thread | None = None
        self._policy_told, self._changes, self._interventions = "", deque(), deque()
        self._switch = sys.getswitchinterval()

    def __enter__(self) -> Session:
        with contextlib.ExitStack() as started:  # what fails on the way leaves nothing running
            started.callback(self.recorder.stop)
            self.recorder.start()
            if self.policy is not None:
                started.callback(self.policy.stop)
                self.policy.start()
            for device in self.devices():
                started.callback(device.stop)
                device.connect()
            if self.policy is not None:
                self.identity = self.policy.wait_until_ready()
            self._started = started.pop_all()
        sys.setswitchinterval(0.0005)  # control is not to wait for another thread's share
        gc.collect()
        gc.freeze()  # what lives for the whole run is not looked through again
        self._running.set()
        self._threads = [
            threading.Thread(target=self._guarded, args=(loop,), name=name, daemon=True)
            for name, loop in (("control", self._control_loop), ("observer", self._observer_loop))
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.control.request(Phase.IDLE)
        time.sleep(0.5 if self._running.is_set() else 0.0)  # long enough to come to rest
        self._running.clear()
        for thread in self._threads:
            thread.join(2.0)
        sys.setswitchinterval(self._switch)
        self._started.close()

    def devices(self) -> list[Any]:
        control, teleop = self.control, self.control.teleop
        return [control.arm, control.hand, *control.cameras.values(), teleop.tracker, teleop.glove, teleop.operator]

    def loops(self) -> dict[str, dict[str, Any]]:
        """Rate and jitter of every loop since the start."""
        found = {"arm": self.arm_stats.summary(), "hand": self.hand_pace.stats.summary()}
        found["observer"] = self.observer_pace.stats.summary()
        report = self.policy.newest() if self.policy is not None else None
        return {"policy": report.stats, **found} if report is not None and report.stats else found

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
        return latest.phase is Phase.IDLE and bool(
            np.abs(latest.command - self.control.spec.home).max() < 2 * ARRIVED_RAD
        )

    def wait_for_event(self, wanted: str) -> None:
        """Waits, as long as it takes, until the person presses `wanted`. Raises KeyboardInterrupt on "quit"."""
        self._drain_events()
        while True:
            self.supervise()
            while not self.control.events.empty():
                event = self.control.events.get()
                if event == "quit":
                    raise KeyboardInterrupt
                if event == wanted:
                    return
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
        self,
        draft: EpisodeMetadata,
        instruction: str,
        max_seconds: float,
        *,
        watch: Callable[[float], bool] = lambda seconds: True,
        from_takeover: bool = False,
    ) -> Episode:
        """Records one episode until a person (or a rig that judges itself) ends it, time is up or recording breaks.

        watch: called with the seconds so far, some 50 times a second; False ends the episode as "quit". from_takeover:
        time and recording begin when the person first takes over, as in a demonstration.
        """
        if self.recorder.poll():
            self.recorder.start()
        self._changes.clear()
        self._interventions.clear()
        self._drain_events()
        self.observer.instruction = instruction
        self.recorder.open(draft)
        self.control.request(Phase.RUNNING)
        while from_takeover and not self.control.latest.is_intervention and watch(0.0):
            self.supervise()
            time.sleep(SUPERVISE_S)
        began = time.monotonic()
        self.observer.begin(began, instruction, draft.seed)
        who: list[tuple[float, str]] = []
        ended = ""
        while not ended:
            time.sleep(SUPERVISE_S)
            seconds = time.monotonic() - began
            self.supervise()
            who.append((seconds, _in_control(self.control.latest)))
            ended = self._ended(seconds, max_seconds) or ("" if watch(seconds) else "quit")
        self.observer.end()
        self.control.request(Phase.IDLE)
        time.sleep(0.1)
        self.supervise(all_interventions=True)
        return self._finish(draft, began, ended, who, from_takeover)

    def _ended(self, seconds: float, max_seconds: float) -> str:
        """Why the episode is over, "" while it is not."""
        while not self.control.events.empty():
            event = self.control.events.get()
            if event in ("success", "failure", "discard", "quit"):
                return event
        if self.recorder.fault:
            return self.recorder.fault
        return "time" if seconds > max_seconds else ""

    def _finish(
        self, draft: EpisodeMetadata, began: float, ended: str, who: list[tuple[float, str]], from_takeover: bool
    ) -> Episode:
        success = {"success": 1, "failure": 0, "time": 0}.get(ended, -1)
        changes, spans = list(self._changes)[int(from_takeover) :], list(self._interventions)
        episode = Episode(success, ended, who[-1][0], changes, spans, _stretches(who))
        if ended in ("discard", "quit") or self.observer.steps == 0:
            self.recorder.abandon()
            return episode
        for span in spans:
            self.recorder.event(span | {"begin": span["begin"] - began, "end": span["end"] - began})
        if not self.recorder.poll():
            jump = episode.max_jump("takeover")
            takeovers = len(episode.takeovers)
            done = dataclasses.replace(draft, success=success, takeovers=takeovers, max_takeover_jump=jump)
            episode.path = self.recorder.finish(done)
        if self.recorder.fault:
            self._say(self.recorder.fault)
            self._salvage()
        return episode

    def _salvage(self) -> None:
        """What a broken recorder left becomes an episode, as far as it was written."""
        self.recorder.start()
        self.control.outside = {}
        try:
            for line in repair(self.recorder.root).lines():
                self._say(f"repair: {line}")
        except (OSError, ValueError) as error:
            self._say(f"repair of {self.recorder.root} failed: {error}")

    def supervise(self, *, all_interventions: bool = False) -> None:
        """One round beside the loops: messages to the person, helpers kept alive, devices reconnected."""
        control, now = self.control, time.monotonic()
        if not all(thread.is_alive() for thread in self._threads):
            raise DeviceError(f"a control loop died: {self._broken}")
        while control.told:
            self._say(control.told.popleft()[1])
        while not control.changes.empty():
            self._changes.append(control.changes.get())
        if all_interventions:
            control.request_log()
            time.sleep(0.05)
        while not control.interventions.empty():
            span = control.interventions.get()
            self.causes[span["cause"]] += 1
            self._interventions.append(span)
        fault = self.recorder.poll()
        outside = {"recorder": fault} if fault else {}
        control.outside = outside
        self._keep_policy(now)
        self._reconnect()

    def _keep_policy(self, now: float) -> None:
        """A policy process that ended or hangs is started again; control holds meanwhile, for want of a plan."""
        fault = self.policy.fault(now) if self.policy is not None else ""
        if fault and self.policy is not None:
            self._say(f"{fault}; it is started again")
            self.policy_restarts += 1
            self.policy.start()

    def _reconnect(self) -> None:
        """A lost device is closed and opened again in a thread of its own, until it works."""
        lost = [getattr(self.control, name) for name in list(self.control.lost)]
        busy = self._reconnecting is not None and self._reconnecting.is_alive()
        broken = [device for device in lost if not device.health().ok]
        if broken and not busy:
            self._reconnecting = threading.Thread(target=self._connect_again, args=(broken[0],), daemon=True)
            self._reconnecting.start()

    def _connect_again(self, device: Any) -> None:
        try:
            device.stop()
            device.connect()
            self._say(f"{device.name}: connected again; press clear to go on")
        except DeviceError as error:
            self._say(f"{device.name}: {error}")
            time.sleep(RECONNECT_S)

    def _drain_events(self) -> None:
        while not self.control.events.empty():
            self.control.events.get()

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except Exception as error:
            self._broken = f"{type(error).__name__}: {error}"
            raise

    _broken = ""

    def _control_loop(self) -> None:
        last_arm = -1
        while self._running.is_set():
            index = self.hand_pace.wait()
            now = time.monotonic()
            arm_index = index // self._per_arm
            arm_due = arm_index != last_arm
            if arm_due:
                missed = max(arm_index - last_arm - 1, 0) if last_arm >= 0 else 0
                self.arm_stats.add(now, arm_index / self.control.settings.arm_hz, missed)
                last_arm = arm_index
            self.control.tick(now, arm_due)

    def _observer_loop(self) -> None:
        while self._running.is_set():
            self.observer_pace.wait()
            self.observer.tick(time.monotonic())


def _in_control(latest: Snapshot) -> str:
    if latest.is_intervention:
        return "person"
    return "policy" if latest.mode is Mode.AUTONOMOUS else "nobody"


def _stretches(who: list[tuple[float, str]]) -> list[tuple[float, float, str]]:
    """Runs of equal names as (start s, end s, name)."""
    starts = [i for i, (_, name) in enumerate(who) if i == 0 or who[i - 1][1] != name]
    ends = [*starts[1:], len(who) - 1]
    return [(who[a][0], who[b][0], who[a][1]) for a, b in zip(starts, ends, strict=True)]
