"""The safety layer and the watchdog by themselves: the guard over arm and hand, soft start, the age of readings."""

import dataclasses

import numpy as np
import pytest

from dexhil.control.guard import depths
from dexhil.control.safety import SafetyLayer
from dexhil.robots import arm_ik
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.schema import ARM_DOF
from hardware.devices.base import Stamped
from hardware.runtime.watch import too_old
from tests.hardware.fakes import BOX, SETTINGS, TICK_S

FIST, OPEN = SPEC.upper[ARM_DOF:].copy(), SPEC.lower[ARM_DOF:].copy()
FIST[[0, 3]] = OPEN[[0, 3]] = SPEC.home[ARM_DOF], 0.0


class Layer(SafetyLayer):
    """A safety layer with its own clock."""

    def __init__(self, **settings: float) -> None:
        super().__init__(SPEC, dataclasses.replace(SETTINGS, **settings), arm_hz=30.0, hand_hz=90.0)
        self.ticks = 0

    def go(self, goal: np.ndarray, seconds: float) -> list[np.ndarray]:
        """Every command on the way to `goal` [A] rad."""
        commands = []
        for _ in range(round(seconds / TICK_S)):
            commands.append(self.limit(goal.astype(np.float32), self.ticks * TICK_S, self.ticks % 3 == 0))
            self.ticks += 1
        return commands

    def causes(self) -> set[str]:
        return {span["cause"] for span in self.log.take(self.ticks * TICK_S, all_of_them=True)}


def low_with_a_fist(layer: Layer) -> np.ndarray:
    """Lowers the arm until the guard stops it, the hand closed; the arm's joints [7] rad there."""
    q_arm = SPEC.home[:ARM_DOF].astype(float)
    layer.go(np.concatenate([q_arm, FIST]), 1.5)
    pose = arm_ik.forward(q_arm)
    for height in np.linspace(pose[2], -0.2, 60):
        pose[2] = height
        q_arm = arm_ik.solve(pose, q_arm).q_arm
        layer.go(np.concatenate([q_arm, FIST]), 0.2)
    assert layer.blocked
    layer.causes()
    return layer.arm.motion.q


def test_fingers_that_open_over_the_table_stop_before_it_and_close_again():
    layer = Layer()
    q_arm = low_with_a_fist(layer)
    low = np.concatenate([q_arm, OPEN])
    for command in layer.go(low, 2.0):
        assert depths(command[:ARM_DOF].astype(float), command[ARM_DOF:].astype(float), BOX).max() < 1e-3
    assert "table" in layer.causes()
    assert not np.allclose(layer.command[ARM_DOF:], OPEN, atol=0.2)
    assert not np.allclose(layer.command[ARM_DOF:], FIST, atol=0.1)  # it had room for a part of the way
    np.testing.assert_allclose(layer.go(np.concatenate([q_arm, FIST]), 2.0)[-1][ARM_DOF:], FIST, atol=1e-3)
    free = np.concatenate([SPEC.home[:ARM_DOF], OPEN])
    np.testing.assert_allclose(layer.go(free, 4.0)[-1], free, atol=1e-3)


def test_arm_and_hand_that_move_at_once_stop_before_the_table_together():
    layer = Layer()
    q_arm, pose = SPEC.home[:ARM_DOF].astype(float), arm_ik.forward(SPEC.home[:ARM_DOF].astype(float))
    pose[2] = -0.1
    goal = np.concatenate([arm_ik.solve(pose, q_arm).q_arm, OPEN])
    layer.go(np.concatenate([q_arm, FIST]), 1.5)
    for command in layer.go(goal, 3.0):
        assert depths(command[:ARM_DOF].astype(float), command[ARM_DOF:].astype(float), BOX).max() < 1e-3
    assert layer.causes() & {"table", "workspace"}


def test_a_hand_that_does_not_make_it_worse_moves_where_the_arm_stands_wrong():
    layer = Layer()
    outside = SPEC.home.copy()
    outside[0] = 2.5  # beside the box
    layer.reset(outside, 0.0)
    goal = np.concatenate([outside[:ARM_DOF], FIST])
    np.testing.assert_allclose(layer.go(goal, 2.0)[-1], goal, atol=1e-3)


def test_where_arm_and_hand_would_come_to_rest_together_is_always_allowed():
    layer, rng = Layer(), np.random.default_rng(0)
    q_arm, pose = SPEC.home[:ARM_DOF].astype(float), arm_ik.forward(SPEC.home[:ARM_DOF].astype(float))
    pose[2] = 0.0
    low = arm_ik.solve(pose, q_arm).q_arm
    for _ in range(40):
        arm = q_arm + rng.uniform(0.2, 1.2) * (low - q_arm)
        layer.go(np.concatenate([arm, FIST if rng.uniform() < 0.5 else OPEN]), 0.25)
        rest = layer.resting_point().astype(float)
        assert depths(rest[:ARM_DOF], rest[ARM_DOF:], BOX).max() < 1e-4
    assert "table" in layer.causes()


def test_the_first_reason_of_an_emergency_stop_stays():
    layer = Layer()
    layer.estop("pressed")
    layer.estop("a device was lost")
    assert layer.estopped == "pressed"


@pytest.mark.parametrize("begin", ["reset", "clear"])
def test_motion_starts_softly(begin: str):
    """In the first tenth of the soft start the speed stays below a tenth; full speed comes at its end."""
    layer, goal = Layer(soft_start_s=2.0), np.concatenate([SPEC.home[:ARM_DOF], FIST])
    layer.go(SPEC.home, 3.0)
    if begin == "reset":
        layer.reset(SPEC.home, layer.ticks * TICK_S)
    else:
        layer.estop("pressed")
        layer.go(goal, 0.5)
        layer.clear(layer.ticks * TICK_S)
    fastest = SETTINGS.velocity_fraction * float(SPEC.max_velocity[ARM_DOF:].max())
    commands = np.stack([layer.command, *layer.go(goal, 0.2)])
    assert 0.0 < np.abs(np.diff(commands, axis=0)).max() / TICK_S < 0.11 * fastest
    layer.go(np.concatenate([SPEC.home[:ARM_DOF], OPEN]), 2.5)
    commands = np.stack(layer.go(goal, 1.0))
    assert np.abs(np.diff(commands, axis=0)).max() / TICK_S > 0.9 * fastest


NOW = 100.0


@pytest.mark.parametrize(
    ("measured", "arrived", "fault"),
    [
        (NOW - 0.05, NOW - 0.04, ""),
        (NOW - 3.0, NOW, "says what was 3000 ms ago, 3000 ms late on arrival"),
        (NOW - 0.2, NOW - 0.1, "says what was 200 ms ago, 100 ms late on arrival"),
        (NOW - 3.0, NOW - 3.0, "is silent for 3000 ms"),
        (NOW + 5.0, NOW + 5.0, "from 5000 ms ahead: a clock jumped"),
        (NOW + 5.0, NOW, ""),
    ],
)  # fmt: skip
def test_a_reading_is_as_old_as_what_it_shows(measured: float, arrived: float, fault: str):
    found = too_old(Stamped(0, measured, arrived, 7), 0.05, NOW, SETTINGS)
    assert (fault in found) if fault else found == ""


def test_a_reading_that_is_invalid_or_absent_is_not_used():
    assert "cannot be trusted" in too_old(Stamped(0, NOW, NOW, 7, valid=False), 0.05, NOW, SETTINGS)
    assert too_old(None, 0.05, NOW, SETTINGS) == "gives no reading"
