"""Does a policy fit a rig? One comparison for every command in which a policy acts. No JAX: robot PCs load it."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dexhil.config import ConfigError
from dexhil.robots.spec import FR3_DEXHAND021, ROBOTS, get_robot
from dexhil.schema import ARM_DOF

PROTOCOL = 2  # of the messages between a policy server and its clients
RATE_TOLERANCE = 1e-3  # of the control rate: 30 and 29.97 Hz are one


class MessageError(ValueError):
    """A message that does not fit the protocol; names the key, what was expected and what to do."""


@dataclasses.dataclass(frozen=True)
class Interface:
    """Where a policy and a rig meet.

    Attributes:
        robot: spec name.
        joint_names: of state and action, in their order; () where nobody wrote them down.
        image_size: px of the shorter side, 0 where not known.
        control_hz: 1/s.
        state_dim: of the recorded state.
        action_dim: of the recorded action.
    """

    robot: str
    joint_names: tuple[str, ...]
    cameras: tuple[str, ...]
    image_size: int
    control_hz: float
    state_dim: int
    action_dim: int


@dataclasses.dataclass(frozen=True)
class PolicyInfo(Interface):
    """What a policy, or the server of one, says about itself.

    Attributes:
        chunk: H, actions of an answer.
        max_delay: actions that its real-time chunking bridges at most, 0 without it.
        checkpoint: "<run>/<step>".
        saved: when, ISO 8601.
        normalization: hash of the norm statistics.
    """

    chunk: int
    max_delay: int
    action_space: str
    checkpoint: str
    saved: str
    normalization: str
    protocol: int = PROTOCOL

    def to_message(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_message(cls, message: Any) -> PolicyInfo:
        """Raises MessageError where the server is none of ours, or of another version."""
        fields = [field.name for field in dataclasses.fields(cls)]
        ours = isinstance(message, Mapping) and "protocol" in message
        if ours and message["protocol"] != PROTOCOL:
            raise MessageError(f"protocol: the server speaks {message['protocol']}, this client {PROTOCOL}; update one")
        if not ours or not set(fields) <= set(message):
            raise MessageError(f"metadata: expected {fields}, got {str(message)[:99]}; is this a DexHiL policy server?")
        lists = {name: tuple(message[name]) for name in ("cameras", "joint_names")}
        return cls(**{**{name: message[name] for name in fields}, **lists})


def rig_interface(robot: str, cameras: Sequence[str], control_hz: float, image_size: int = 0) -> Interface:
    """What a rig of `robot` offers. image_size: 0 where any size is resized well. Raises ValueError for the name."""
    names = get_robot(robot).joint_names
    return Interface(robot, names, tuple(cameras), image_size, control_hz, len(names), len(names))


def check_fits(policy: Interface, rig: Interface) -> None:
    """Raises ConfigError, naming both values, on the first fact in which the policy cannot act on the rig."""
    if policy.robot != rig.robot:
        raise ConfigError(
            f"the checkpoint was trained on robot {policy.robot!r}, rig.robot is {rig.robot!r}; "
            "use a checkpoint of this robot"
        )
    _check_joints(policy, rig)
    if missing := sorted(set(policy.cameras) - set(rig.cameras)):
        raise ConfigError(f"the checkpoint needs cameras {missing}, rig.cameras are {list(rig.cameras)}; add them")
    if 0 < rig.image_size < policy.image_size:
        raise ConfigError(
            f"the checkpoint looks at images of {policy.image_size} pixels, the rig's have {rig.image_size}; "
            f"set rig.image_size to {policy.image_size}"
        )
    if not math.isclose(policy.control_hz, rig.control_hz, rel_tol=RATE_TOLERANCE):
        raise ConfigError(
            f"the checkpoint acts at {policy.control_hz:g} Hz, the rig at {rig.control_hz:g} Hz; set the rig's rate "
            f"(rig.control_hz, at a robot rates.policy_hz) to {policy.control_hz:g}, or train on data of "
            f"{rig.control_hz:g} Hz"
        )


def _check_joints(policy: Interface, rig: Interface) -> None:
    if (policy.state_dim, policy.action_dim) != (rig.state_dim, rig.action_dim):
        raise ConfigError(
            f"the checkpoint reads {policy.state_dim} numbers and gives {policy.action_dim}, {rig.robot!r} has "
            f"{rig.action_dim} joints; use a checkpoint of this arm and hand"
        )
    if not policy.joint_names:
        logging.getLogger(__name__).warning(
            "the checkpoint does not name its joints (an older one): taken for those of %r, in order", rig.robot
        )
        return
    for index, (theirs, ours) in enumerate(itertools.zip_longest(policy.joint_names, rig.joint_names)):
        if theirs != ours:
            raise ConfigError(
                f"joint {index} is {theirs!r} for the checkpoint and {ours!r} for {rig.robot!r}; the same names in the "
                "same order are needed: train on data of this robot"
            )


def known_joint_names(robot: str, width: int) -> tuple[str, ...]:
    """Names of the joints in a recorded action of `width` numbers; () for a robot that is not described here."""
    spec = ROBOTS.get(robot)
    return spec.joint_names if spec is not None and spec.action_dim == width else ()


def check_kinematics(robot: str, action_space: str) -> None:
    """Raises ConfigError where `action_space` needs the kinematics of an arm that is not described here."""
    arm = known_joint_names(robot, ROBOTS[robot].action_dim)[:ARM_DOF] if robot in ROBOTS else ()
    if action_space != "recorded" and arm != FR3_DEXHAND021.joint_names[:ARM_DOF]:
        raise ConfigError(
            f"data.action_space {action_space!r}: needs the arm's kinematics, and there are none of robot {robot!r} "
            f"(there are of {sorted(ROBOTS)}); set data.action_space to 'recorded', with data.delta_dims for joints "
            "relative to now"
        )
