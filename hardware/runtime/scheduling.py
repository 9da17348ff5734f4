"""Real-time scheduling, where the system allows it, of all threads of the loops' process: they share Python's lock."""

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

OTHERS, NICE = 10, -10
REMEDY = "allow it with 'USER - rtprio 30' and 'USER - nice -10' in /etc/security/limits.conf, then log in again"


def run_first(priorities: Mapping[int, int]) -> str:
    """Raises this process's threads, `priorities` {native id: 1 to 99}; "SCHED_FIFO", "nice -10", "ordinary (why)"."""
    try:
        policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        _each(lambda thread: os.sched_setscheduler(thread, policy, os.sched_param(priorities.get(thread, OTHERS))))
        return "SCHED_FIFO"
    except (OSError, AttributeError) as error:
        why = error.strerror if isinstance(error, OSError) else "this system has no real-time scheduling"
    try:
        _each(lambda thread: os.setpriority(os.PRIO_PROCESS, thread, NICE))
        return f"nice {NICE}"
    except OSError:
        return f"ordinary ({why}; {REMEDY})"


def run_as_others() -> None:
    """The threads of this process are ordinary ones again, where they were raised to real time."""
    if hasattr(os, "sched_setscheduler") and os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO:
        policy = os.SCHED_OTHER | os.SCHED_RESET_ON_FORK
        _each(lambda thread: os.sched_setscheduler(thread, policy, os.sched_param(0)))


def _each(change: Callable[[int], None]) -> None:
    for thread in _threads():
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            change(thread)


def _threads() -> list[int]:
    return [int(path.name) for path in Path("/proc/self/task").iterdir()]
