"""The two loops of a session as threads: control at the hand's rate, the observer at the policy's; rates and jitter."""

import gc
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from hardware.devices.base import DeviceError
from hardware.runtime.control import Control
from hardware.runtime.pace import LoopStats, Pace
from hardware.runtime.scheduling import run_as_others, run_first

PRIORITIES = {"control": 30, "observer": 20}  # of real-time scheduling
SWITCH_S = 0.0005  # control is not to wait for another thread's turn


class Loops:
    """Starts and ends the threads. scheduling: what the system allowed, see `run_first`; "" before the start."""

    def __init__(self, control: Control, observe: Callable[[float], None]) -> None:
        rates = control.rates
        self._control, self._observe = control, observe
        self._per_arm = round(rates.hand_hz / rates.arm_hz)
        self._hand_pace, self._observer_pace = Pace(rates.hand_hz), Pace(rates.policy_hz)
        self._arm_stats = LoopStats(rates.arm_hz)
        self._running, self._threads, self._broken = threading.Event(), list[threading.Thread](), ""
        self._switch_s = sys.getswitchinterval()
        self.scheduling = ""

    def start(self) -> None:
        """Starts both loops, ahead of other programs where the system allows it."""
        sys.setswitchinterval(SWITCH_S)
        gc.collect()
        gc.freeze()  # what lives for the whole run is not looked through again
        self._running.set()
        loops = {"control": self._control_loop, "observer": self._observer_loop}
        self._threads = [
            threading.Thread(target=self._guarded, args=(loop,), name=name, daemon=True) for name, loop in loops.items()
        ]
        for thread in self._threads:
            thread.start()
        self.scheduling = run_first({thread.native_id or 0: PRIORITIES[thread.name] for thread in self._threads})

    def stop(self) -> None:
        self._running.clear()
        for thread in self._threads:
            thread.join(2.0)
        sys.setswitchinterval(self._switch_s)
        gc.unfreeze()
        run_as_others()

    def check(self) -> None:
        """Raises DeviceError where a loop has died: nobody controls the robot any more."""
        if not all(thread.is_alive() for thread in self._threads):
            raise DeviceError(f"a control loop died: {self._broken}")

    def stats(self) -> dict[str, dict[str, Any]]:
        """Rate and jitter of every loop since the start."""
        return {
            "arm": self._arm_stats.summary(),
            "hand": self._hand_pace.stats.summary(),
            "observer": self._observer_pace.stats.summary(),
        }

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except Exception as error:
            self._broken = f"{type(error).__name__}: {error}"
            raise

    def _control_loop(self) -> None:
        last_arm = -1
        while self._running.is_set():
            index = self._hand_pace.wait()
            now = time.monotonic()
            arm_index = index // self._per_arm
            arm_due = arm_index != last_arm
            if arm_due:
                self._arm_stats.add(now, arm_index / self._control.rates.arm_hz)
                last_arm = arm_index
            self._control.tick(now, arm_due)

    def _observer_loop(self) -> None:
        while self._running.is_set():
            self._observer_pace.wait()
            self._observe(time.monotonic())
