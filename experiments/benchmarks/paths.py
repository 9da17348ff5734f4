"""Success of one checkpoint on the simulated trial's path and on the robot's, the same starts, noise and latency.

    python experiments/benchmarks/paths.py --checkpoint runs/demo --out docs/paths.json [--trials 200]
        [--workers 2] [--latency-steps 2] [--config hardware/configs/fr3_dexhand021.py] [--modes replace rtc]

"simulation" is `run_trial`, at the policy's rate. "hardware" is `hardware.runtime.Control` with its observer, limits,
guard and rates (arm 30, hand 90 a second), devices that the simulator stands behind, and a clock of its own, faster
than real time. Writes per path and mode the score, and with paired 95 % intervals the differences hardware - simulation
of each mode and rtc - replace of each path. Goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from dexhil.commands import progress
from dexhil.config import Config, read_config_file
from dexhil.control.executor import ExecutorConfig
from dexhil.evaluation.intervals import compare, score
from dexhil.evaluation.rollout import run_trial
from dexhil.policy import Policy
from dexhil.rig import RigConfig
from dexhil.robots.poses import IDENTITY
from dexhil.schema import ARM_DOF
from dexhil.settings import from_values
from dexhil.sim.rig import SimRig
from dexhil.training.checkpoints import load_meta
from dexhil.workers import use_one_thread, worker_pool
from experiments.benchmarks.result import machine, parser, write_result
from experiments.rigs import make_rig
from hardware.devices.base import ArmState, Health, OperatorState, Stamped
from hardware.runtime.control import Phase
from hardware.runtime.policy_process import Question, Report
from hardware.runtime.rig import Rig
from hardware.runtime.session import Observer
from hardware.simulated.world import STEP_HZ, Target, step_command

PATHS = ("simulation", "hardware")
FIRST_SEED = 1_000_000  # never a seed of a demonstration


class VirtualDevice:
    """Says what `value` was set to, always fresh; an actuator keeps its target for the simulator."""

    def __init__(self, name: str, clock: VirtualRobot, value: Any = None) -> None:
        self.name, self.period_s, self.value, self.target = name, 1.0 / STEP_HZ, value, None
        self._clock, self._seq = clock, 0

    def connect(self) -> None:
        """Is always there."""

    def read(self) -> Stamped[Any]:
        self._seq += 1
        return Stamped(self.value, self._clock.now, self._clock.now, self._seq)

    def command(self, target: np.ndarray, t_execute: float, epoch: int) -> np.ndarray:
        self.target = Target(np.array(target, np.float32), t_execute)
        return self.target.joints.copy()

    def health(self) -> Health:
        return Health(True)

    def stop(self) -> None:
        """Has nothing to stop."""


class VirtualRobot:
    """Control and observer of one trial, on a clock of their own, around the simulator at STEP_HZ."""

    def __init__(self, sim: SimRig, policy: Policy, config: Config, seed: int, latency_steps: int) -> None:
        self.now, self._sim, self._policy, self._rates = 0.0, sim, policy, config.rates
        self._rest_s = config.safety.soft_start_s  # an episode begins when the robot has been on for a while
        # Control hears of an answer in its next tick: it is there a tick before `latency_steps` have passed.
        self._latency_s = max(0.0, latency_steps / self._rates.policy_hz - 1.0 / self._rates.hand_hz)
        self._coming: deque[tuple[float, Question]] = deque()
        self._report = Report(0.0, identity={"max_delay": policy.max_delay})
        self._arm, self._hand = VirtualDevice("arm", self), VirtualDevice("hand", self)
        self._cameras = {name: VirtualDevice(name, self) for name in sim.cameras}
        devices = {
            "arm": self._arm, "hand": self._hand, "cameras": self._cameras,
            "tracker": VirtualDevice("cube", self, IDENTITY), "glove": VirtualDevice("glove", self),
            "operator": VirtualDevice("person", self, OperatorState(False)),
        }  # fmt: skip
        self._q = sim.joints[:ARM_DOF]
        self._publish()
        self._see()
        self.control = Rig(sim.spec, devices, {}).control(config, self)  # type: ignore[arg-type]
        self._observer = Observer(self.control, self, self)  # type: ignore[arg-type]
        self._observer.instruction, self._observer.seed = sim.instruction, seed

    def newest(self) -> Report:
        return self._report

    def ask(self, question: Question) -> None:
        self._coming.append((self.now + self._latency_s, question))

    def run(self) -> bool:
        """Whether the task is achieved within its time."""
        grid = math.lcm(*(round(hz) for hz in (STEP_HZ, self._rates.hand_hz, self._rates.policy_hz)))
        every = {name: round(grid / hz) for name, hz in (*self._rates.to_dict().items(), ("step", STEP_HZ))}
        self.control.tick(self.now)
        self.control.request(Phase.IDLE)
        begins, index = round(self._rest_s * grid), 0
        while index < begins + round(self._sim.horizon_s * grid) and not self._sim.success():
            self.now = index / grid
            if index == begins:
                self.control.request(Phase.RUNNING)
            if index % every["step"] == 0 and index > 0:
                self._step()
            if index % every["policy_hz"] == 0:
                self._see()
                self._observer.tick(self.now)
            if index % every["hand_hz"] == 0:
                self._answer()
                self.control.tick(self.now, index % every["arm_hz"] == 0)
            index += 1
        return self._sim.success()

    def _step(self) -> None:
        command = step_command(self._sim.command, self._arm.target, self._hand.target, self.now - 1.0 / STEP_HZ)
        self._sim.apply(command)
        self._publish()

    def _publish(self) -> None:
        q = self._sim.joints
        self._arm.value = ArmState(q[:ARM_DOF], (q[:ARM_DOF] - self._q) * STEP_HZ, self._sim.pose_base_ee)
        self._hand.value, self._q = q[ARM_DOF:], q[:ARM_DOF]

    def _see(self) -> None:
        size = self._sim.image_size
        for name, camera in self._cameras.items():
            camera.value = self._sim.render(name, size, size)

    def _answer(self) -> None:
        while self._coming and self._coming[0][0] <= self.now:
            _, question = self._coming.popleft()
            chunk = self._policy.infer(question.observation, seed=question.seed, **question.request.options)
            self._report = Report(
                self.now,
                question.request,
                np.asarray(chunk.actions, np.float32),
                "",
                {"max_delay": self._policy.max_delay},
            )


class Paths:
    """The two paths of one checkpoint, with every mode's policy loaded once."""

    def __init__(self, options: argparse.Namespace) -> None:
        rig = load_meta(options.checkpoint).config["rig"]
        self.config, self.latency_steps = read_config_file(options.config), options.latency_steps
        self.config.rig.cameras = tuple(rig["cameras"])
        settings = from_values(RigConfig, rig, "rig")
        hardware = dataclasses.replace(settings, control_hz=STEP_HZ)
        self._sims = {"simulation": make_rig(settings), "hardware": make_rig(hardware, limited=False)}
        self._modes = {mode: ExecutorConfig.of({**self.config.policy, "handover": mode}) for mode in options.modes}
        self._policies = {mode: Policy.load(options.checkpoint, rtc=of.policy_rtc) for mode, of in self._modes.items()}

    def trial(self, path: str, mode: str, task: str, seed: int) -> bool:
        sim, policy, executor = self._sims[path], self._policies[mode], self._modes[mode]
        if path == "simulation":
            return run_trial(sim, policy, task, seed, executor=executor, latency_steps=self.latency_steps).success
        sim.reset(task=task, seed=seed)
        self.config.policy.handover = mode
        return VirtualRobot(sim, policy, self.config, seed, self.latency_steps).run()


Job = tuple[str, str, str, int]  # path, mode, task, seed
_paths: Paths | None = None  # of this worker process


def _start_worker(options: argparse.Namespace) -> None:
    global _paths
    use_one_thread()
    _paths = Paths(options)


def _trial(job: Job) -> bool:
    assert _paths is not None, "the pool starts every worker with _start_worker"
    return _paths.trial(*job)


def measure(options: argparse.Namespace, log: Path) -> dict[str, dict[str, list[bool]]]:
    """Path and mode -> task -> outcomes, each kept in `log` at once; all paths of a start come before the next."""
    tasks = load_meta(options.checkpoint).config["rig"]["tasks"]
    starts = [(tasks[index % len(tasks)], FIRST_SEED + index) for index in range(options.trials)]
    jobs = [(path, mode, *start) for start in starts for mode in options.modes for path in PATHS]
    log.touch()
    done = {tuple(job): success for job, success in map(json.loads, log.read_text().splitlines())}
    missing = [job for job in jobs if job not in done]
    with (
        worker_pool(options.workers, _start_worker, options) as pool,
        progress(len(jobs), "trials") as bar,
        log.open("a") as file,
    ):
        for job, success in zip(missing, pool.map(_trial, missing), strict=True):
            done[job] = success
            file.write(json.dumps([job, success]) + "\n")
            file.flush()
            bar.update(len(done))
    found: dict[str, dict[str, list[bool]]] = {}
    for path, mode, task, seed in jobs:
        found.setdefault(f"{path} {mode}", {}).setdefault(task, []).append(done[path, mode, task, seed])
    return found


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--checkpoint", type=Path, required=True)
    arguments.add_argument("--trials", type=int, default=200, help="over all tasks")
    arguments.add_argument("--latency-steps", type=int, default=2, help="emulated inference latency, control steps")
    arguments.add_argument("--config", type=Path, default=Path("hardware/configs/fr3_dexhand021.py"))
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--modes", nargs="+", default=["replace", "rtc"])
    options = arguments.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found = measure(options, options.out.with_suffix(".jsonl"))
    differences = {
        f"hardware - simulation, {mode}": (f"hardware {mode}", f"simulation {mode}") for mode in options.modes
    }
    if {"rtc", "replace"} <= set(options.modes):
        differences |= {f"rtc - replace, {path}": (f"{path} rtc", f"{path} replace") for path in PATHS}
    result = {
        "benchmark": "paths", "machine": machine(), "trials": options.trials, "latency_steps": options.latency_steps,
        "score": {name: score(outcomes) for name, outcomes in found.items()},
        "differences": {name: compare(found[one], found[other]) for name, (one, other) in differences.items()},
    }  # fmt: skip
    write_result(options.out, result)


if __name__ == "__main__":
    main()
