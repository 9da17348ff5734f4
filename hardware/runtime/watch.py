"""Which devices can be trusted now: watchdogs over the age of their readings, and why the robot must hold."""

from collections.abc import Mapping
from typing import Any

from dexhil.control.safety import SafetySettings
from hardware.devices.base import Actuator, Camera, Device, Stamped
from hardware.runtime.messages import Messages

AHEAD_S = 1.0  # a reading may be newer than the tick that looks at it, by as long as the tick was held up
LOST_S = 1.0  # an actuator that was silent for so long is lost: it needs a new connection, and a person's consent


def too_old(reading: Stamped[Any] | None, period_s: float, now: float, settings: SafetySettings) -> str:
    """Why a reading must not be used, "" where it may: absent, invalid, measured or received too long ago, future."""
    if reading is None:
        return "gives no reading"
    limit = max(settings.watchdog_periods * period_s, settings.watchdog_min_s)
    age = now - reading.t_received
    if age > limit:
        return f"is silent for {1e3 * age:.0f} ms (limit {1e3 * limit:.0f} ms)"
    if age < -max(limit, AHEAD_S):
        return f"has a reading from {-1e3 * age:.0f} ms ahead: a clock jumped"
    if now - reading.t_device > limit:
        late, age = reading.t_received - reading.t_device, now - reading.t_device
        return f"says what was {1e3 * age:.0f} ms ago, {1e3 * late:.0f} ms late on arrival (limit {1e3 * limit:.0f} ms)"
    return "" if reading.valid else "says that its reading cannot be trusted"


def check_device(device: Device[Any], now: float, settings: SafetySettings) -> tuple[Stamped[Any] | None, str]:
    """(its newest reading, why that must not be used as in `too_old`, with the device's own words; "" where it may)."""
    reading = device.read()
    fault = too_old(reading, device.period_s, now, settings)
    said = device.health().message if fault else ""
    return reading, f"{fault} ({said})" if said else fault


class DeviceWatch:
    """What is wrong with the devices. Each of it holds the robot.

    Attributes:
        faults: what is wrong now, name -> message.
        outside: what others found wrong, replaced as a whole.
        lost: actuators that need a new connection and a person's consent.
    """

    def __init__(
        self, actuators: Mapping[str, Actuator[Any]], cameras: Mapping[str, Camera], settings: SafetySettings,
        messages: Messages,
    ) -> None:  # fmt: skip
        self._actuators, self._cameras, self._settings, self._messages = actuators, cameras, settings, messages
        self.faults: dict[str, str] = {}
        self.outside: dict[str, str] = {}
        self.lost: dict[str, str] = {}

    def holding(self, now: float, *, at_work: bool) -> str:
        """Looks at all devices; why nobody may command, "" where somebody may. at_work: silent actuators are lost."""
        for name, device in self._actuators.items():
            silent_s, fault = self._check(name, name, device, now)
            if fault and silent_s > LOST_S and at_work:
                self.lose(now, name, fault)
        for name, camera in self._cameras.items():
            self._check(f"camera_{name}", "camera", camera, now)
        wrong = self.lost | self.faults | self.outside
        for cause, message in wrong.items():
            self._messages.note(now, f"watchdog:{cause}", message)
        return next(iter(wrong.values()), "")

    def report(self, name: str, message: str) -> None:
        """`message` says what is wrong with `name` now, "" for nothing."""
        if message:
            self.faults[name] = message
        else:
            self.faults.pop(name, None)

    def lose(self, now: float, name: str, message: str) -> None:
        """Actuator `name` is commanded nothing more until `take_back`."""
        if name not in self.lost:
            self.lost[name] = message
            self._messages.say(now, f"LOST {message}. Once it works again, press clear to go on")

    def take_back(self, now: float) -> bool:
        """A person says that it is safe: lost actuators that work again are taken back; whether there were any."""
        found = False
        for name in list(self.lost):
            device = self._actuators[name]
            health = device.health()
            if health.ok and not check_device(device, now, self._settings)[1]:
                del self.lost[name]
                found = True
            else:
                why = health.message or self.lost[name]
                self._messages.say(now, f"{name} {device.name}: still lost: {why}")
        return found

    def _check(self, cause: str, role: str, device: Device[Any], now: float) -> tuple[float, str]:
        reading, fault = check_device(device, now, self._settings)
        if fault:
            fault = f"{role if device.name == role else f'{role} {device.name}'} {fault}"
        self.report(cause, fault)
        return (0.0 if reading is None else now - reading.t_received), fault
