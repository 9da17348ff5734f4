"""Hands on a serial line: one thread does all of the talking, a target out and the joints in, period by period."""

import abc
import logging
import time

import numpy as np

from hardware.devices.streams import ActuatorStream, Sample

LOG = logging.getLogger(__name__)

MISSES = 5  # replies that fail one after the other before the reading is not valid any more
LOOK_S = 0.5  # between two looks at the hand's errors


class SerialHand(ActuatorStream[np.ndarray]):
    """Joints q_hand [m] rad; a subclass opens, writes, reads and names errors, which are cleared every `clear_s` s."""

    def __init__(
        self, name: str, period_s: float, joint_names: tuple[str, ...], lower: np.ndarray, upper: np.ndarray,
        max_velocity: np.ndarray, *, silent_s: float, connect_s: float, clear_s: float, remedy: str,
    ) -> None:  # fmt: skip
        super().__init__(
            name, period_s, joint_names, lower, upper, max_velocity, silent_s=silent_s, connect_s=connect_s,
            remedy=remedy,
        )  # fmt: skip
        self._clear_s = clear_s
        self._wanted: np.ndarray | None = None
        self._misses, self._errors = 0, ""
        self._looked = self._cleared = 0.0

    @abc.abstractmethod
    def _write(self, q_hand: np.ndarray) -> bool:
        """Sends a target [m] rad; whether it was taken."""

    @abc.abstractmethod
    def _read(self) -> np.ndarray | None:
        """Measured joints [m] rad; None where the reply was missing or broken."""

    @abc.abstractmethod
    def _look(self) -> str:
        """The hand's errors in words, "" where there are none."""

    @abc.abstractmethod
    def _clear(self) -> None:
        """Clears what can be cleared."""

    @abc.abstractmethod
    def _encoded(self, q_hand: np.ndarray) -> np.ndarray:
        """The target [m] rad as the hand will understand it."""

    def _send(self, target: np.ndarray, t_execute: float) -> np.ndarray:
        self._wanted = target
        return self._encoded(target)

    def _returned(self) -> None:
        super()._returned()
        self._wanted = None

    def _poll(self) -> Sample[np.ndarray] | None:
        self._wait_period()
        wanted = self._wanted
        if wanted is not None and self._write(wanted) and self._wanted is wanted:
            self._wanted = None
        q_hand, now = self._read(), time.monotonic()
        self._misses = 0 if q_hand is not None else self._misses + 1
        if q_hand is None:
            return Sample(None, now, f"{self._misses} replies missing or broken") if self._misses == MISSES else None
        if now - self._looked >= LOOK_S:
            self._looked = now
            self._heed(self._look(), now)
        return Sample(q_hand, now, alarm=self._errors)

    def _heed(self, errors: str, now: float) -> None:
        if errors and errors != self._errors:
            LOG.warning("%s: %s", self.name, errors)
        self._errors = errors
        if errors and now - self._cleared >= self._clear_s:
            LOG.warning("%s: clearing: %s", self.name, errors)
            self._cleared = now
            self._clear()
