"""A config's devices, control and session: the real ones, or the simulator in the place of all of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dexhil.config import Config, ConfigError, read_section
from dexhil.control.guard import Box
from dexhil.control.safety import SafetyLayer, SafetySettings
from dexhil.retargeting.runtime import Retargeter, load
from dexhil.rig import RigConfig
from dexhil.robots.poses import IDENTITY
from dexhil.robots.spec import RobotSpec, get_robot
from dexhil.schema import ARM_DOF
from dexhil.settings import from_values
from hardware.devices.registry import make_device
from hardware.runtime.control import Control, Phase
from hardware.runtime.policy_process import PolicyProcess
from hardware.runtime.session import Session
from hardware.settings import PolicyConfig, RatesConfig, RigFacts, SimConfig
from hardware.simulated.devices import sim_devices
from hardware.simulated.world import World
from hardware.teleop.teleop import Teleop

ROLES = ("arm", "hand", "tracker", "glove", "operator")
Made = TypeVar("Made", bound=Control)


@dataclasses.dataclass
class Rig:
    """devices: {"arm", "hand", "cameras": {name: …}, "tracker", "glove", "operator"}. world: None for a real one."""

    spec: RobotSpec
    devices: dict[str, Any]
    instructions: dict[str, str]
    world: World | None = None
    _held: bool = False

    def control(self, config: Config, policy: PolicyProcess | None, kind: type[Made] = Control) -> Made:
        """The control of these devices with the config's limits, rates and calibration."""
        safety = safety_settings(config, simulated=self.world is not None)
        rates, planning = read_section(config, "rates", RatesConfig), read_section(config, "policy", PolicyConfig)
        layer = SafetyLayer(self.spec, safety, arm_hz=rates.arm_hz, hand_hz=rates.hand_hz)
        teleop = Teleop(
            **{role: self.devices[role] for role in ("tracker", "glove", "operator")},
            hand_dof=self.spec.hand_dof, safety=safety, retargeter=self.retargeter(config),
            cube_to_ee=cube_to_ee(config.teleop.calibration), blend=config.teleop.blend,
        )  # fmt: skip
        newest = policy.newest if policy is not None else None
        arm, hand, cameras = (self.devices[role] for role in ("arm", "hand", "cameras"))
        return kind(self.spec, arm, hand, cameras, teleop, layer, newest, rates, planning)

    def retargeter(self, config: Config) -> Retargeter | None:
        """That of the config, None where the glove gives hand joints. Raises ConfigError where it fits not the robot,
        or not the glove.
        """
        path, gives_keypoints = config.teleop.retargeter, getattr(self.devices["glove"], "gives_keypoints", False)
        if self.world is None and gives_keypoints and not path:
            raise ConfigError(
                "teleop.retargeter is empty, but the glove gives key points, so that nobody could take over; train one "
                "with experiments/retarget.py and name its file there"
            )
        if self.world is None and path and not gives_keypoints:
            raise ConfigError(f"teleop.retargeter {path}: the glove gives hand joints, leave it empty")
        if not path:
            return None
        try:
            model = load(path)
            model.check_fits(self.spec)
        except ValueError as error:
            raise ConfigError(f"teleop.retargeter {path}: {error}") from None
        return Retargeter(model)

    def prepare(self, session: Session, task: str, seed: int, say: Callable[[str], None]) -> float:
        """Brings robot and scene to the start of an episode; the task's own time limit in s, 0 where it has none."""
        if self.world is None:
            self._prepare_by_hand(session, task, say)
            return 0.0
        session.go_to(Phase.OFF)
        facts = self.world.reset(task, seed)
        session.control.teleop.cube_to_ee = facts["cube_to_ee"]
        session.wait(lambda: self._stands_at(session.control.latest.command), "the reset scene", 10.0)
        return facts["horizon_s"]

    def attend(self, session: Session) -> None:
        """What a person at the robot does when it holds. In simulation: takes lost devices back, takes over anew."""
        latest, world = session.control.latest, self.world
        if world is None or not world.alive:
            return
        if session.control.watch.lost:
            self.devices["operator"].press("clear_estop")
        if self._held and not latest.holding:
            session.control.teleop.cube_to_ee = world.regrip()
        self._held = bool(latest.holding) and latest.phase is Phase.RUNNING

    def judge(self, ended: str) -> str:
        """Category of a failure: the rig's where it judges itself, else how the episode ended."""
        return (self.world is not None and self.world.judge()) or ended

    def _stands_at(self, command: np.ndarray) -> bool:
        arm, hand = self.devices["arm"].read(), self.devices["hand"].read()
        return np.allclose(command, np.concatenate([arm.value.q, hand.value]), atol=0.02)

    def _prepare_by_hand(self, session: Session, task: str, say: Callable[[str], None]) -> None:
        say(f"{task}: keep clear of the robot and press start: it goes home slowly")
        session.wait_for_event("start")
        session.home()
        say(f"{task}: lay out the scene ({self.instructions[task]!r}), then press start")
        session.wait_for_event("start")


def make_rig(config: Config, kind: str) -> Rig:
    """The rig of a config. kind: "real" or "sim". Raises ConfigError where the config does not fit it."""
    spec = get_robot(config.rig.robot)
    read_section(config, "rates", RatesConfig)
    tasks = tuple(config.rig.tasks)
    instructions = dict(config.rig.instructions)
    missing = [task for task in tasks if task not in instructions]
    if missing:
        raise ConfigError(f"rig.instructions: none for task {missing[0]!r}; a policy is told what to do in words")
    if kind == "sim":
        world = simulated(config)
        return Rig(spec, sim_devices(world), instructions, world)
    devices: dict[str, Any] = {role: make_device(config.devices[role].to_dict(), role) for role in ROLES}
    for role, joints in (("arm", slice(ARM_DOF)), ("hand", slice(ARM_DOF, None))):
        names, expected = tuple(getattr(devices[role], "joint_names", ())), spec.joint_names[joints]
        if names != expected:
            raise ConfigError(
                f"devices.{role}: driver {config.devices[role].driver!r} moves {', '.join(names) or 'no joints'}; "
                f"{spec.name} has {', '.join(expected)}, in this order; choose its own driver, or another rig.robot"
            )
    cameras = config.devices.cameras.to_dict()
    unknown = [name for name in config.rig.cameras if name not in cameras]
    if unknown:
        raise ConfigError(f"devices.cameras: no camera {unknown[0]!r}, which rig.cameras names; known: {list(cameras)}")
    devices["cameras"] = {name: make_device(cameras[name], f"cameras.{name}") for name in config.rig.cameras}
    return Rig(spec, devices, instructions)


def simulated(config: Config) -> World:
    """The simulator that stands in for the config's rig."""
    sim, facts = read_section(config, "sim", SimConfig), read_section(config, "rig", RigFacts)
    rig = RigConfig(
        facts.robot, facts.tasks, sim.difficulty, sim.difficulty, sim.image_size, facts.cameras, config.rates.policy_hz
    )
    return World(rig, sim.person, config.teleop.retargeter)


def safety_settings(config: Config, *, simulated: bool = False) -> SafetySettings:
    """The config's section `safety`."""
    values = config.safety.to_dict()
    if simulated:
        values["watchdog_min_s"] = max(values["watchdog_min_s"], config.sim.watchdog_min_s)
    box = values.pop("box")
    lower, upper = (np.array(box.pop(end), np.float64) for end in ("lower", "upper"))
    if lower.shape != (3,) or not (lower < upper).all():
        raise ConfigError(f"safety.box: expected lower below upper in x, y and z (m), got {lower} and {upper}")
    return from_values(SafetySettings, {**values, "box": Box(lower, upper, **box)}, "safety")


def cube_to_ee(path: str) -> np.ndarray:
    """`C` of DexHiL eq. 3 [7] from a calibration file {"cube_to_ee": [7 numbers]}; no path: the identity."""
    if not path:
        return IDENTITY.copy()
    try:
        pose = np.array(json.loads(Path(path).read_text())["cube_to_ee"], np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"teleop.calibration {path}: expected JSON with 'cube_to_ee': [x, y, z, qw, qx, qy, qz] ({error}); make it "
            f"with hardware/calibrate.py"
        ) from None
    if pose.shape != (7,) or abs(np.linalg.norm(pose[3:]) - 1.0) > 1e-3:
        raise ConfigError(f"teleop.calibration {path}: cube_to_ee needs 7 numbers with a unit quaternion, got {pose}")
    return pose
