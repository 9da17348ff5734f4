"""Changes of control during an episode, from the policy to a person and back, and how far each sends the robot."""

from __future__ import annotations

import dataclasses
import queue
from collections.abc import Callable

import numpy as np

from dexhil.control.executor import Due
from dexhil.control.takeover import Decision, Jump, Mode, jump


@dataclasses.dataclass(frozen=True)
class Change:
    """kind: "takeover" or "release". t: monotonic s.

    asked: the new command, before limits and before it fades in, against where the robot would have come to rest.
    felt: the executed command against the way there, one tick on. still: plays a takeover in which the person holds
    still, see `dexhil.control.jumps`: that is its jump; too slow for a control loop.
    """

    t: float
    kind: str
    asked: Jump
    felt: Jump
    still: Callable[[], Jump] | None = None

    def played(self) -> Change:
        """A takeover with how far it sends the robot while the person holds still, as `asked`."""
        return self if self.still is None else dataclasses.replace(self, asked=self.still(), still=None)


class Changes:
    """The control loop notes them tick by tick, another thread takes them."""

    def __init__(self) -> None:
        self._found: queue.SimpleQueue[Change] = queue.SimpleQueue()
        self._person_led = False

    def begin(self) -> None:
        """An episode begins, and nobody has taken over yet."""
        self._person_led = False

    def note(
        self, now: float, before: Mode, decision: Decision, due: Due | None, *, rest: np.ndarray, coasting: np.ndarray,
        command: np.ndarray, still: Callable[[], Jump] | None,
    ) -> None:  # fmt: skip
        """A tick in which `decision` followed `before`; [A] rad: the place of `rest`, `coasting` there, the command."""
        if decision.mode is Mode.ENGAGING:
            self._person_led = True
            self._found.put(Change(now, "takeover", jump(rest, decision.command), jump(coasting, command), still))
        elif due is not None and decision.mode is Mode.AUTONOMOUS is not before and self._person_led:
            self._person_led = False
            self._found.put(Change(now, "release", jump(rest, due.planned), jump(coasting, command)))

    def take(self) -> list[Change]:
        """Those since the last call."""
        return [self._found.get() for _ in range(self._found.qsize())]
