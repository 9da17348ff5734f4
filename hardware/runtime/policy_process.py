"""The policy in a process of its own: it may be slow, hang, crash or return nonsense, and control goes on."""

import dataclasses
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dexhil.control.executor import Request, RtcChoice
from dexhil.evaluation.rollout import Policy
from dexhil.schema import Observation
from dexhil.workers import leave_signals_to_parent, use_one_thread
from hardware.runtime.pace import Pace
from hardware.runtime.slots import SharedSlot

OFFSET_S = 0.004  # after the observer's tick on the common grid
SERVER_S = 2.0  # the longest that a policy server may take; less than what counts as hung
LOAD_S = 300.0  # a policy that is not loaded after so long does not load
HEAD_BYTES = 1 << 16
REPORT_BYTES = 1 << 18


@dataclasses.dataclass(frozen=True)
class Question:
    """What to plan, from what. seed: of the policy's noise."""

    observation: Observation
    request: Request
    seed: int


@dataclasses.dataclass(frozen=True)
class Report:
    """What the process last said.

    Attributes:
        t: s, monotonic.
        request: the last that was answered, with actions float32 [H, A] rad or with an `error`.
        identity: {"checkpoint_id", "info": PolicyInfo, "max_delay"} of the policy; empty while it loads.
        stats: of its loop.
    """

    t: float
    request: Request | None = None
    actions: np.ndarray | None = None
    error: str = ""
    identity: dict[str, Any] = dataclasses.field(default_factory=dict)
    stats: dict[str, Any] = dataclasses.field(default_factory=dict)


def load_checkpoint(checkpoint: Path, step: int | None, rtc: RtcChoice) -> Policy:
    """A factory for `PolicyProcess`: JAX and the checkpoint are loaded only there."""
    from dexhil.policy import Policy as Trained

    return Trained.load(checkpoint, step, rtc=rtc)


def connect(uri: str, key: str) -> Policy:
    """The same of a policy server: no JAX here. While it is away `infer` fails, and control holds."""
    from dexhil.serving.client import PolicyClient

    return PolicyClient(uri, key=key, timeout_s=SERVER_S)


class PolicyProcess:
    """One policy at `hz`, which a picklable `factory` makes in the process; silent for `hung_s`, it counts as hung."""

    def __init__(self, factory: Callable[[], Policy], *, hz: float, image_bytes: int, hung_s: float = 3.0) -> None:
        self.hz, self._factory, self._image_bytes, self._hung_s = hz, factory, image_bytes, hung_s
        self._process: Any = None

    def start(self) -> None:
        """Starts the process; it loads while the caller goes on. After an end of the process, starts a new one."""
        self.stop()
        context = multiprocessing.get_context("spawn")
        self._questions = SharedSlot[Question](context, self._image_bytes + HEAD_BYTES)
        self._reports = SharedSlot[Report](context, REPORT_BYTES)
        arguments = self._factory, self.hz, self._questions, self._reports, os.getpid()
        self._started = time.monotonic()
        self._process = context.Process(target=_serve, args=arguments, name="policy", daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, question: Question) -> None:
        """Leaves the newest question; never waits."""
        self._questions.write(question)

    def newest(self) -> Report | None:
        """The last report, None before the first; never waits."""
        return self._reports.read()

    def wait_until_ready(self) -> dict[str, Any]:
        """The policy's identity once it is loaded. Raises OSError where it does not come up."""
        while True:
            report, fault = self.newest(), self.fault(time.monotonic())
            if report is not None and report.identity:
                return report.identity
            if fault:
                raise OSError(fault)
            time.sleep(0.05)

    def fault(self, now: float) -> str:
        """What is wrong with the process, "" where nothing is."""
        if self._process is None or not self._process.is_alive():
            report = None if self._process is None else self.newest()
            if report is not None and not report.identity:
                return report.error
            return f"policy: its process ended ({_reason(self._process)}); its own message is above"
        report = self.newest()
        if report is None or not report.identity:
            late = now - self._started > LOAD_S
            return f"policy: not loaded after {LOAD_S:.0f} s" if late else ""
        silent = now - report.t
        return f"policy: hangs, silent for {silent:.1f} s" if silent > self._hung_s else ""

    def stop(self) -> None:
        """Ends the process, a stopped one too."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


def _reason(process: Any) -> str:
    if process is None:
        return "not started"
    code = process.exitcode
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def _serve(
    factory: Callable[[], Policy], hz: float, questions: SharedSlot[Question], reports: SharedSlot[Report], parent: int
) -> None:
    leave_signals_to_parent()
    os.nice(5)  # control goes first
    use_one_thread()
    try:
        policy = factory()
    except Exception as error:  # whatever it is, the parent says it in one line
        reports.write(Report(time.monotonic(), error=f"policy: {error}"))
        raise SystemExit(2) from (error if os.environ.get("DEXHIL_TRACEBACK") else None)
    said = Report(time.monotonic(), identity=_identity(policy))
    reports.write(said)
    pace, last = Pace(hz, offset_s=OFFSET_S), None
    while os.getppid() == parent:
        pace.wait()
        question = questions.read()
        if question is not None and question is not last:
            last = question
            actions, error = _answer(policy, question)
            said = dataclasses.replace(said, request=question.request, actions=actions, error=error)
        said = dataclasses.replace(said, t=time.monotonic(), stats=pace.stats.summary())
        reports.write(said)


def _answer(policy: Policy, question: Question) -> tuple[np.ndarray | None, str]:
    try:
        chunk = policy.infer(question.observation, seed=question.seed, **question.request.options)
        actions = np.asarray(chunk.actions, np.float32)
        if np.isfinite(actions).all():
            return actions, ""
        return None, "policy: returned an action that is not finite; load another checkpoint"
    except Exception as error:  # whatever a policy raises, control must hear of it
        return None, f"policy: {type(error).__name__}: {error}"


def _identity(policy: Any) -> dict[str, Any]:
    facts = {"checkpoint_id": getattr(policy, "checkpoint_id", type(policy).__name__)}
    info = getattr(policy, "info", None)
    return facts if info is None else facts | {"info": info, "max_delay": info.max_delay}
