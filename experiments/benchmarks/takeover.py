"""Jumps at takeovers and releases through the whole asynchronous stack, a person holding still: anchored and direct.

    python experiments/benchmarks/takeover.py --out FILE.json [--takeovers 100] [--config hardware/configs/NAME.py]
        [--rig sim]

A wandering policy in its own process moves the rig's arm and hand; at random moments a person whose cube and hand are
at random takes over, holds still, and lets go. Writes, each {"count", "median", "p95", "max"} in rad over all joints:
"takeover" and "release": {"asked": the new command before limits against where the robot would have come to rest,
"felt": the executed command against the way there}, and "direct": the same of a takeover that takes the person's pose
and hand as they are, computed beside each one: {"asked", "felt"}.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from dexhil.config import read_config_file
from dexhil.control.takeover import Decision, Jump, Mode, jump
from dexhil.robots import arm_ik
from dexhil.robots.poses import compose, make_pose
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.schema import ARM_DOF, ActionChunk, EpisodeMetadata, Observation
from hardware.devices.base import Health, OperatorState, Stamped
from hardware.runtime.control import Control, Phase
from hardware.runtime.policy_process import PolicyProcess
from hardware.runtime.recording import Recorder
from hardware.runtime.rig import make_rig
from hardware.runtime.session import Session

REACH_M, TURN_RAD = 0.10, 0.4  # how far a person's hand is from the robot's at a takeover


@dataclasses.dataclass
class WanderingPolicy:
    """Smooth motion around home at the speed of a demonstration, every plan of it a different one."""

    checkpoint_id: str = "wandering"

    def infer(self, observation: Observation, *, seed: int = 0) -> ActionChunk:
        rng = np.random.default_rng([seed, round(1e3 * time.monotonic())])
        t = time.monotonic() + np.arange(16) / 20.0
        phases = np.linspace(0, 5, SPEC.action_dim)
        size = np.r_[np.full(ARM_DOF, 0.12), np.full(SPEC.hand_dof, 0.25)]
        rows = SPEC.home + size * np.sin(2 * np.pi * 0.4 * t[:, None] + phases) + rng.normal(0, 0.005, (1, len(size)))
        return ActionChunk(np.clip(rows, SPEC.lower, SPEC.upper).astype(np.float32), observation.timestamp)


class Still:
    """A device whose value stays what the benchmark sets."""

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value, self.period_s, self._seq = name, value, 1.0 / 90.0, 0
        self.valid = True

    def connect(self) -> None:
        """Is always connected."""

    def read(self) -> Stamped[Any]:
        self._seq += 1
        return Stamped(self.value, time.monotonic(), time.monotonic(), self._seq, self.valid)

    def health(self) -> Health:
        return Health(True)

    def stop(self) -> None:
        """Has nothing to stop."""


class ComparedControl(Control):
    """Measures beside each takeover what a direct one would have asked for and what the robot would have been told."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.direct: list[tuple[Jump, Jump]] = []

    def _execute(self, decision: Decision, before: Mode, now: float, arm_due: bool) -> tuple[np.ndarray, np.ndarray]:
        if decision.mode is Mode.ENGAGING:
            human, lack = self.teleop.shows(now)
            assert human is not None, lack
            rest, safety = self.safety.resting_point(), copy.deepcopy(self.safety)
            arm = arm_ik.solve(human.pose_camera_cube, rest[:ARM_DOF]).q_arm
            wanted = np.concatenate([arm, human.q_hand])
            coasting = safety.coasting(arm_due)
            told = safety.limit(wanted, now, arm_due)
            self.direct.append((jump(rest, wanted), jump(coasting, told)))
        return super()._execute(decision, before, now, arm_due)


def measure(config_path: Path, kind: str, takeovers: int, seed: int) -> dict[str, Any]:
    """Runs one session; see the module."""
    config = read_config_file(config_path)
    rig = make_rig(config, kind)
    rng = np.random.default_rng(seed)
    tracker, glove = (
        Still("cube", arm_ik.forward(SPEC.home[:ARM_DOF].astype(float))),
        Still("glove", SPEC.home[ARM_DOF:]),
    )
    operator = Still("switch", OperatorState(False))
    rig.devices |= {"tracker": tracker, "glove": glove, "operator": operator}
    policy = PolicyProcess(functools.partial(WanderingPolicy), hz=config.rates.policy_hz, image_bytes=1 << 20)
    with tempfile.TemporaryDirectory() as folder:
        control = rig.control(config, policy, ComparedControl)
        with Session(control, policy, Recorder(Path(folder), control_hz=config.rates.policy_hz)) as session:
            if rig.world is not None:
                session.go_to(Phase.OFF)
                rig.world.reset(config.rig.tasks[0], seed, person=False)
            schedule = _Schedule(control, rng, takeovers, tracker, glove, operator)
            draft = EpisodeMetadata("jumps", "none", -1, "online", 0, "", "", SPEC.name, seed, 0, 0.0)
            episode = session.run_episode(draft, "wander", 1e9, watch=schedule)
        changes, direct = episode.changes, control.direct
    found: dict[str, Any] = {"rig": kind, "takeovers": takeovers}
    for change in ("takeover", "release"):
        these = [c for c in changes if c.kind == change]
        found[change] = {"asked": _summary([c.asked for c in these]), "felt": _summary([c.felt for c in these])}
    found["direct"] = {"asked": _summary([a for a, _ in direct]), "felt": _summary([f for _, f in direct])}
    return found


class _Schedule:
    """Takes over and lets go at random moments; False once there were enough."""

    def __init__(
        self, control: Control, rng: np.random.Generator, takeovers: int, tracker: Still, glove: Still, operator: Still
    ) -> None:
        self._control, self._rng, self._left = control, rng, takeovers
        self._tracker, self._glove, self._operator = tracker, glove, operator
        self._next = 2.0

    def __call__(self, seconds: float) -> bool:
        latest = self._control.latest
        if seconds < self._next:
            return True
        if self._operator.value.engage:
            if not latest.is_intervention:
                return True  # a watchdog holds: wait until the takeover has happened
            self._operator.value = OperatorState(False)
            self._left -= 1
            self._next = seconds + self._rng.uniform(0.5, 1.0)
            return True
        if latest.mode is not Mode.AUTONOMOUS:
            return True
        if self._left == 0:
            return False
        self._show(latest.command)
        self._operator.value = OperatorState(True)
        self._next = seconds + self._rng.uniform(0.3, 0.6)
        return True

    def _show(self, command: np.ndarray) -> None:
        """A cube some centimetres from the robot's hand, and a hand of any shape."""
        rng = self._rng
        offset = make_pose(rng.uniform(-REACH_M, REACH_M, 3), Rotation.from_rotvec(rng.uniform(-TURN_RAD, TURN_RAD, 3)))
        self._tracker.value = compose(arm_ik.forward(command[:ARM_DOF].astype(float)), offset)
        self._glove.value = rng.uniform(SPEC.lower[ARM_DOF:], SPEC.upper[ARM_DOF:])


def _summary(jumps: Sequence[Jump]) -> dict[str, float]:
    largest = np.array([change.max for change in jumps] or [np.nan])
    return {
        "count": len(jumps),
        "median": float(np.median(largest)),
        "p95": float(np.quantile(largest, 0.95)),
        "max": float(largest.max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--takeovers", type=int, default=100)
    parser.add_argument("--config", type=Path, default=Path("hardware/configs/fr3_dexhand021.py"))
    parser.add_argument("--rig", default="sim")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = measure(options.config, options.rig, options.takeovers, options.seed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
