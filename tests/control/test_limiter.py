"""The limiter's promise: whatever is asked for, position, velocity, acceleration and jerk stay inside their limits."""

import numpy as np
import pytest

from dexhil.control.limiter import Limiter
from dexhil.control.safety import motion_limits
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.schema import ARM_DOF
from tests.hardware.fakes import SETTINGS

PARTS = {"arm": (slice(0, ARM_DOF), 30.0), "hand": (slice(ARM_DOF, None), 90.0)}


def goals(kind: str, limiter: Limiter, rng: np.random.Generator, count: int):
    """Sequences that try to break a limiter."""
    lower, upper = limiter.limits.lower, limiter.limits.upper
    n = len(lower)
    for k in range(count):
        if kind == "random":
            yield rng.uniform(lower - 1, upper + 1)
        elif kind == "far away":
            yield np.where(rng.uniform(size=n) < 0.5, -1e6, 1e6)
        elif kind == "square wave":
            yield np.where(k % 30 < 15, upper + 5, lower - 5)
        elif kind == "resonance":  # turned round in the moment of the highest speed
            yield np.where(limiter.motion.v >= 0, lower - 5, upper + 5)
        elif kind == "at the end":
            yield upper + rng.normal(0, 0.02, n)
        else:  # "jitter"
            yield limiter.motion.q + rng.normal(0, 0.5, n)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kind", ["random", "far away", "square wave", "resonance", "at the end", "jitter"])
def test_no_sequence_of_goals_breaks_a_limit(part: str, kind: str):
    joints, hz = PARTS[part]
    limits, rng = motion_limits(SPEC, joints, SETTINGS), np.random.default_rng(3)
    limiter = Limiter(limits, 1.0 / hz)
    limiter.reset(SPEC.home[joints])
    path = [limiter.motion.q] * 4
    for goal in goals(kind, limiter, rng, 250):
        stops = rng.uniform() < 0.03
        path.append(limiter.brake() if stops else limiter.accept(limiter.towards(goal)))
    path += [limiter.brake() for _ in range(60)]
    q = np.array(path)
    v, a, j = (np.diff(q, n, axis=0) * hz**n for n in (1, 2, 3))
    assert (q >= limits.lower - 1e-9).all()
    assert (q <= limits.upper + 1e-9).all()
    assert (np.abs(v) <= limits.velocity + 1e-9).all()
    assert (np.abs(a) <= limits.acceleration + 1e-6).all()
    assert (np.abs(j) <= limits.jerk + 1e-3).all()
    np.testing.assert_allclose(v[-1], 0, atol=1e-6)


@pytest.mark.parametrize("part", PARTS)
def test_a_command_within_the_limits_passes_unchanged(part: str):
    joints, hz = PARTS[part]
    limiter = Limiter(motion_limits(SPEC, joints, SETTINGS), 1.0 / hz)
    limiter.reset(SPEC.home[joints])
    for k in range(200):
        wanted = SPEC.home[joints] + 0.05 * (1 - np.cos(2 * np.pi * 0.5 * k / hz))
        wanted = np.clip(wanted, limiter.limits.lower, limiter.limits.upper)
        np.testing.assert_allclose(limiter.accept(limiter.towards(wanted)), wanted, atol=2e-4)


@pytest.mark.parametrize("part", PARTS)
def test_a_jump_of_the_goal_is_reached_and_kept(part: str):
    joints, hz = PARTS[part]
    limiter = Limiter(motion_limits(SPEC, joints, SETTINGS), 1.0 / hz)
    limiter.reset(SPEC.home[joints])
    goal = SPEC.home[joints].astype(float) + 0.15
    path = np.array([limiter.accept(limiter.towards(goal)) for _ in range(round(1.5 * hz))])
    assert (path - goal).max() < 0.02
    np.testing.assert_allclose(path[-10:], np.tile(goal, (10, 1)), atol=1e-6)


def test_the_resting_point_is_where_braking_ends():
    limits = motion_limits(SPEC, slice(0, ARM_DOF), SETTINGS)
    limiter, rng = Limiter(limits, 1 / 30), np.random.default_rng(0)
    limiter.reset(SPEC.home[:ARM_DOF])
    for _ in range(20):
        limiter.accept(limiter.towards(rng.uniform(limits.lower, limits.upper)))
    promised = limiter.rest_of(limiter.motion)
    for _ in range(60):
        limiter.brake()
    np.testing.assert_allclose(limiter.motion.q, promised, atol=1e-6)


def test_a_start_outside_the_limits_leads_inside_and_never_further_out():
    limits = motion_limits(SPEC, slice(0, ARM_DOF), SETTINGS)
    limiter = Limiter(limits, 1 / 30)
    outside = SPEC.home[:ARM_DOF].astype(float).copy()
    outside[1] = limits.lower[1] - 0.1
    limiter.reset(outside)
    away = outside - 1.0
    pushed = [limiter.accept(limiter.towards(away))[1] for _ in range(30)]
    assert min(pushed) >= outside[1] - 1e-9
    back = [limiter.accept(limiter.towards(SPEC.home[:ARM_DOF]))[1] for _ in range(90)]
    assert back[-1] == pytest.approx(SPEC.home[1], abs=1e-3)
    again = [limiter.accept(limiter.towards(away))[1] for _ in range(90)]
    assert min(again) >= limits.lower[1] - 1e-9
