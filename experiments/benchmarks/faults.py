"""How fast the asynchronous stack holds the robot after a fault, against the simulator in real time.

    python experiments/benchmarks/faults.py --out FILE.json [--config hardware/configs/fr3_dexhand021.py] [--repeats 3]

A wandering policy (or, for a person's devices, a person in control) moves the robot; then a fault is injected for real:
processes are killed or stopped, devices fall silent, the disk is full. Writes per fault {"held_ms": from the injection
until nobody commands any more, "rest_ms": until the commands stand still, "told": what the person was told,
"recovered": whether commands moved again once the fault was gone}, times as lists of the repeats.
"""

import dataclasses
import functools
import os
import resource
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dexhil.config import read_config_file
from dexhil.control.takeover import Mode
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.schema import ARM_DOF, ActionChunk, EpisodeMetadata, Observation
from experiments.benchmarks.result import parser, write_result
from hardware.devices.base import Health, OperatorState, Stamped
from hardware.runtime.control import Control, Phase
from hardware.runtime.policy_process import PolicyProcess
from hardware.runtime.recording import Recorder
from hardware.runtime.rig import make_rig
from hardware.runtime.session import Session

PATIENCE_S = 180.0
STILL_RAD = 1e-5
SILENT = ("arm", "hand", "scene", "tracker", "glove")  # devices that the simulator can silence
HOLDING = (Mode.HOLD, Mode.ESTOP, Mode.RELEASING)


@dataclasses.dataclass
class FaultyPolicy:
    """Wanders around home at the speed of a demonstration; NaN, or no answer, while a file so named is in `flags`."""

    flags: str
    checkpoint_id: str = "wandering"

    def infer(self, observation: Observation, *, seed: int = 0) -> ActionChunk:
        while (Path(self.flags) / "hang").exists():
            time.sleep(0.01)
        rng = np.random.default_rng([seed, round(1e3 * time.monotonic())])
        t = time.monotonic() + np.arange(16) / 20.0
        phases = np.linspace(0, 5, SPEC.action_dim)
        size = np.r_[np.full(ARM_DOF, 0.12), np.full(SPEC.hand_dof, 0.25)]
        rows = SPEC.home + size * np.sin(2 * np.pi * 0.4 * t[:, None] + phases) + rng.normal(0, 0.005, (1, len(size)))
        actions = np.clip(rows, SPEC.lower, SPEC.upper).astype(np.float32)
        if (Path(self.flags) / "nan").exists():
            actions[2, 3] = np.nan
        return ActionChunk(actions, observation.timestamp)


class Switch:
    """The operator's switch, as the benchmark sets it."""

    name, period_s = "switch", 1.0 / 90.0

    def __init__(self) -> None:
        self.value, self.valid, self._seq = OperatorState(False), True, 0

    def connect(self) -> None:
        """Is always connected."""

    def unplug(self) -> None:
        self.valid = False

    def plug_in(self) -> None:
        self.valid = True

    def read(self) -> Stamped[OperatorState]:
        self._seq += 1
        return Stamped(self.value, time.monotonic(), time.monotonic(), self._seq, self.valid)

    def health(self) -> Health:
        return Health(True)

    def stop(self) -> None:
        """Has nothing to stop."""


class Fault(NamedTuple):
    """inject and mend: at once. person: a person is in control, else the policy."""

    inject: Callable[[], Any]
    mend: Callable[[], Any]
    person: bool = False


class Watched(Control):
    """Keeps what every tick did."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seen: list[tuple[float, Mode, np.ndarray]] = []

    def tick(self, now: float, arm_due: bool = True) -> Any:
        snapshot = super().tick(now, arm_due)
        self.seen.append((time.monotonic(), snapshot.mode, snapshot.command))
        return snapshot


class Bench:
    """One session against the simulator, with a person of the benchmark's."""

    def __init__(self, config_path: Path, folder: Path) -> None:
        config = read_config_file(config_path)
        self.flags, self.said = folder / "flags", []
        self.flags.mkdir()
        self.rig = make_rig(config, "sim")
        self.operator = Switch()
        self.rig.devices["operator"] = self.operator
        make_policy = functools.partial(FaultyPolicy, flags=str(self.flags))
        self.policy = PolicyProcess(make_policy, hz=config.rates.policy_hz, image_bytes=1 << 20, hung_s=2.0)
        self.recorder = Recorder(folder / "episodes", control_hz=config.rates.policy_hz)
        self.control = self.rig.control(config, self.policy, Watched)
        self.session = Session(self.control, self.policy, self.recorder, self.said.append)
        self.task = config.rig.tasks[0]
        assert self.rig.world is not None
        self.world = self.rig.world

    def faults(self) -> dict[str, Fault]:
        """All that is tried, by name."""
        inject, full = self.world.inject, (resource.RLIMIT_FSIZE, (1, 1))
        silent = {name: (functools.partial(inject, name), functools.partial(inject, "")) for name in SILENT}
        nan, hang = self.flags / "nan", self.flags / "hang"
        return {
            "policy process killed (SIGKILL)": Fault(lambda: os.kill(self.policy.pid, signal.SIGKILL), bool),
            "policy process stopped (SIGSTOP)": Fault(lambda: os.kill(self.policy.pid, signal.SIGSTOP), bool),
            "policy returns NaN": Fault(nan.touch, nan.unlink),
            "policy hangs": Fault(hang.touch, hang.unlink),
            "arm silent": Fault(*silent["arm"]),
            "hand silent": Fault(*silent["hand"]),
            "camera frozen": Fault(*silent["scene"]),
            "cube lost, a person in control": Fault(*silent["tracker"], person=True),
            "glove silent, a person in control": Fault(*silent["glove"], person=True),
            "switch unplugged, a person in control": Fault(self.operator.unplug, self.operator.plug_in, person=True),
            "emergency stop": Fault(lambda: self.press("estop"), lambda: self.press("clear_estop")),
            "recorder killed (SIGKILL)": Fault(lambda: os.kill(self.recorder.pid, signal.SIGKILL), self.recorder.start),
            "disk full": Fault(lambda: resource.prlimit(self.recorder.pid, *full), self.recorder.start),
        }

    def press(self, event: str) -> None:
        """Only the next reading has it."""
        self.operator.value = OperatorState(self.operator.value.engage, (event,))
        time.sleep(0.05)
        self.operator.value = OperatorState(self.operator.value.engage)

    def run(self, repeats: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self.session.go_to(Phase.OFF)
        facts = self.world.reset(self.task, 0, person=False)
        self.control.teleop.cube_to_ee = facts["cube_to_ee"]
        for name, fault in self.faults().items():
            rows = [self._one(fault) for _ in range(repeats)]
            found[name] = {key: [row[key] for row in rows] for key in rows[0]}
            print(f"{name}: {found[name]}", flush=True)
        return found

    def _one(self, fault: Fault) -> dict[str, Any]:
        draft = EpisodeMetadata(f"fault-{time.monotonic_ns()}", "none", -1, "online", 0, "", "", SPEC.name, 0, 0, 0.0)
        self.recorder.open(draft)
        self.session.observer.begin(time.monotonic(), "wander", 0)
        self.control.request(Phase.RUNNING)
        self.operator.value = OperatorState(fault.person)
        wanted = Mode.HUMAN if fault.person else Mode.AUTONOMOUS
        self._until(lambda: self.control.latest.mode is wanted and self.session.observer.steps > 4)
        self._pass(0.5)
        self.said.clear()
        self.control.seen.clear()
        at = time.monotonic()
        fault.inject()
        self._until(lambda: any(mode in HOLDING for _, mode, _ in list(self.control.seen)))
        self._pass(0.8)
        seen = list(self.control.seen)
        held = next(t for t, mode, _ in seen if mode in HOLDING)
        result: dict[str, Any] = {"held_ms": round(1e3 * (held - at), 1), "rest_ms": round(1e3 * (_rest(seen) - at), 1)}
        result["told"] = self.said[0] if self.said else ""
        fault.mend()
        self._until(lambda: self.control.latest.mode is wanted, clear=True)
        self.session.observer.end()
        self.recorder.abandon()
        self.operator.value = OperatorState(False)
        self._until(lambda: self.control.latest.mode is Mode.AUTONOMOUS)
        return {**result, "recovered": True}

    def _until(self, condition: Callable[[], bool], *, clear: bool = False) -> None:
        began = time.monotonic()
        while not condition():
            self.session.supervise()
            if clear and self.control.watch.lost:
                self.press("clear_estop")
            if time.monotonic() - began > PATIENCE_S:
                raise TimeoutError(f"never came: {self.control.latest}; said {self.said[-3:]}")
            time.sleep(0.005)

    def _pass(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self._until(lambda: time.monotonic() > end)


def _rest(seen: list[tuple[float, Mode, np.ndarray]]) -> float:
    moved = [now for (now, _, a), (_, _, b) in zip(seen[1:], seen, strict=False) if np.abs(a - b).max() > STILL_RAD]
    return max(moved, default=seen[0][0])


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--config", type=Path, default=Path("hardware/configs/fr3_dexhand021.py"))
    arguments.add_argument("--repeats", type=int, default=3)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options.config, Path(folder))
        with bench.session:
            found = bench.run(options.repeats)
    write_result(options.out, found)


if __name__ == "__main__":
    main()
