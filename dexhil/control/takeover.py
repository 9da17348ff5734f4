"""Who is in control: the takeover state machine, the anchored mapping of arm and hand, the jump of every change.

Pure: no threads, no clock, no devices. A control loop calls `advance` once per tick and sends `Decision.command`
through its safety limits; `executed` puts into the state what the robot was really commanded, which the next takeover
is anchored to. Simulation and hardware use the same functions.

    AUTONOMOUS -> ENGAGING (anchors from the last command) -> HUMAN -> RELEASING (stale chunk dropped) -> AUTONOMOUS
    any -> HOLD (nobody has a valid command) and ESTOP (latched)
"""

import dataclasses
import enum
import functools

import numpy as np
from scipy.spatial.transform import Rotation

from dexhil.control import steady
from dexhil.control.blend import lead_tips, moved_pose
from dexhil.robots import arm_ik
from dexhil.robots.poses import IDENTITY, compose, inverse
from dexhil.robots.spec import RobotSpec
from dexhil.schema import ARM_DOF

AUTHORITIES = ("both", "arm", "hand")  # what of the robot a person takes
HAND_BLEND_RAD = 0.6  # a finger joint's motion after which 1/e of its difference between human and robot is left
# What a hand at rest shows, one standard deviation: cube m and half rad (of a quaternion), finger joints rad.
NOISE_M, NOISE_HALF_RAD, NOISE_RAD = 1e-3, np.radians(0.5) / 2, 0.01
OF_VECTORS = 1.25  # the norm of three noisy numbers goes that much farther than one of them
ELBOW_BLEND_M = 0.05  # distance from the takeover at which 1/e of its elbow's difference from home is left


class Mode(enum.Enum):
    """Who is in control."""

    AUTONOMOUS = "autonomous"
    ENGAGING = "engaging"
    HUMAN = "human"
    RELEASING = "releasing"
    HOLD = "hold"
    ESTOP = "estop"


@dataclasses.dataclass(frozen=True)
class HumanCommand:
    """What a person shows at one tick.

    Attributes:
        pose_camera_cube: [7], `T_M` of DexHiL eq. 3, in any fixed frame (camera, tracker base, joystick origin).
        q_hand: [m] rad, the retargeted hand, absolute.
    """

    pose_camera_cube: np.ndarray
    q_hand: np.ndarray


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What one tick knows.

    Attributes:
        engage: the person asks for control.
        human: None where the person's devices give nothing valid.
        policy_action: [A] rad, the action that is due now; None where there is none.
        policy_epoch: epoch for which it was planned.
        estop: stop now.
        clear_estop: a person says that it is safe again.
        authority: of AUTHORITIES, what the person commands; the policy keeps the rest.
        blend: fraction of the policy in what the person commands, 0: the person alone; see `blend`.
    """

    engage: bool
    human: HumanCommand | None
    policy_action: np.ndarray | None
    policy_epoch: int = 0
    estop: bool = False
    clear_estop: bool = False
    authority: str = "both"
    blend: float = 0.0

    def __post_init__(self) -> None:
        if self.authority not in AUTHORITIES:
            raise ValueError(f"authority {self.authority!r}: expected one of {', '.join(AUTHORITIES)}")
        if not 0.0 <= self.blend <= 1.0:
            raise ValueError(f"blend {self.blend!r}: expected a fraction from 0 (the person alone) to 1")


@dataclasses.dataclass(frozen=True)
class Anchors:
    """Taken when a takeover begins, and what has moved since.

    Attributes:
        command: [A] rad, the last before it.
        pose_base_ee: [7], that command's pose, `T_EE0` of DexHiL eq. 3.
        pose_camera_cube: [7], the cube's, `T_M0`.
        human_hand: [m] rad, the person's then.
        shown: the person's cube and hand [7 + m] without sensor noise.
        hand: [m] rad, the robot's as led so far.
        policy: [A] rad, what the policy last asked for.
        authority: of AUTHORITIES.
        path: rad that the person's hand has moved beyond noise.
    """

    command: np.ndarray
    pose_base_ee: np.ndarray
    pose_camera_cube: np.ndarray
    human_hand: np.ndarray
    shown: steady.Steady
    hand: np.ndarray
    policy: np.ndarray
    authority: str = "both"
    path: float = 0.0

    @property
    def human(self) -> HumanCommand:
        """What the person shows, without sensor noise."""
        cube = self.shown.value[:7]
        unit = np.concatenate([cube[:3], cube[3:] / np.linalg.norm(cube[3:])])
        return HumanCommand(unit, self.shown.value[7:])


@dataclasses.dataclass(frozen=True)
class TakeoverState:
    """What is kept between ticks.

    Attributes:
        mode: who is in control.
        command: [A] rad, last executed.
        epoch: a plan of an earlier epoch is stale.
        anchors: None without a takeover.
    """

    mode: Mode
    command: np.ndarray
    epoch: int = 0
    anchors: Anchors | None = None


@dataclasses.dataclass(frozen=True)
class Decision:
    """What to send.

    Attributes:
        command: [A] rad, before safety limits.
        is_intervention: `I_t` of DexHiL eq. 6.
        mode: who is in control.
        ik_error_m: residual of the arm's inverse kinematics, 0 where the policy acts.
    """

    command: np.ndarray
    is_intervention: bool
    mode: Mode
    ik_error_m: float = 0.0


@dataclasses.dataclass(frozen=True)
class Jump:
    """Command change at a change of control, over all joints.

    Attributes:
        max: rad, the largest.
        l2: rad, Euclidean norm.
    """

    max: float
    l2: float


def start(command: np.ndarray) -> TakeoverState:
    """The state before the first tick of an episode; `command` [A] rad is what the robot holds."""
    return TakeoverState(Mode.AUTONOMOUS, np.array(command, np.float32))


def advance(
    state: TakeoverState, inputs: Inputs, spec: RobotSpec, cube_to_ee: np.ndarray = IDENTITY
) -> tuple[TakeoverState, Decision]:
    """One tick (DexHiL eq. 6).

    Args:
        state: of the last tick, with what was `executed`.
        inputs: what this tick knows.
        spec: the robot.
        cube_to_ee: [7], the constant `C` of eq. 3.

    Returns:
        The next state, and what to send. Tell `executed` what came of it.
    """
    mode, epoch = _next_mode(state, inputs)
    anchors = state.anchors
    command, ik_error = state.command, 0.0
    if mode in (Mode.ENGAGING, Mode.HUMAN) and inputs.human is not None:
        anchors, epoch = _anchored(state, mode, epoch, inputs, spec)
        command, ik_error = human_command(anchors, state.command, spec, cube_to_ee, inputs.blend)
    else:
        anchors = None
    if mode is Mode.AUTONOMOUS and inputs.policy_action is not None:
        command = np.asarray(inputs.policy_action, np.float32)
    decision = Decision(command, mode in (Mode.ENGAGING, Mode.HUMAN), mode, ik_error)
    return dataclasses.replace(state, mode=mode, epoch=epoch, anchors=anchors), decision


def executed(state: TakeoverState, command: np.ndarray) -> TakeoverState:
    """The state after the robot was commanded `command` [A] rad."""
    return dataclasses.replace(state, command=np.array(command, np.float32))


def jump(before: np.ndarray, after: np.ndarray) -> Jump:
    """Change between two successive commands [A] rad."""
    change = np.asarray(after, np.float64) - before
    return Jump(float(np.abs(change).max()), float(np.linalg.norm(change)))


def arm_target(
    pose_base_ee0: np.ndarray, pose_camera_cube0: np.ndarray, pose_camera_cube: np.ndarray, cube_to_ee: np.ndarray
) -> np.ndarray:
    """`T_EE = T_EE0 C^-1 T_M0^-1 T_M C` (DexHiL eq. 3): pose_base_ee [7]; the anchor while the cube is at its own."""
    moved = compose(inverse(pose_camera_cube0), pose_camera_cube)
    return compose(pose_base_ee0, compose(inverse(cube_to_ee), compose(moved, cube_to_ee)))


def lead_hand(hand: np.ndarray, before: np.ndarray, after: np.ndarray, spec: RobotSpec) -> np.ndarray:
    """The robot's hand [m] rad from `hand`, as the person's goes from `before` to `after` [m] rad.

    Every joint follows its own; what it differs by fades with its motion, as far as that never turns the robot's joint
    against the person's: nothing moves while the person holds still, and after some motion the hand is the person's.
    """
    step = after - before
    faded = (before - hand) * (1.0 - np.exp(-np.abs(step) / HAND_BLEND_RAD))
    moved = np.where(
        step > 0.0, np.maximum(step + faded, 0.0), np.where(step < 0.0, np.minimum(step + faded, 0.0), 0.0)
    )
    return np.clip(hand + moved, spec.lower[ARM_DOF:], spec.upper[ARM_DOF:])


def elbow_posture(anchors: Anchors, pose_base_ee: np.ndarray, spec: RobotSpec) -> np.ndarray:
    """Arm joints [7] rad that free motion drifts to: at the takeover's pose those it began with, home away from it."""
    turn = Rotation.from_quat([anchors.pose_base_ee[3:], pose_base_ee[3:]], scalar_first=True)
    angle = float((turn[0].inv() * turn[1]).magnitude())
    away = float(np.linalg.norm(pose_base_ee[:3] - anchors.pose_base_ee[:3])) + arm_ik.METRES_PER_RADIAN * angle
    home = spec.home[:ARM_DOF]
    return home + (anchors.command[:ARM_DOF] - home) * np.exp(-away / ELBOW_BLEND_M)


def human_command(
    anchors: Anchors, last_command: np.ndarray, spec: RobotSpec, cube_to_ee: np.ndarray, blend: float = 0.0
) -> tuple[np.ndarray, float]:
    """The command [A] rad, the person's part through eq. 3 and 4, and the residual of the inverse kinematics (m)."""
    command, ik_error = anchors.policy.copy(), 0.0
    if anchors.authority != "hand":
        cube = anchors.human.pose_camera_cube
        pose = arm_target(anchors.pose_base_ee, anchors.pose_camera_cube, cube, cube_to_ee)
        if blend:
            policy = arm_ik.forward(anchors.policy[:ARM_DOF].astype(np.float64))
            pose = moved_pose(policy, anchors.pose_base_ee, pose)
        solution = arm_ik.solve(pose, last_command[:ARM_DOF], posture=elbow_posture(anchors, pose, spec))
        command[:ARM_DOF], ik_error = solution.q_arm, solution.position_error
    if anchors.authority != "arm":
        command[ARM_DOF:] = blend * command[ARM_DOF:] + (1.0 - blend) * anchors.hand
    return command, ik_error


def _next_mode(state: TakeoverState, inputs: Inputs) -> tuple[Mode, int]:
    if inputs.estop or (state.mode is Mode.ESTOP and not inputs.clear_estop):
        return Mode.ESTOP, state.epoch
    if inputs.engage and inputs.human is not None:
        return (Mode.HUMAN if state.mode in (Mode.ENGAGING, Mode.HUMAN) else Mode.ENGAGING), state.epoch
    left = state.mode in (Mode.ENGAGING, Mode.HUMAN, Mode.ESTOP)  # what was planned before it is stale
    if inputs.engage and state.mode not in (Mode.AUTONOMOUS, Mode.RELEASING):
        # A person in control whose devices fail is not replaced by the policy: the robot holds.
        return Mode.HOLD, state.epoch + left
    if left:
        return Mode.RELEASING, state.epoch + 1
    if inputs.policy_action is not None and inputs.policy_epoch >= state.epoch:
        return Mode.AUTONOMOUS, state.epoch
    return (Mode.RELEASING if state.mode is Mode.RELEASING else Mode.HOLD), state.epoch


def _anchored(state: TakeoverState, mode: Mode, epoch: int, inputs: Inputs, spec: RobotSpec) -> tuple[Anchors, int]:
    """This tick's anchors and epoch; a change of authority anchors anew, what is given back waits for a new plan."""
    assert inputs.human is not None
    anchors = state.anchors
    if mode is Mode.ENGAGING or anchors is None:
        anchors = _anchor(state.command, inputs.human)
    elif anchors.authority != inputs.authority:
        anchors, epoch = _anchor(state.command, inputs.human), epoch + 1
    else:
        anchors = _follow(anchors, inputs.human, spec, by_tips=inputs.blend > 0.0)
    policy = anchors.policy
    if inputs.policy_action is not None and inputs.policy_epoch >= epoch and mode is Mode.HUMAN:
        policy = np.asarray(inputs.policy_action, np.float32)
    return dataclasses.replace(anchors, authority=inputs.authority, policy=policy), epoch


def _anchor(command: np.ndarray, human: HumanCommand) -> Anchors:
    pose = arm_ik.forward(command[:ARM_DOF].astype(np.float64))
    shown = steady.begin(_sample(human), _noise(len(human.q_hand)))
    hand = command[ARM_DOF:].astype(np.float64)
    return Anchors(command.copy(), pose, shown.value[:7], shown.value[7:], shown, hand, command.copy())


def _follow(anchors: Anchors, human: HumanCommand, spec: RobotSpec, *, by_tips: bool) -> Anchors:
    sample = _sample(human)
    if sample[3:7] @ anchors.shown.raw[3:7] < 0.0:
        sample[3:7] *= -1.0  # the same rotation, as the quaternion that is near the last one
    shown = steady.follow(anchors.shown, sample, _noise(len(human.q_hand)))
    before, after = anchors.shown.value[7:], shown.value[7:]
    path = anchors.path + float(np.abs(after - before).max())
    if by_tips:
        hand = lead_tips(anchors.hand, anchors.command[ARM_DOF:], anchors.human_hand, after)
        hand = np.clip(hand, spec.lower[ARM_DOF:], spec.upper[ARM_DOF:])
    else:
        hand = lead_hand(anchors.hand, before, after, spec)
    return dataclasses.replace(anchors, shown=shown, hand=hand, path=path)


def _sample(human: HumanCommand) -> np.ndarray:
    return np.concatenate([human.pose_camera_cube, human.q_hand]).astype(np.float64)


@functools.cache
def _noise(hand_dof: int) -> steady.Noise:
    sizes = [OF_VECTORS * NOISE_M, OF_VECTORS * NOISE_HALF_RAD, *[NOISE_RAD] * hand_dof]
    return steady.Noise([0, 3, *range(7, 7 + hand_dof)], np.array(sizes))
