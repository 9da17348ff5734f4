"""What a person is told by the control loop, and what the safety log puts out for the record."""

import queue
import re
from collections import deque
from typing import Any

import numpy as np

from dexhil.control.safety import SafetyLog

TELL_AGAIN_S = 5.0  # a person is not told the same again sooner; the log has it all
_NUMBER = re.compile(r"[\d.]+")  # two messages that differ in numbers alone say the same


class Messages:
    """told: (t, message) for the person. interventions: of the safety layer, as they end. Others take from both."""

    def __init__(self, log: SafetyLog) -> None:
        self._log = log
        self.told: deque[tuple[float, str]] = deque(maxlen=1000)
        self.interventions: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._told_at: dict[tuple[str, str], float] = {}
        self._noted: dict[str, tuple[str, str]] = {}

    def say(self, now: float, message: str) -> None:
        self.told.append((now, message))

    def note(self, now: float, cause: str, message: str) -> None:
        """Into the safety log; the person is told once, and again where the message says something else."""
        begins = self._log.note(now, cause, message)
        says = cause, _NUMBER.sub("", message)
        changed = self._noted.get(cause) != says
        self._noted[cause] = says
        if (begins or changed) and now - self._told_at.get(says, -np.inf) > TELL_AGAIN_S:
            self._told_at[says] = now
            self.say(now, f"the robot holds: {message}")

    def put_out(self, now: float, *, all_of_them: bool = False) -> None:
        """Interventions that have ended. all_of_them: those that still go on, too."""
        for span in self._log.take(now, all_of_them=all_of_them):
            self.interventions.put(span)
