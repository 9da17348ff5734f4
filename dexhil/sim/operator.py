"""The scripted operator: sees the object's state, forms an intent in human terms, and only then executes it."""

import dataclasses
from typing import Any

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from dexhil.robots import arm_ik
from dexhil.schema import ARM_DOF
from dexhil.sim.rig import SimRig
from dexhil.sim.robot_model import SPEC
from dexhil.sim.strategies.base import Goal, Grasp, Moment, Strategy
from dexhil.sim.strategies.plush import PlushStrategy
from dexhil.sim.strategies.tissue import TissueStrategy

STRATEGIES: dict[str, type[Strategy]] = {"plush": PlushStrategy, "tissue": TissueStrategy}

_GAIN_PER_S = 6.0  # how fast a goal that is near is approached
_ACCELERATION_S = 0.12  # time to full speed
_TURN_SPEED = 1.8  # rad/s
_STRAIGHTEN_S = 0.5  # in which a hand that leans sideways comes upright
FAR_M = 0.12  # from hand to grasp: farther than this a hand approaches, nearer it is about to grasp
_THUMB_BENDING = [SPEC.joint_names.index(name) - ARM_DOF for name in ("thumb_mcp", "thumb_dip")]


@dataclasses.dataclass(frozen=True)
class Intent:
    """pose_base_ee: [7], where the pinch point should be and how the palm is turned. grasp: the shape of the hand."""

    pose_base_ee: np.ndarray
    grasp: Grasp


@dataclasses.dataclass(frozen=True)
class Style:
    """How one operator moves: speed factor, errors perception_m [3] and perception_yaw rad, tremor_m, hesitation s."""

    speed: float
    perception_m: np.ndarray
    perception_yaw: float
    tremor_m: float
    hesitates_at: float
    hesitates_for: float


def draw_style(rng: np.random.Generator, skill: float = 1.0) -> Style:
    """Human-like variation between episodes. skill: errors of perception and tremor are divided by it."""
    return Style(
        speed=float(rng.uniform(0.85, 1.15)),
        perception_m=rng.normal(0.0, [0.006, 0.006, 0.002]).clip(-0.010, 0.010) / skill,
        perception_yaw=float(rng.normal(0.0, 0.08)) / skill,
        tremor_m=0.0015 / skill,
        hesitates_at=float(rng.uniform(0.3, 1.5)),
        hesitates_for=float(rng.uniform(0.15, 0.35) * (rng.uniform() < 0.3)),
    )


def grasp_to_hand(grasp: Grasp) -> np.ndarray:
    """The grasp synergy: actuated hand joints float32 [12] rad within the limits, order of the robot spec."""
    thumb, fingers, support = grasp.thumb_closure, grasp.finger_closure, grasp.support_closure
    thumb_joints = [1.57 * grasp.thumb_opposition, 0.25 + 0.75 * thumb, 0.25 + 0.65 * thumb]
    digits = [
        angle
        for closure in (fingers, fingers, support, support)
        for angle in (0.5 + 0.8 * closure, 0.3 + 0.8 * closure)
    ]
    joints = np.array([*thumb_joints, 0.3 * grasp.spread, *digits], np.float32)
    return np.clip(joints, SPEC.lower[ARM_DOF:], SPEC.upper[ARM_DOF:])


def hand_to_grasp(q_hand: np.ndarray) -> Grasp:
    """The grasp nearest to hand joints [12] rad, joint by joint: `grasp_to_hand` is the way back where there is one."""
    thumb, spread, digits = q_hand[:3], q_hand[3], q_hand[4:].reshape(4, 2)
    closures = (digits - [0.5, 0.3]) / 0.8
    parts = [
        thumb[0] / 1.57,
        np.mean([(thumb[1] - 0.25) / 0.75, (thumb[2] - 0.25) / 0.65]),
        closures[:2].mean(),
        closures[2:].mean(),
        spread / 0.3,
    ]
    return Grasp(*np.clip(np.array(parts, float), 0.0, 1.0))


def execute(intent: Intent, last_command: np.ndarray) -> np.ndarray:
    """Joint targets float32 [A] rad that carry out `intent`; `last_command` [A] seeds the inverse kinematics."""
    q_arm = arm_ik.solve(intent.pose_base_ee, last_command[:ARM_DOF]).q_arm
    return np.concatenate([q_arm.astype(np.float32), grasp_to_hand(intent.grasp)])


def hand_quaternion(tilt: float, yaw: float) -> np.ndarray:
    """Orientation w-x-y-z of `ee` in the base frame, palm towards the robot at tilt 0 and towards the table at pi/2."""
    ct, st, cy, sy = np.cos(tilt), np.sin(tilt), np.cos(yaw), np.sin(yaw)
    palm, tips = np.array([-ct * cy, -ct * sy, -st]), np.array([st * cy, st * sy, -ct])
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, np.stack([palm, np.cross(tips, palm), tips], axis=1).ravel())
    return quaternion


def hand_angles(quaternion: np.ndarray) -> tuple[float, float]:
    """(tilt, yaw) rad of an orientation: the inverse of `hand_quaternion`, for tilt in (0, pi)."""
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, np.asarray(quaternion, np.float64))
    palm, side, tips = matrix.reshape(3, 3).T
    return float(np.arctan2(-palm[2], -tips[2])), float(np.arctan2(-side[0], side[1]))


class ScriptedOperator:
    """Drives `rig` through its current episode: call `act` once per control step, after `rig.reset`.

    start: what the operator shows at first, by default an open hand where the robot's is. In the middle of an episode
    it is the last command, so that the operator goes on from there. approach_speed: m/s at most while the hand is FAR_M
    from the grasp or more; 0: as fast as near it. skill: see `draw_style`.
    """

    def __init__(
        self, rig: SimRig, *, seed: int, start: Intent | None = None, approach_speed: float = 0.0, skill: float = 1.0
    ) -> None:
        """Raises ValueError where no strategy is known for the rig's task."""
        if rig.task not in STRATEGIES:
            raise ValueError(f"no scripted strategy for task {rig.task!r}; expected one of {sorted(STRATEGIES)}")
        self._rig = rig
        self._rng = np.random.default_rng(seed)
        self.style = draw_style(self._rng, skill)
        self.strategy = STRATEGIES[rig.task]()
        self._approach_speed = approach_speed
        start = start or Intent(rig.pose_base_ee, Grasp())
        tilt, yaw = hand_angles(start.pose_base_ee[3:])
        straight = Rotation.from_quat(hand_quaternion(tilt, yaw), scalar_first=True)
        self._lean = (straight.inv() * Rotation.from_quat(start.pose_base_ee[3:], scalar_first=True)).as_rotvec()
        self._began = rig.time
        self._target = np.array([*start.pose_base_ee[:3], tilt, yaw, *start.grasp.vector()])
        self._velocity, self._tremor = np.zeros_like(self._target), np.zeros(3)

    @property
    def intent(self) -> Intent:
        """What the operator shows now."""
        straight = Rotation.from_quat(hand_quaternion(self._target[3], self._target[4]), scalar_first=True)
        rotation = (straight * Rotation.from_rotvec(self._lean)).as_quat(scalar_first=True)
        return Intent(np.concatenate([self._target[:3] + self._tremor, rotation]), Grasp(*self._target[5:]))

    def think(self) -> Intent:
        """Looks, and moves what it shows by one control period."""
        moment = self._perceive()
        goal = self.strategy.step(moment)
        away = float(np.linalg.norm(moment.position - moment.state.grasp_point))
        if self._approach_speed and self.strategy.phase == "reach" and away > FAR_M:
            goal = dataclasses.replace(goal, speed=min(goal.speed, self._approach_speed))
        return self.lead(goal)

    def lead(self, goal: Goal) -> Intent:
        """Moves what it shows by one control period towards `goal`, whatever the strategy wants."""
        self._move_towards(goal)
        return self.intent

    def act(self) -> np.ndarray:
        """float32 [A] rad, the command for the current moment."""
        return execute(self.think(), self._rig.command)

    def _perceive(self) -> Moment:
        position, tilt, yaw = self._measured_hand()
        state: Any = self._rig.privileged()
        seen = dataclasses.replace(state, grasp_point=state.grasp_point + self.style.perception_m)
        grasp = Grasp(*self._target[5:])
        behind = self._rig.command[ARM_DOF:] - self._rig.joints[ARM_DOF:]
        resistance = float(behind[_THUMB_BENDING].mean())
        return Moment(self._rig.time, position, tilt, yaw + self.style.perception_yaw, grasp, resistance, seen)

    def _measured_hand(self) -> tuple[np.ndarray, float, float]:
        pose = self._rig.pose_base_ee
        return (pose[:3], *hand_angles(pose[3:]))

    def _move_towards(self, goal: Goal) -> None:
        period = 1.0 / self._rig.control_hz
        wanted = np.array([*goal.position, goal.tilt, goal.yaw, *goal.grasp.vector()]) - self._target
        pace = self.style.speed * self._hesitation()
        limits = ((slice(0, 3), goal.speed), (slice(3, 5), _TURN_SPEED), (slice(5, None), goal.grasp_speed))
        for part, speed in limits:
            wish = _bounded(wanted[part] * _GAIN_PER_S, speed * pace)
            change = _bounded(wish - self._velocity[part], speed * period / _ACCELERATION_S)
            self._velocity[part] += change
        self._target += self._velocity * period
        self._lean *= np.exp(-period / _STRAIGHTEN_S)
        self._target[5:] = np.clip(self._target[5:], 0.0, 1.0)
        self._tremor += -self._tremor * period / 0.3 + self._rng.normal(0.0, self.style.tremor_m, 3) * np.sqrt(
            2 * period / 0.3
        )

    def _hesitation(self) -> float:
        since = self._rig.time - self._began - self.style.hesitates_at
        return 0.3 if 0.0 <= since < self.style.hesitates_for else 1.0


def _bounded(vector: np.ndarray, size: float) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return vector if length <= size else vector * (size / length)
