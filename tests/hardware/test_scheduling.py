"""Real-time scheduling: asked for where it may be had, and said where not. The system's calls are the test's."""

import os
from typing import Any

import pytest

from hardware.runtime import scheduling


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Records what is asked of the system; a name in `refused` fails."""
    asked: dict[str, Any] = {"refused": set(), "fifo": {}, "nice": {}}

    def set_scheduler(thread: int, policy: int, param: os.sched_param) -> None:
        if "fifo" in asked["refused"]:
            raise PermissionError(1, "Operation not permitted")
        assert policy == os.SCHED_FIFO | os.SCHED_RESET_ON_FORK  # started processes are ordinary ones
        asked["fifo"][thread] = param.sched_priority

    def set_nice(which: int, thread: int, value: int) -> None:
        if "nice" in asked["refused"]:
            raise PermissionError(13, "Permission denied")
        asked["nice"][thread] = value

    monkeypatch.setattr(scheduling, "_threads", lambda: [11, 12, 13])
    monkeypatch.setattr(os, "sched_setscheduler", set_scheduler)
    monkeypatch.setattr(os, "setpriority", set_nice)
    return asked


def test_every_thread_is_raised_and_the_loops_most(system: dict[str, Any]):
    assert scheduling.run_first({12: 30}) == "SCHED_FIFO"
    assert system["fifo"] == {11: scheduling.OTHERS, 12: 30, 13: scheduling.OTHERS}


def test_niceness_where_real_time_is_refused(system: dict[str, Any]):
    system["refused"].add("fifo")
    assert scheduling.run_first({12: 30}) == "nice -10"
    assert system["nice"] == {11: -10, 12: -10, 13: -10}


def test_where_neither_is_allowed_it_says_why_and_how_to_allow_it(system: dict[str, Any]):
    system["refused"] |= {"fifo", "nice"}
    said = scheduling.run_first({})
    assert said.startswith("ordinary (Operation not permitted; allow it with")
    assert "limits.conf" in said
