"""The policy's side of the control loop: the chunk executor, and the reports of the process that plans for it."""

import threading
from collections.abc import Callable

import numpy as np

from dexhil.control.executor import Due, Executor, Request
from hardware.runtime.policy_process import Report
from hardware.settings import PolicyConfig

STARTING = "policy: no plan yet"


class PolicySource:
    """What the policy commands, by `newest_report`. The observer's thread calls `request`, control all else."""

    def __init__(
        self, newest_report: Callable[[], Report | None] | None, action_dim: int, control_hz: float,
        config: PolicyConfig,
    ) -> None:  # fmt: skip
        self._newest_report, self._action_dim, self._stale_s = newest_report, action_dim, config.stale_s
        self._executor = Executor(control_hz, config)
        self._lock = threading.Lock()
        self._answered = 0
        self._open = False
        self.fault = ""

    def begin(self) -> None:
        """An episode begins: plans are asked for, and none of before counts."""
        with self._lock:
            self._executor.restart()
            self._open, self.fault = self._newest_report is not None, ""

    def end(self) -> None:
        """Nothing is asked for any more."""
        self._open = False

    def request(self, observed: float) -> Request | None:
        """What to ask for an observation made at `observed`, None for nothing; see `Executor.request`."""
        with self._lock:
            return self._executor.request(observed) if self._open else None

    def rest(self, command: np.ndarray) -> None:
        with self._lock:
            self._executor.rest(command)

    def watch(self) -> None:
        with self._lock:
            self._executor.watch()

    def due(self, now: float) -> Due | None:
        """What the policy commands at `now`; None while it waits for a plan, and where `fault` says what is wrong."""
        if self._newest_report is None or not self._open:
            return None
        report = self._newest_report()
        with self._lock:
            self._hear(report, now)
            pending = self._executor.pending
            if pending is not None and now - pending.time > self._stale_s:
                self._executor.fail(pending)
                self.fault = f"policy: asked {now - pending.time:.2f} s ago, no answer (limit {self._stale_s} s)"
            return None if self.fault else self._executor.due(now)

    def _hear(self, report: Report | None, now: float) -> None:
        if report is None:
            self.fault = STARTING
            return
        self._executor.max_delay = report.identity.get("max_delay")
        if report.request is None or report.request.number == self._answered:
            self.fault = "" if self.fault == STARTING else self.fault
            return
        self._answered = report.request.number
        self._executor.fail(report.request)
        self.fault = report.error or self._refused(report.actions)
        if self.fault or report.actions is None:
            return
        try:
            self._executor.add(report.request, report.actions, now)
        except ValueError as error:
            self.fault = f"policy: {error}"

    def _refused(self, actions: np.ndarray | None) -> str:
        if actions is None or (actions.ndim == 2 and actions.shape[1] == self._action_dim):
            return ""
        return f"policy: plans {list(actions.shape)}, this robot takes [H, {self._action_dim}]"
