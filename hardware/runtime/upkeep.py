"""What a session keeps alive beside its loops: the policy's process and lost devices."""

import threading
import time
from collections.abc import Callable
from typing import Any

from hardware.devices.base import DeviceError
from hardware.runtime.control import Control
from hardware.runtime.policy_process import PolicyProcess

RECONNECT_S = 2.0
FRUITLESS_STARTS = 3  # of a policy that did not give a plan since its start: after so many in a row it is given up


class Upkeep:
    """Starts a broken policy again and connects lost devices again. restarts: of the policy, all of them."""

    def __init__(self, control: Control, policy: PolicyProcess | None, say: Callable[[str], None]) -> None:
        self._control, self._policy, self._say = control, policy, say
        self._reconnecting: threading.Thread | None = None
        self.restarts = self._fruitless = 0

    def look_after(self, now: float) -> None:
        """One round, at once. Raises DeviceError where the policy ends again and again before its first plan."""
        self._keep_policy(now)
        lost = [getattr(self._control, name) for name in list(self._control.watch.lost)]
        busy = self._reconnecting is not None and self._reconnecting.is_alive()
        broken = [device for device in lost if not device.health().ok]
        if broken and not busy:
            self._reconnecting = threading.Thread(target=self._connect_again, args=(broken[0],), daemon=True)
            self._reconnecting.start()

    def _keep_policy(self, now: float) -> None:
        """A policy process that ended or hangs is started again; control holds meanwhile, for want of a plan."""
        policy = self._policy
        fault = policy.fault(now) if policy is not None else ""
        if not fault or policy is None:
            return
        report = policy.newest()
        self._fruitless = 0 if report is not None and report.actions is not None else self._fruitless + 1
        if self._fruitless >= FRUITLESS_STARTS:
            raise DeviceError(f"{fault}. Started {self._fruitless} times without a plan, it is given up")
        self._say(f"{fault}; it is started again")
        self.restarts += 1
        policy.start()

    def _connect_again(self, device: Any) -> None:
        try:
            device.stop()
            device.connect()
            self._say(f"{device.name}: connected again; press clear to go on")
        except DeviceError as error:
            self._say(f"{device.name}: {error}")
            time.sleep(RECONNECT_S)
