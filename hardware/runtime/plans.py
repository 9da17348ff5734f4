"""A policy's chunk as a plan in time: which command is due when, and no jump from one plan to the next."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Plan:
    """actions: float32 [H, A] rad. t_observed: monotonic s of what it was made from. epoch: of the takeover state then.
    number: counts plans.
    """

    actions: np.ndarray
    t_observed: float
    epoch: int
    number: int


def due(plan: Plan, t: float, control_hz: float) -> np.ndarray | None:
    """The command [A] rad to be reached at `t`, None where the plan has ended.

    Row i is sent i / control_hz after the observation and reached a period later, with a straight line between rows: a
    plan that comes late starts in its middle.
    """
    at = (t - plan.t_observed) * control_hz - 1.0
    if at > len(plan.actions) - 1:
        return None
    row = int(max(at, 0.0))
    after = min(row + 1, len(plan.actions) - 1)
    share = max(at, 0.0) - row
    return ((1.0 - share) * plan.actions[row] + share * plan.actions[after]).astype(np.float32)


class Handover:
    """Fades what a new plan differs by from the last command, so that neither a new plan nor a hand-back jumps.

    fade_s: after which 1/e of the difference is left.
    """

    def __init__(self, fade_s: float, control_hz: float) -> None:
        self._fade_s, self._hz = fade_s, control_hz
        self._plan: Plan | None = None
        self._offset: np.ndarray | float = 0.0
        self._last = 0.0

    def __call__(self, plan: Plan, t: float, command: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray] | None:
        """(command [A] to be reached at `t`, the plan's own row [A]); None where the plan has ended.

        command: [A] rad, what the robot was told or will come to rest at, where the policy is not in control: it is
        where the plan is to begin.
        """
        row = due(plan, t, self._hz)
        if row is None:
            return None
        if command is not None:
            self._offset = command - row
        elif self._plan is not None and plan.number != self._plan.number:
            old = due(self._plan, t, self._hz)
            self._offset = self._offset * self._faded(t) + (0.0 if old is None else old - row)
        else:
            self._offset = self._offset * self._faded(t)
        self._plan, self._last = plan, t
        return (row + self._offset).astype(np.float32), row

    def _faded(self, t: float) -> float:
        return float(np.exp(-max(t - self._last, 0.0) / self._fade_s))
