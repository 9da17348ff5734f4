"""A gamepad that presses its own buttons on a schedule, for trying the whole stack where nobody sits at the robot."""

import threading
import time

from hardware.drivers.gamepad import DEAD_MAN, GamepadOperator
from hardware.emulators.gamepad import VirtualGamepad

CYCLE_S, TAKE_S, GIVE_S = 8.0, 3.0, 5.0
PRESS_S, EVERY_S = 0.1, 0.5  # how long a button is pressed, and how often


class ScriptedGamepad(GamepadOperator):
    """Takes over and pushes from TAKE_S to GIVE_S of every cycle; presses start, success and clear in between."""

    def __init__(self, *, name: str = "operator") -> None:
        self._virtual = VirtualGamepad()  # before the driver looks for a pad
        super().__init__(name=name)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._act, name="scripted person", daemon=True)

    def connect(self) -> None:
        super().connect()
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()
        super().stop()

    def _act(self) -> None:
        began, presses = time.monotonic(), 0
        while not self._done.wait(0.02):
            elapsed = time.monotonic() - began
            cycles, at = divmod(elapsed, CYCLE_S)
            holds = TAKE_S <= at < GIVE_S
            self._virtual.button(DEAD_MAN, holds)
            self._virtual.axis("lefty", -0.5 if holds else 0.0)
            if elapsed // EVERY_S > presses:
                presses = elapsed // EVERY_S
                starts, succeeds = cycles % 2 == 0 and at < TAKE_S, cycles % 2 == 1 and at > CYCLE_S - 0.6
                self._press("start" if starts else "a" if succeeds else "dpup")

    def _press(self, button: str) -> None:
        self._virtual.button(button, True)
        self._done.wait(PRESS_S)
        self._virtual.button(button, False)
