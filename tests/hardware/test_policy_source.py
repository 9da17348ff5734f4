"""The policy's side of the control loop, with reports of the test."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest

from dexhil.control.executor import Request
from hardware.runtime.policy_process import Report
from hardware.runtime.policy_source import PolicySource
from hardware.settings import PolicyConfig

CHUNK = np.zeros((16, 2), np.float32)
IDENTITY = {"checkpoint_id": "x"}


class Source:
    """A source, and the report that it will read."""

    def __init__(self, handover: Literal["replace", "rtc"] = "replace") -> None:
        self.report: Report | None = Report(0.0, identity=IDENTITY)
        self.policy = PolicySource(lambda: self.report, 2, 20.0, PolicyConfig(handover=handover))
        self.policy.begin()

    def ask(self, observed: float) -> Request:
        request = self.policy.request(observed)
        assert request is not None
        return request

    def answer(self, request: Request, actions: np.ndarray | None = CHUNK, error: str = "", **facts: int) -> None:
        self.report = Report(0.0, request, actions, error, IDENTITY | facts)


def test_nothing_is_asked_outside_an_episode_and_nothing_of_the_last_one_is_followed():
    source = Source()
    before = source.ask(0.0)
    source.policy.end()
    assert source.policy.request(0.1) is None
    source.policy.begin()
    source.answer(before)
    assert source.policy.due(0.2) is None
    assert source.ask(0.3).at_rest


def test_without_a_policy_nothing_is_asked():
    policy = PolicySource(None, 2, 20.0, PolicyConfig())
    policy.begin()
    assert policy.request(0.0) is None
    assert policy.due(0.0) is None
    assert policy.fault == ""


def test_a_policy_that_starts_again_is_a_fault_until_it_is_there():
    source = Source()
    source.report = None
    assert source.policy.due(0.0) is None
    assert source.policy.fault == "policy: no plan yet"
    source.report = Report(0.0, identity=IDENTITY)
    source.policy.due(0.1)
    assert source.policy.fault == ""


@pytest.mark.parametrize("max_delay", [0, 8])
def test_real_time_chunking_goes_as_far_as_the_policy_says(max_delay: int):
    source = Source("rtc")
    source.answer(source.ask(0.0), max_delay=max_delay)
    source.policy.due(0.1)  # two steps late
    request = source.ask(0.1 + 8 / 20)
    assert (request.prefix is None) == (max_delay == 0)


def test_an_error_is_a_fault_until_the_next_answer_and_the_same_report_is_heard_once():
    source = Source()
    source.answer(source.ask(0.0), None, "policy: out of memory")
    assert source.policy.due(0.1) is None
    assert source.policy.fault == "policy: out of memory"
    source.answer(source.ask(0.2))
    assert source.policy.due(0.3) is not None
    assert source.policy.fault == ""


def test_an_answer_that_is_overdue_is_a_fault_and_asked_for_again():
    source = Source()
    first = source.ask(0.0)
    assert source.policy.request(0.3) is None
    source.policy.due(0.39)
    assert source.policy.fault == ""
    source.policy.due(0.41)
    assert "no answer (limit 0.4 s)" in source.policy.fault
    assert source.ask(0.42).number > first.number
