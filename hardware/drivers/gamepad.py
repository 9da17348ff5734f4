"""A gamepad through pygame's controller API, with named buttons on any pad: operator, arm and hand from one pad.

Right shoulder: dead-man switch, held while the person is in control. Left stick: forward and left; right stick: up and
turn about the vertical. With the left shoulder held the sticks tilt instead. Right trigger: grasp; left trigger: pinch.
Cross left, right, down: the person takes the arm, the hand, both.
Several devices share one pad: SDL, below pygame, has one event queue for a process.
"""

import collections
import dataclasses
import os
import threading
import time
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from dexhil.robots import arm_ik
from dexhil.robots.poses import make_pose, rotation
from dexhil.robots.spec import FR3_DEXHAND021
from dexhil.schema import ARM_DOF
from hardware.devices.base import DeviceError, Health, OperatorState, Stamped
from hardware.devices.streams import Sample, Stream

DEADZONE = 0.1
FULL = 32767.0
BUTTONS = (  # in the order of SDL's game controllers
    "a", "b", "x", "y", "back", "guide", "start", "leftstick", "rightstick", "leftshoulder", "rightshoulder",
    "dpup", "dpdown", "dpleft", "dpright",
)  # fmt: skip
DEAD_MAN, TILT = "rightshoulder", "leftshoulder"
EVENTS = {
    "a": "success", "x": "failure", "y": "discard", "b": "estop", "dpup": "clear_estop", "start": "start",
    "back": "quit",
}  # fmt: skip
AUTHORITY = {"dpleft": "arm", "dpright": "hand", "dpdown": "both"}  # what a takeover takes, from now on
LARGEST_STEP_S = 0.1  # an arm that was not read for longer moves no further than in this time

OPEN = FR3_DEXHAND021.home[ARM_DOF:].astype(np.float64)
GRASP = np.array([1.57, 1.0, 0.9, 0.0, *[1.3, 1.1] * 4])  # the fingers close around, the thumb opposes
PINCH = np.array([0.84, 0.59, 0.5, 0.0, 0.89, 0.62, *[0.5, 0.3] * 3])  # thumb and index tip meet, 12 mm apart


@dataclasses.dataclass(frozen=True)
class PadState:
    """Sticks [2]: right and down, -1 to 1 outside the deadzone; triggers: 0 at rest to 1. held: names of BUTTONS."""

    left: np.ndarray
    right: np.ndarray
    left_trigger: float
    right_trigger: float
    held: frozenset[str]


def outside_deadzone(stick: np.ndarray) -> np.ndarray:
    """A stick [2] in -1..1 without the deadzone: 0 within, then rising from 0 to 1."""
    length = float(np.linalg.norm(stick))
    if length <= DEADZONE:
        return np.zeros(2)
    return stick / length * min(1.0, (length - DEADZONE) / (1.0 - DEADZONE))


def moved(pose: np.ndarray, state: PadState, elapsed_s: float, speed: float, turn_speed: float) -> np.ndarray:
    """`pose` [7] after `elapsed_s` of the sticks, at most at `speed` m/s and `turn_speed` rad/s, along its own axes."""
    if DEAD_MAN not in state.held:
        return pose
    (left_x, left_y), (right_x, right_y) = state.left, state.right
    if TILT in state.held:
        linear, angular = np.zeros(3), np.array([left_x, -left_y, -right_x])
    else:
        linear, angular = np.array([-left_y, -left_x, -right_y]), np.array([0.0, 0.0, -right_x])
    turn = Rotation.from_rotvec(turn_speed * elapsed_s * angular)
    return make_pose(pose[:3] + speed * elapsed_s * linear, turn * rotation(pose))


def synergy(state: PadState) -> np.ndarray:
    """Joints [12] rad of a DexHand021 between the open hand, the grasp (right trigger) and the pinch (left)."""
    grasp = state.right_trigger
    pinch = (1.0 - grasp) * state.left_trigger
    return OPEN + grasp * (GRASP - OPEN) + pinch * (PINCH - OPEN)


class Pad(Stream[PadState]):
    """The pad itself, by its number; its `listeners` get pressed buttons, its `users` are connected through it."""

    def __init__(self, index: int, period_s: float = 0.01) -> None:
        super().__init__(
            f"gamepad {index}", period_s, silent_s=0.3, connect_s=3.0,
            remedy="plug the pad in, or switch it on; other programs and its permissions may hide it too",
        )  # fmt: skip
        self._index = index
        self._controller: Any = None
        self.listeners: list[collections.deque[str]] = []
        self.users: set[_OnPad] = set()

    def _open(self) -> None:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # no window: the pad is read without focus
        os.environ.setdefault("SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS", "1")
        pygame, controller = self._load("pygame", "pygame"), self._load("pygame._sdl2.controller", "pygame")
        pygame.display.init()
        controller.init()
        pygame.event.get()
        if not (self._index < controller.get_count() and controller.is_controller(self._index)):
            raise DeviceError(self._message(f"not among the {controller.get_count()} pads that are plugged in"))
        self._controller = controller.Controller(self._index)

    def _close(self) -> None:
        if self._controller is not None:
            self._controller.quit()
        self._controller = None

    def _poll(self) -> Sample[PadState] | None:
        import pygame

        time.sleep(self.period_s)
        pressed = [event for event in pygame.event.get() if event.type == pygame.CONTROLLERBUTTONDOWN]
        if not self._controller.attached():  # its axes read 0 then, and pygame says that all is well
            raise DeviceError(self._message("unplugged"))
        for event in pressed:
            for pad in list(_PADS.values()):
                pad._heed(event)
        return Sample(self._state(), time.monotonic())

    def _heed(self, event: Any) -> None:
        pad = self._controller
        if pad is not None and event.instance_id == pad.id and event.button < len(BUTTONS):
            for listener in self.listeners:
                listener.append(BUTTONS[event.button])

    def _state(self) -> PadState:
        pad = self._controller
        left_x, left_y, right_x, right_y, left, right = (pad.get_axis(axis) / FULL for axis in range(6))
        held = frozenset(name for button, name in enumerate(BUTTONS) if pad.get_button(button))
        return PadState(
            outside_deadzone(np.array([left_x, left_y])), outside_deadzone(np.array([right_x, right_y])),
            max(0.0, left), max(0.0, right), held,
        )  # fmt: skip


_PADS: dict[int, Pad] = {}


class _OnPad:
    """What the devices of one pad share: it is open as long as one of them is."""

    def __init__(self, name: str, index: int, period_s: float) -> None:
        self.name, self.period_s = name, period_s
        self._pad = _PADS.setdefault(index, Pad(index))

    def connect(self) -> None:
        self._pad.connect()
        self._pad.users.add(self)

    def health(self) -> Health:
        return self._pad.health()

    def stop(self) -> None:
        self._pad.users.discard(self)
        if not self._pad.users:
            self._pad.stop()


class GamepadOperator(_OnPad):
    """Engaged while the dead-man switch is held; the events of EVENTS, {button: event}, once each."""

    def __init__(self, *, index: int = 0, name: str = "operator", period_s: float = 0.01) -> None:
        super().__init__(name, index, period_s)
        self._authority = "both"
        self._pressed: collections.deque[str] = collections.deque(maxlen=64)
        self._pad.listeners.append(self._pressed)

    def read(self) -> Stamped[OperatorState] | None:
        """As `Device.read`; a pad that is gone engages nothing."""
        reading = self._pad.read()
        if reading is None:
            return None
        pressed = [self._pressed.popleft() for _ in range(len(self._pressed))]
        events = tuple(EVENTS[button] for button in pressed if button in EVENTS)
        for button in pressed:
            self._authority = AUTHORITY.get(button, self._authority)
        engage = reading.valid and DEAD_MAN in reading.value.held
        return reading.with_value(OperatorState(engage, events, self._authority))


class GamepadArm(_OnPad):
    """A tracker's pose [7] that the sticks move: see `moved`. It starts at the end effector's home in the robot's base.

    With C of DexHiL eq. 3 the identity, the sticks push along the robot's base as long as this pose is turned like the
    end effector: call `anchor` when a takeover begins.
    """

    def __init__(
        self, *, index: int = 0, speed: float = 0.15, turn_speed: float = 0.6, name: str = "tracker",
        period_s: float = 1 / 30,
    ) -> None:  # fmt: skip
        super().__init__(name, index, period_s)
        self._speed, self._turn_speed = speed, turn_speed
        self._pose = arm_ik.forward(FR3_DEXHAND021.home[:ARM_DOF].astype(np.float64))
        self._moved_at, self._lock = time.monotonic(), threading.Lock()

    def anchor(self, pose_base_ee: np.ndarray) -> None:
        """The sticks move on from `pose_base_ee` [7]."""
        with self._lock:
            self._pose = np.array(pose_base_ee, np.float64)

    def read(self) -> Stamped[np.ndarray] | None:
        """As `Device.read`; the pose has moved on by the time since the last read."""
        reading = self._pad.read()
        if reading is None:
            return None
        with self._lock:
            now = time.monotonic()
            elapsed, self._moved_at = min(now - self._moved_at, LARGEST_STEP_S), now
            if reading.valid:
                self._pose = moved(self._pose, reading.value, elapsed, self._speed, self._turn_speed)
            return reading.with_value(self._pose.copy())


class GamepadHand(_OnPad):
    """A person's DexHand021 [12] rad, absolute, from the triggers: see `synergy`."""

    def __init__(self, *, index: int = 0, name: str = "hand of the pad", period_s: float = 0.01) -> None:
        super().__init__(name, index, period_s)

    def read(self) -> Stamped[np.ndarray] | None:
        reading = self._pad.read()
        return None if reading is None else reading.with_value(synergy(reading.value))
