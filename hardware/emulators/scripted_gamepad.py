"""A gamepad that presses its own buttons: SDL's virtual pad, plugged in here, and a person's habits as a schedule.

For trying the whole stack where nobody sits at the robot. It goes the way of every button through SDL and the driver.
"""

from __future__ import annotations

import threading
import time

from hardware.drivers.gamepad import DEAD_MAN, GamepadOperator
from hardware.emulators.gamepad import VirtualGamepad

PRESS_S = 0.1


class ScriptedGamepad(GamepadOperator):
    """From take_s to give_s of every cycle of cycle_s it holds the dead-man switch and pushes forward.

    It presses start before that in every other cycle, and success at the end of the one after it: a rig that is slow to
    start still sees a whole takeover in every episode. Clear it presses now and then: emulators on a busy machine miss
    the robot's deadlines, and a robot that was lost waits for it.
    """

    def __init__(
        self, *, cycle_s: float = 8.0, take_s: float = 3.0, give_s: float = 5.0, name: str = "operator"
    ) -> None:
        self._virtual = VirtualGamepad()  # before the driver looks for a pad
        super().__init__(name=name)
        self._cycle_s, self._take_s, self._give_s = cycle_s, take_s, give_s
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def connect(self) -> None:
        super().connect()
        if self._thread is None:
            self._thread = threading.Thread(target=self._act, name="scripted person", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        super().stop()

    def _act(self) -> None:
        began, presses = time.monotonic(), 0
        while not self._done.wait(0.02):
            cycles, at = divmod(time.monotonic() - began, self._cycle_s)
            holds = self._take_s <= at < self._give_s
            self._virtual.button(DEAD_MAN, holds)
            self._virtual.axis("lefty", -0.5 if holds else 0.0)
            number = int((time.monotonic() - began) / 0.5)
            if number != presses:
                presses = number
                if cycles % 2 == 0 and at < self._take_s:
                    self._press("start")
                elif cycles % 2 == 1 and at > self._cycle_s - 0.6:
                    self._press("a")
                else:
                    self._press("dpup")

    def _press(self, button: str) -> None:
        self._virtual.button(button, True)
        self._done.wait(PRESS_S)
        self._virtual.button(button, False)
