"""Deadlines without drift on a clock of the test; slots between processes, written to while they are read."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from hardware.runtime import pace
from hardware.runtime.pace import LoopStats, Pace
from hardware.runtime.slots import SharedSlot


class Clock:
    """Sleeping takes as long as asked, and `oversleep` more."""

    def __init__(self) -> None:
        self.now, self.oversleep = 12.3456, 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds + self.oversleep


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pace, "time", made)
    return made


def test_deadlines_do_not_drift_however_long_the_work_takes(clock: Clock):
    clock.oversleep = 0.002
    loop = Pace(90.0)
    first = loop.wait()
    for k in range(1, 9001):
        clock.now += 0.005
        assert loop.wait() == first + k
    stats = loop.stats.summary()
    assert stats["mean_hz"] == pytest.approx(90.0, rel=1e-4)
    assert stats["missed"] == 0
    assert stats["jitter_p50_ms"] == pytest.approx(2.0, rel=0.05)


def test_missed_deadlines_are_counted_and_skipped_not_made_up_for(clock: Clock):
    loop = Pace(20.0)
    before = loop.wait()
    clock.now += 0.26  # five periods and a bit
    assert loop.wait() == before + 5
    assert loop.stats.summary()["missed"] == 4
    assert loop.wait() == before + 6


def test_a_clock_that_jumps_ahead_causes_no_burst(clock: Clock):
    loop = Pace(90.0)
    loop.wait()
    clock.now += 3600.0
    loop.wait()
    at = clock.now
    for _ in range(10):
        loop.wait()
    assert clock.now - at == pytest.approx(10 / 90.0, abs=1 / 90.0)


def test_loops_of_one_rate_keep_their_phase(clock: Clock):
    first, second = (Pace(20.0, offset_s=offset) for offset in (0.0, 0.004))
    for _ in range(5):
        first.wait()
        at = clock.now
        second.wait()
        assert clock.now - at == pytest.approx(0.004)


def test_percentiles_of_lateness_are_those_of_the_values():
    values = np.random.default_rng(0).lognormal(-7, 1, 5000)
    stats = LoopStats(90.0)
    for value in values:
        stats.add(10.0 + value, 10.0)
    for percent in (50, 99):
        assert stats.late_ms(percent) == pytest.approx(1e3 * np.percentile(values, percent), rel=0.06)


def _write_until_killed(slot: SharedSlot) -> None:
    number = 0
    while True:
        number += 1
        slot.write((number, np.full(20_000, number)))


def test_a_reader_sees_whole_values_only_and_a_killed_writer_harms_nobody():
    context = multiprocessing.get_context("spawn")
    slot: SharedSlot = SharedSlot(context, 1 << 19)
    assert slot.read() is None
    process = context.Process(target=_write_until_killed, args=(slot,), daemon=True)
    process.start()
    deadline, seen = time.monotonic() + 60, 0
    while seen < 200 and time.monotonic() < deadline:
        value = slot.read()
        if value is not None and value[0] != seen:
            assert value[0] > 0
            assert (value[1] == value[0]).all()
            seen = value[0]
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert seen >= 200
    last = slot.read()
    assert last is not None
    assert (last[1] == last[0]).all()


def test_a_value_that_is_too_large_is_named():
    slot: SharedSlot = SharedSlot(multiprocessing.get_context("spawn"), 100)
    with pytest.raises(ValueError, match="made for at most 100"):
        slot.write(np.zeros(1000))
    slot.write("small")
    assert slot.read() == "small"
    assert slot.read() is slot.read()
