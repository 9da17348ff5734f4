"""Chunk hand-over: which action is due, when to plan, and what survives late, early and stale chunks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dexhil.control.executor import ChunkQueue, Due, Request

HZ, CHUNK, STEPS = 20.0, 16, 8


def plan(number: int, length: int = CHUNK) -> np.ndarray:
    """A chunk that says of every action which plan and which row it is: [H, 2]."""
    return np.stack([np.full(length, number), np.arange(length)], axis=1).astype(np.float32)


def ask(queue: ChunkQueue, observed: float) -> Request:
    request = queue.request(observed)
    assert request is not None
    return request


def act(queue: ChunkQueue, now: float) -> Due:
    due = queue.due(now)
    assert due is not None
    return due


def prefix_of(request: Request) -> np.ndarray:
    assert request.prefix is not None
    return request.prefix


class Loop:
    """Ticks at 20 Hz, `jitter` periods late, around a policy whose inferences take `latency` periods each."""

    def __init__(self, queue: ChunkQueue, latency, jitter=lambda tick: 0.0) -> None:
        self.queue, self.latency, self.jitter = queue, latency, jitter
        self.tick, self.plans = 0, 0
        self.coming: tuple[float, Request, np.ndarray] | None = None
        self.requests: list[tuple[int, Request]] = []

    def step(self) -> tuple[float, Due | None]:
        """(now, what is due) of the next tick; a chunk that has come since the last tick is added first."""
        now = (self.tick + self.jitter(self.tick)) / HZ
        self._deliver(now)
        request = None if self.coming else self.queue.request(now)
        if request:
            self.requests.append((self.tick, request))
            self.coming = now + self.latency() / HZ, request, plan(self.plans)
            self.plans += 1
            self._deliver(now)
        self.tick += 1
        return now, self.queue.due(now)

    def _deliver(self, now: float) -> None:
        if self.coming and self.coming[0] <= now + 1e-9:
            self.queue.add(*self.coming[1:], now)
            self.coming = None

    def run(self, ticks: int) -> list[tuple[float, Due]]:
        return [(now, due) for now, due in (self.step() for _ in range(ticks)) if due]


@pytest.mark.parametrize("handover", ["sync", "replace", "rtc"])
@pytest.mark.parametrize("latency", [0, 1, 3, 5, 8])
def test_every_tick_gets_the_action_that_is_due_then(handover, latency):
    queue = ChunkQueue(HZ, execute_steps=STEPS, handover=handover, latency_s=latency / HZ)
    seen = Loop(queue, lambda: latency).run(200)
    assert len(seen) == 200 - latency  # the robot waits for its first chunk
    fresh = [(now, due) for now, due in seen if not due.starved]
    np.testing.assert_allclose([due.time for _, due in fresh], [now for now, _ in fresh], atol=1e-9)
    starved = sum(due.starved for _, due in seen)
    if handover != "sync":
        assert starved == 0
    else:
        assert {due.action[1] for _, due in fresh} == set(range(STEPS))
        assert starved == pytest.approx(len(seen) * latency / (STEPS + latency), abs=latency)


def test_without_latency_each_chunk_gives_its_first_actions():
    queue = ChunkQueue(HZ, execute_steps=STEPS)
    seen = Loop(queue, lambda: 0).run(40)
    assert [tuple(due.action) for _, due in seen] == [(tick // STEPS, tick % STEPS) for tick in range(40)]


@pytest.mark.parametrize("handover", ["replace", "rtc"])
def test_jittering_timers_repeat_and_skip_nothing(handover):
    rng = np.random.default_rng(0)
    jitter = rng.uniform(0, 0.2, 300)
    queue = ChunkQueue(HZ, execute_steps=STEPS, handover=handover, latency_s=3 / HZ)
    seen = Loop(queue, lambda: rng.uniform(1, 3), lambda tick: jitter[tick]).run(300)
    assert not any(due.starved for _, due in seen)
    for (_, before), (_, after) in itertools.pairwise(seen):
        assert after.time - before.time == pytest.approx(1 / HZ, abs=0.21 / HZ)
        if after.action[0] == before.action[0]:
            assert after.action[1] == before.action[1] + 1


@pytest.mark.parametrize("handover", ["sync", "replace", "rtc"])
@pytest.mark.parametrize("seed", range(5))
def test_whatever_comes_time_only_goes_on_and_epochs_are_kept(handover, seed):
    """Random latencies from none to more than a chunk, random takeovers."""
    rng = np.random.default_rng(seed)
    queue = ChunkQueue(HZ, execute_steps=STEPS, handover=handover)
    loop, last, epoch_of_plan = Loop(queue, lambda: rng.choice([0, 1, 2, 5, 12, 20])), -1.0, []
    for _ in range(500):
        if rng.random() < 0.02:
            queue.set_epoch(queue.epoch + 1)
        now, due = loop.step()
        epoch_of_plan += [request.epoch for _, request in loop.requests[len(epoch_of_plan) :]]
        if due is None:
            continue
        assert due.epoch == queue.epoch == epoch_of_plan[int(due.action[0])]
        assert due.time > last or (due.starved and due.time == last)
        assert due.starved or now - due.time < 1 / HZ
        last = due.time
    assert loop.plans > 20


def test_chunks_of_before_a_takeover_are_dropped():
    queue = ChunkQueue(HZ, execute_steps=STEPS)
    first = ask(queue, 0.0)
    assert queue.add(first, plan(0), 0.0)
    assert tuple(act(queue, 0.0).action) == (0, 0)
    late = ask(queue, 0.4)
    queue.set_epoch(1)
    assert queue.due(0.45) is None
    assert not queue.add(late, plan(1), 0.5)
    assert queue.due(0.5) is None
    fresh = ask(queue, 0.5)
    assert (fresh.epoch, fresh.at_rest, fresh.prefix) == (1, True, None)
    assert queue.add(fresh, plan(2), 0.6)
    assert tuple(act(queue, 0.6).action) == (2, 0)  # the robot held still meanwhile, so nothing of it is late
    queue.set_epoch(0)
    assert queue.epoch == 1


def test_a_chunk_that_is_late_beyond_its_end_leaves_the_robot_holding_and_the_next_one_moves_it():
    queue = ChunkQueue(HZ, execute_steps=STEPS)
    queue.add(ask(queue, 0.0), plan(0), 0.0)
    seen = [act(queue, tick / HZ) for tick in range(9)]
    late = ask(queue, 8 / HZ)
    seen += [act(queue, tick / HZ) for tick in range(9, 25)]
    assert [due.starved for due in seen] == [False] * 16 + [True] * 9
    assert tuple(seen[-1].action) == (0, 15)
    assert not queue.add(late, plan(1), 25 / HZ)
    again = ask(queue, 25 / HZ)
    assert again.at_rest
    assert queue.add(again, plan(2), 42 / HZ)
    assert tuple(act(queue, 42 / HZ).action) == (2, 0)


def test_an_older_plan_never_replaces_a_newer_one():
    queue = ChunkQueue(HZ, execute_steps=STEPS)
    queue.add(ask(queue, 0.0), plan(0), 0.0)
    older, newer = ask(queue, 8 / HZ), ask(queue, 9 / HZ)
    assert queue.add(newer, plan(2), 10 / HZ)
    assert not queue.add(older, plan(1), 11 / HZ)
    assert tuple(act(queue, 11 / HZ).action) == (2, 2)


def test_an_action_that_is_due_before_the_last_executed_one_is_skipped():
    queue = ChunkQueue(HZ, execute_steps=STEPS)
    queue.add(ask(queue, 0.0), plan(0), 0.0)
    assert tuple(act(queue, 0.39).action) == (0, 8)  # due at 0.40; the timer was early
    queue.add(ask(queue, 0.39), plan(1), 0.392)
    assert tuple(act(queue, 0.395).action) == (0, 8)  # not the new chunk's first, due at 0.39
    assert tuple(act(queue, 0.44).action) == (1, 1)


def test_a_chunk_that_comes_early_begins_with_what_was_committed():
    queue = ChunkQueue(HZ, execute_steps=STEPS, handover="rtc", latency_s=4 / HZ)
    queue.add(ask(queue, 0.0), plan(0), 0.0)
    request = ask(queue, 8 / HZ)
    assert request.delay == 4
    chunk = np.concatenate([prefix_of(request)[:4], plan(1)[4:]])
    executed = [act(queue, tick / HZ).action for tick in range(8, 10)]
    assert queue.add(request, chunk, 10 / HZ)
    executed += [act(queue, tick / HZ).action for tick in range(10, 14)]
    assert [tuple(action) for action in executed] == [(0, 8), (0, 9), (0, 10), (0, 11), (1, 4), (1, 5)]


@pytest.mark.parametrize("latency", [0, 1, 3, 7])
def test_the_prefix_is_what_is_executed_meanwhile(latency):
    queue = ChunkQueue(HZ, execute_steps=STEPS, handover="rtc", latency_s=latency / HZ)
    loop = Loop(queue, lambda: latency)
    seen = {round(now * HZ): due for now, due in loop.run(100)}
    planned = [(tick, request) for tick, request in loop.requests if not request.at_rest and tick < 90]
    assert len(planned) >= 8
    for tick, request in planned:
        assert request.delay == latency
        assert STEPS <= CHUNK - len(prefix_of(request)) <= CHUNK - latency
        np.testing.assert_array_equal(
            prefix_of(request)[:latency], np.array([seen[tick + i].action for i in range(latency)]).reshape(-1, 2)
        )


def test_planning_begins_early_enough_and_follows_the_measured_latency():
    queue = ChunkQueue(HZ, execute_steps=14, handover="rtc")
    queue.add(ask(queue, 0.0), plan(0), 5 / HZ)  # the first inference took 5 steps
    assert queue.delay == 5
    start = 5
    assert queue.request((start + 10) / HZ) is None
    request = ask(queue, (start + 11) / HZ)  # 11 + 5 = 16
    assert (request.delay, len(prefix_of(request))) == (5, 5)
    for tick in range(10):
        queue.add(Request(2.0 + tick, 0, at_rest=True), plan(1), 2.0 + tick + 1 / HZ)
    assert queue.delay == 1


def test_where_fewer_actions_are_left_than_will_be_needed_the_last_is_held():
    queue = ChunkQueue(HZ, execute_steps=STEPS, handover="rtc", latency_s=4 / HZ)
    queue.add(ask(queue, 0.0), plan(0), 0.0)
    request = ask(queue, 14 / HZ)  # the loop was busy
    assert [row for _, row in prefix_of(request)] == [14, 15, 15, 15]


def test_a_latency_beyond_what_the_policy_can_take_plans_freely():
    for most, freely in [(None, False), (8, False), (7, True), (0, True)]:
        queue = ChunkQueue(HZ, execute_steps=STEPS, handover="rtc", latency_s=8 / HZ, max_delay=most)
        queue.add(ask(queue, 0.0), plan(0), 0.0)
        request = ask(queue, 8 / HZ)
        assert (request.prefix is None) == freely
        assert set(request.options) == (set() if freely else {"prefix", "delay"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"control_hz": 0.0}, "control_hz: expected a positive rate, got 0.0"),
        ({"execute_steps": 0}, "execute_steps: expected at least 1, got 0"),
        ({"handover": "swap"}, r"handover: expected one of \['sync', 'replace', 'rtc'\], got 'swap'"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        ChunkQueue(**{"control_hz": HZ, **settings})


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (plan(0, 4), "execute_steps: 8 is more than the policy's chunk of 4 actions; set it to at most 4"),
        (plan(0)[0], r"actions: expected a finite chunk \[H, A\], got float32 \[2\]"),
        (plan(0) * np.nan, r"actions: expected a finite chunk \[H, A\], got float32 \[16, 2\]"),
    ],
)
def test_what_is_no_chunk_is_refused(actions, message):
    queue = ChunkQueue(HZ, execute_steps=STEPS)
    with pytest.raises(ValueError, match=message):
        queue.add(ask(queue, 0.0), actions, 0.0)
