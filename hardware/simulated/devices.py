"""The simulator behind the interfaces of `hardware.devices.base`: what `--rig sim` puts in place of drivers."""

from typing import Any

import numpy as np

from hardware.devices.base import DeviceError, Health, OperatorState, Stamped
from hardware.runtime.slots import SharedSlot
from hardware.simulated.world import STEP_HZ, TRACKER_EVERY, Target, World

READY_S = 1 / 30  # how often a state is promised; the simulator gives it three times as often, less while it renders


class SimDevice:
    """A device that only speaks. slot: what the simulator says about it."""

    def __init__(self, name: str, world: World, slot: SharedSlot[Stamped[Any]], period_s: float) -> None:
        self.name, self.period_s = name, period_s
        self._world, self._slot = world, slot

    def connect(self) -> None:
        self._world.start()

    def read(self) -> Stamped[Any] | None:
        return self._slot.read()

    def health(self) -> Health:
        return Health(True) if self._world.alive else Health(False, "the simulator's process ended; start again")

    def stop(self) -> None:
        self._world.stop()


class SimActuator(SimDevice):
    """Arm or hand. targets: where the simulator reads what they were commanded."""

    def __init__(
        self, name: str, world: World, slot: SharedSlot[Stamped[Any]], targets: SharedSlot[Target], period_s: float
    ) -> None:
        super().__init__(name, world, slot, period_s)
        self._targets, self._epoch = targets, 0
        self._commanded: np.ndarray | None = None

    def command(self, target: np.ndarray, t_execute: float, epoch: int) -> np.ndarray:
        if not self._world.alive:
            raise DeviceError(f"{self.name}: the simulator's process ended")
        if epoch >= self._epoch or self._commanded is None:
            self._epoch, self._commanded = epoch, np.array(target, np.float32)
            self._targets.write(Target(self._commanded, t_execute))
        return self._commanded.copy()


class SimOperator(SimDevice):
    """The simulated person's decisions; `success` comes from the rig, which judges itself."""

    _successes = 0
    _pressed: tuple[str, ...] = ()

    def press(self, event: str) -> None:
        """What a person at the robot would press, for the simulated one who is not there."""
        self._pressed += (event,)

    def read(self) -> Stamped[OperatorState] | None:
        reading = self._slot.read()
        if reading is None:
            return None
        events = ("success",) * (reading.value.successes - self._successes)
        self._successes = reading.value.successes
        events += self._pressed
        self._pressed = ()
        return reading.with_value(OperatorState(reading.value.engage, events, reading.value.authority))


def sim_devices(world: World) -> dict[str, Any]:
    """{"arm", "hand", "cameras": {name: …}, "tracker", "glove", "operator"}."""
    period = 1.0 / world.rig.control_hz
    return {
        "arm": SimActuator("simulated arm", world, world.arm, world.arm_target, READY_S),
        "hand": SimActuator("simulated hand", world, world.hand, world.hand_target, READY_S),
        "cameras": {name: SimDevice(f"simulated {name}", world, slot, period) for name, slot in world.images.items()},
        "tracker": SimDevice("simulated cube", world, world.tracker, TRACKER_EVERY / STEP_HZ),
        "glove": SimDevice("simulated glove", world, world.glove, 1.0 / STEP_HZ),
        "operator": SimOperator("simulated person", world, world.person, READY_S),
    }
