"""Chunk executor: what is under way when control changes, and what is planned when an inference takes long."""

from __future__ import annotations

import numpy as np
import pytest

from dexhil.control.executor import Executor
from tests.control.test_executor import CHUNK, HZ, STEPS, act, ask, make, plan, prefix_of, row_of


def test_after_a_takeover_the_policy_plans_from_rest_and_its_chunk_starts_when_it_comes():
    executor = make("sync")
    executor.watch()
    executor.add(ask(executor, 0.0), plan(0), 0.0)
    executor.rest(np.zeros(2))
    fresh = ask(executor, 0.2)
    assert fresh.at_rest
    assert executor.add(fresh, plan(1), 0.5)
    assert row_of(executor, 0.5) == (1, 0)
    assert act(executor, 0.5 + STEPS / HZ).starved


def test_the_first_chunk_too_is_dropped_when_the_policy_no_longer_commands():
    executor = make()
    executor.add(ask(executor, 0.0), plan(0), 0.0)
    executor.rest(np.zeros(2))
    assert executor.due(0.1) is None


def test_what_is_under_way_at_a_hand_back_does_not_hold_up_the_next_plan():
    executor = make()
    executor.add(ask(executor, 0.0), plan(0), 0.0)
    late = ask(executor, STEPS / HZ)
    executor.rest(np.zeros(2))
    fresh = ask(executor, 9 / HZ)
    assert not executor.add(late, plan(1), 10 / HZ)
    assert executor.pending is fresh
    assert executor.add(fresh, plan(2), 11 / HZ)


def test_a_plan_made_at_rest_that_comes_while_a_person_commands_is_in_time_for_the_record():
    executor = make()
    before = ask(executor, 0.0)
    executor.watch()
    executor.add(before, plan(0), 3 / HZ)
    assert tuple(act(executor, 3 / HZ).planned) == (0, 3)


def test_a_person_is_watched_by_whole_chunks_where_the_robot_would_wait_too():
    executor = make("sync")
    executor.watch()
    executor.add(ask(executor, 0.0), plan(0), 0.0)
    due = act(executor, (STEPS + 2) / HZ)
    assert tuple(due.planned) == (0, STEPS + 2)
    assert not due.starved


@pytest.mark.parametrize(("latency", "delay"), [(0.0, 0), (0.2, 1), (1.0, 1), (2.5, 3)])
def test_the_delay_is_whole_steps_that_cover_the_latency(latency, delay):
    assert Executor(HZ, latency_s=latency / HZ).delay == delay


def test_of_every_chunk_something_is_executed_before_the_next_is_planned_however_long_that_takes():
    executor = make("rtc", 4, steps=2)
    executor.add(ask(executor, 0.0), plan(0), 0.0)
    assert executor.request(3 / HZ) is None
    assert ask(executor, 4 / HZ).delay == 4


def test_of_two_plans_from_one_observation_the_later_one_counts():
    executor = make()
    executor.add(ask(executor, 0.0), plan(0), 0.0)
    first = ask(executor, STEPS / HZ)
    executor.fail(first)
    second = ask(executor, STEPS / HZ)
    assert executor.add(first, plan(1), 9 / HZ)
    assert executor.add(second, plan(2), 10 / HZ)
    assert row_of(executor, 10 / HZ) == (2, 2)


def test_what_fades_is_at_most_what_it_was_even_in_a_prefix_from_before_it_began():
    """The inference takes longer than half a chunk, and the next observation is older than the chunk that came."""
    latency = 9
    executor = make("rtc", latency, fade_s=0.15, max_delay=CHUNK)
    executor.add(ask(executor, 0.0), plan(0), 0.0)
    second = ask(executor, 7 / HZ)
    executor.add(second, plan(5), 15 / HZ)
    offset = act(executor, 15 / HZ).action - act(executor, 15 / HZ).planned
    assert np.abs(offset).max() > 1.0
    third = ask(executor, 14 / HZ)
    planned = np.stack([np.full(CHUNK, 5.0), np.arange(CHUNK)], axis=1)[7:]
    fading = np.abs(prefix_of(third) - planned[: len(prefix_of(third))])
    assert (fading <= np.abs(offset) + 1e-6).all()
