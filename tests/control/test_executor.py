"""Chunk executor: which action is due, when to plan, and what survives late, early and stale chunks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from dexhil.control.executor import Due, Executor, ExecutorConfig, Request

HZ, CHUNK, STEPS = 20.0, 16, 8


def make(
    handover: str = "replace", latency: float = 0.0, *, steps: int = STEPS, fade_s: float = 0.0, **more
) -> Executor:
    """An executor whose chunks take over as they are. latency: control steps."""
    return Executor(
        HZ,
        ExecutorConfig.of({"execute_steps": steps, "handover": handover, "fade_s": fade_s}),
        latency_s=latency / HZ,
        **more,
    )


def plan(number: int, length: int = CHUNK) -> np.ndarray:
    """A chunk that says of every action which plan and which row it is: [H, 2]."""
    return np.stack([np.full(length, number), np.arange(length)], axis=1).astype(np.float32)


def ask(executor: Executor, observed: float) -> Request:
    request = executor.request(observed)
    assert request is not None
    return request


def act(executor: Executor, now: float) -> Due:
    due = executor.due(now)
    assert due is not None
    return due


def row_of(executor: Executor, now: float) -> tuple[float, ...]:
    return tuple(act(executor, now).action)


def prefix_of(request: Request) -> np.ndarray:
    assert request.prefix is not None
    return request.prefix


class Loop:
    """Ticks at 20 Hz around a policy whose inferences take `latency` periods each."""

    def __init__(self, executor: Executor, latency: Callable[[], float]) -> None:
        self.executor, self.latency = executor, latency
        self.tick, self.plans = 0, 0
        self.coming: list[tuple[float, Request, np.ndarray]] = []
        self.requests: list[tuple[int, Request]] = []

    def step(self) -> tuple[float, Due | None]:
        """(now, what is due) of the next tick; chunks that have come since the last tick are added first."""
        now = self.tick / HZ
        self._deliver(now)
        if request := self.executor.request(now):
            self.requests.append((self.tick, request))
            self.coming.append((now + self.latency() / HZ, request, plan(self.plans)))
            self.plans += 1
            self._deliver(now)
        self.tick += 1
        return now, self.executor.due(now)

    def _deliver(self, now: float) -> None:
        for coming in [coming for coming in self.coming if coming[0] <= now + 1e-9]:
            self.coming.remove(coming)
            self.executor.add(*coming[1:], now)

    def run(self, ticks: int) -> list[tuple[float, Due]]:
        return [(now, due) for now, due in (self.step() for _ in range(ticks)) if due]


@pytest.mark.parametrize("handover", ["sync", "replace", "rtc"])
@pytest.mark.parametrize("latency", [0, 1, 3, 5, 8])
def test_every_tick_gets_the_row_that_is_due_then(handover, latency):
    loop = Loop(make(handover, latency), lambda: latency)
    seen = loop.run(200)
    assert len(seen) == 200 - latency  # the robot waits for its first chunk
    starts = {
        number: tick + (latency if request.at_rest else 0) for number, (tick, request) in enumerate(loop.requests)
    }
    for now, due in seen:
        if not due.starved:
            assert due.action[1] == round(now * HZ) - starts[int(due.action[0])]
    starved = sum(due.starved for _, due in seen)
    if handover != "sync":
        assert starved == 0
    else:
        assert {due.action[1] for _, due in seen} == set(range(STEPS))
        assert starved == pytest.approx(len(seen) * latency / (STEPS + latency), abs=latency)


def test_without_latency_each_chunk_gives_its_first_actions():
    seen = Loop(make(), lambda: 0).run(40)
    assert [tuple(due.action) for _, due in seen] == [(tick // STEPS, tick % STEPS) for tick in range(40)]


def test_between_rows_the_command_goes_straight_and_the_last_row_is_held_for_its_period():
    executor = make()
    executor.add(ask(executor, 0.0), plan(0), 0.0)
    assert [row_of(executor, at / HZ)[1] for at in (0, 0.25, 1, 2.5, 14.75, 15, 15.9)] == pytest.approx(
        [0, 0.25, 1, 2.5, 14.75, 15, 15]
    )
    assert not act(executor, 15.9 / HZ).starved
    assert act(executor, 16 / HZ).starved
    assert row_of(executor, 16 / HZ) == (0, 15)


def test_on_the_monotonic_clock_of_a_machine_that_runs_for_years_rows_are_met_exactly():
    executor, began = make(), 1e8 + 1 / 3
    executor.add(ask(executor, began), plan(0), began)
    assert [row_of(executor, began + tick / HZ)[1] for tick in range(CHUNK)] == list(range(CHUNK))


def test_time_that_goes_back_gives_nothing_older_than_what_was_executed():
    executor = make()
    executor.add(ask(executor, 0.0), plan(0), 0.0)
    assert row_of(executor, 8 / HZ) == (0, 8)
    assert row_of(executor, 6 / HZ) == (0, 8)


@pytest.mark.parametrize("handover", ["sync", "replace", "rtc"])
@pytest.mark.parametrize("seed", range(5))
def test_whatever_comes_time_only_goes_on_and_stale_chunks_never_move_the_robot(handover, seed):
    """Random latencies from none to more than a chunk, random takeovers."""
    rng = np.random.default_rng(seed)
    loop = Loop(make(handover), lambda: rng.choice([0, 1, 2, 5, 12, 20]))
    last, first_fresh = -1.0, 0
    for _ in range(500):
        if rng.random() < 0.02:
            loop.executor.watch()
            loop.executor.rest(np.zeros(2, np.float32))
            last, first_fresh = -1.0, loop.plans
        now, due = loop.step()
        if due is None:
            continue
        number = int(due.action[0])
        assert number >= first_fresh
        tick, _ = loop.requests[number]
        assert due.action[1] <= round(now * HZ) - tick  # never ahead of its time
        executed = now if not due.starved else last
        assert executed >= last
        last = executed
    assert loop.plans > 20


def test_chunks_of_before_a_takeover_are_dropped_and_one_planned_at_rest_is_kept():
    executor = make()
    assert executor.add(ask(executor, 0.0), plan(0), 0.0)
    late = ask(executor, 0.4)
    executor.rest(np.zeros(2))
    assert executor.due(0.45) is None
    assert not executor.add(late, plan(1), 0.5)
    assert executor.due(0.5) is None
    fresh = ask(executor, 0.5)
    assert (fresh.at_rest, fresh.prefix) == (True, None)
    executor.rest(np.zeros(2))  # in every tick in which nobody commands
    assert executor.add(fresh, plan(2), 0.6)
    assert row_of(executor, 0.6) == (2, 0)  # the robot held still meanwhile, so nothing of it is late


def test_a_plan_from_before_a_person_moved_the_robot_is_stale_though_made_at_rest():
    executor = make()
    before = ask(executor, 0.0)
    executor.watch()
    executor.rest(np.zeros(2))
    assert not executor.add(before, plan(0), 0.1)
    assert executor.due(0.1) is None


def test_another_scene_drops_what_was_planned_at_rest():
    executor = make()
    before = ask(executor, 0.0)
    executor.restart()
    assert not executor.add(before, plan(0), 0.1)


def test_while_a_person_commands_plans_go_on_freely_and_in_time():
    executor = make("rtc", 2)
    executor.watch()
    first = ask(executor, 0.0)
    assert not first.at_rest  # the robot moves, though not by this policy
    assert executor.add(first, plan(0), 2 / HZ)
    assert tuple(act(executor, 2 / HZ).planned) == (0, 2)
    second = ask(executor, 8 / HZ)
    assert second.prefix is None
    executor.rest(np.zeros(2))
    assert executor.due(9 / HZ) is None
    assert not executor.add(second, plan(1), 10 / HZ)


def test_a_chunk_begins_where_the_robot_is_commanded_to_be_and_the_difference_fades():
    executor = make(fade_s=0.15)
    executor.rest(np.array([3.0, -2.0], np.float32))
    executor.add(ask(executor, 0.0), plan(1), 0.1)
    np.testing.assert_allclose(act(executor, 0.1).action, [3.0, -2.0])
    np.testing.assert_allclose(act(executor, 0.1).planned, [1.0, 0.0])
    np.testing.assert_allclose(act(executor, 0.25).action, [1 + 2 * np.exp(-1), 3 - 2 * np.exp(-1)], atol=1e-5)
    before = act(executor, 0.55).action
    executor.add(ask(executor, 0.5), plan(7), 0.55)
    np.testing.assert_allclose(act(executor, 0.55).action, before, atol=1e-6)  # no jump between chunks either
    np.testing.assert_allclose(act(executor, 1.2).action, [7.0, 14.0], atol=0.2)


def test_what_still_fades_is_part_of_the_prefix():
    executor = make("rtc", 2, fade_s=0.15)
    executor.rest(np.array([3.0, -2.0], np.float32))
    executor.add(ask(executor, 0.0), plan(1), 0.0)
    request = ask(executor, STEPS / HZ)
    expected = [act(executor, (STEPS + i) / HZ).action for i in range(2)]
    np.testing.assert_array_equal(prefix_of(request)[:2], expected)


def test_a_chunk_that_is_late_beyond_its_end_leaves_the_robot_holding_and_the_next_one_moves_it():
    executor = make()
    executor.add(ask(executor, 0.0), plan(0), 0.0)
    seen = [act(executor, tick / HZ) for tick in range(9)]
    late = ask(executor, 8 / HZ)
    seen += [act(executor, tick / HZ) for tick in range(9, 25)]
    assert [due.starved for due in seen] == [False] * 16 + [True] * 9
    assert tuple(seen[-1].action) == (0, 15)
    assert not executor.add(late, plan(1), 25 / HZ)
    again = ask(executor, 25 / HZ)
    assert again.at_rest
    assert executor.add(again, plan(2), 42 / HZ)
    assert row_of(executor, 42 / HZ) == (2, 0)


def test_one_request_at_a_time_until_it_is_answered_or_has_failed():
    executor = make()
    first = ask(executor, 0.0)
    assert executor.request(0.1) is None
    executor.fail(first)
    second = ask(executor, 0.2)
    executor.fail(first)  # an answer to an older one
    assert executor.request(0.3) is None
    executor.add(second, plan(0), 0.3)
    assert executor.pending is None


def test_an_older_plan_never_replaces_a_newer_one():
    executor = make()
    executor.add(ask(executor, 0.0), plan(0), 0.0)
    older = ask(executor, 8 / HZ)
    executor.fail(older)
    newer = ask(executor, 9 / HZ)
    assert executor.add(newer, plan(2), 10 / HZ)
    assert not executor.add(older, plan(1), 11 / HZ)
    assert row_of(executor, 11 / HZ) == (2, 2)


def test_a_chunk_that_comes_early_begins_with_what_was_committed():
    executor = make("rtc", 4)
    executor.add(ask(executor, 0.0), plan(0), 0.0)
    request = ask(executor, 8 / HZ)
    assert request.delay == 4
    chunk = np.concatenate([prefix_of(request)[:4], plan(1)[4:]])
    executed = [row_of(executor, tick / HZ) for tick in range(8, 10)]
    assert executor.add(request, chunk, 10 / HZ)
    executed += [row_of(executor, tick / HZ) for tick in range(10, 14)]
    assert executed == [(0, 8), (0, 9), (0, 10), (0, 11), (1, 4), (1, 5)]


@pytest.mark.parametrize("latency", [0, 1, 3, 7])
def test_the_prefix_is_what_is_executed_meanwhile(latency):
    loop = Loop(make("rtc", latency), lambda: latency)
    seen = {round(now * HZ): due for now, due in loop.run(100)}
    planned = [(tick, request) for tick, request in loop.requests if not request.at_rest and tick < 90]
    assert len(planned) >= 8
    for tick, request in planned:
        assert request.delay == latency
        assert STEPS <= CHUNK - len(prefix_of(request)) <= CHUNK - latency
        np.testing.assert_array_equal(
            prefix_of(request)[:latency], np.array([seen[tick + i].action for i in range(latency)]).reshape(-1, 2)
        )


def test_an_observation_between_two_rows_gets_a_prefix_of_what_is_due_then():
    executor = make("rtc", 2)
    executor.add(ask(executor, 0.0), plan(0), 0.0)
    request = ask(executor, 8.5 / HZ)
    assert [row for _, row in prefix_of(request)] == [8.5, 9.5, 10.5, 11.5, 12.5, 13.5, 14.5, 15]


def test_planning_begins_early_enough_and_follows_the_measured_latency():
    executor = make("rtc", steps=14)
    executor.add(ask(executor, 0.0), plan(0), 5 / HZ)  # the first inference took 5 steps
    assert executor.delay == 5
    start = 5
    assert executor.request((start + 10) / HZ) is None
    request = ask(executor, (start + 11) / HZ)  # 11 + 5 = 16
    assert (request.delay, len(prefix_of(request))) == (5, 5)
    for tick in range(10):
        executor.add(dataclasses.replace(request, time=2.0 + tick), plan(1), 2.0 + tick + 1 / HZ)
    assert executor.delay == 1


def test_where_fewer_actions_are_left_than_will_be_needed_the_last_is_held():
    executor = make("rtc", 4)
    executor.add(ask(executor, 0.0), plan(0), 0.0)
    request = ask(executor, 14 / HZ)  # the loop was busy
    assert [row for _, row in prefix_of(request)] == [14, 15, 15, 15]


def test_a_latency_beyond_what_the_policy_can_take_plans_freely():
    for most, freely in [(None, False), (8, False), (7, True), (0, True)]:
        executor = make("rtc", 8, max_delay=most)
        executor.add(ask(executor, 0.0), plan(0), 0.0)
        request = ask(executor, 8 / HZ)
        assert (request.prefix is None) == freely
        assert set(request.options) == (set() if freely else {"prefix", "delay"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"execute_steps": 0}, "execute_steps 0: expected at least 1"),
        ({"handover": "swap"}, r"handover 'swap' is not known.*\['replace', 'rtc', 'sync'\]"),
        ({"fade_s": -0.1}, "fade_s -0.1: expected 0 or more"),
        ({"fade_s": float("nan")}, "fade_s nan: expected a finite number"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        ExecutorConfig(**settings)


def test_a_rate_that_is_none_is_named():
    with pytest.raises(ValueError, match=r"control_hz: expected a positive rate, got 0.0"):
        Executor(0.0)


def test_settings_are_those_keys_of_a_section_that_it_has():
    config = ExecutorConfig.of({"execute_steps": 4, "handover": "rtc", "trials": 20})
    assert config == ExecutorConfig(4, "rtc")
    assert config.policy_rtc == "auto"
    assert ExecutorConfig.of({"rtc": "guided"}).policy_rtc == "none"  # nothing to compile where it is not used


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (plan(0, 4), "execute_steps: 8 is more than the policy's chunk of 4 actions; set it to at most 4"),
        (plan(0)[0], r"actions: expected a finite chunk \[H, A\], got float32 \[2\]"),
        (plan(0) * np.nan, r"actions: expected a finite chunk \[H, A\], got float32 \[16, 2\]"),
    ],
)
def test_what_is_no_chunk_is_refused(actions, message):
    executor = make()
    with pytest.raises(ValueError, match=message):
        executor.add(ask(executor, 0.0), actions, 0.0)
