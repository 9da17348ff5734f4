"""When the simulated person takes over and hands back, on a clock of the test: what it sees is made up."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from dexhil.control.takeover import HumanCommand
from dexhil.robots import arm_ik
from dexhil.schema import ARM_DOF
from dexhil.sim.operator import Intent, hand_to_grasp
from dexhil.sim.person import Attention, PersonConfig, SimulatedPerson, Watch, foresee
from dexhil.sim.rig import SimRig
from dexhil.sim.strategies.base import Grasp
from dexhil.sim.strategies.plush import GRASP_HEIGHT_M

WELL = Attention(time_s=0.0, away=0.2, above=0.1, closure=0.0, in_hand=False, moved=0.0, dropped=0.0)
SURE = PersonConfig(reaction_s=(0.0, 0.0))
WRONG: dict[str, Any] = {"above": 0.0}  # beside the object, at its height: the wrong approach
CAUGHT: dict[str, Any] = {"away": 0.0, "above": 0.0, "in_hand": True, "moved": 0.05}


@pytest.fixture(scope="module")
def rig() -> SimRig:
    rig = SimRig(("plush",), cameras=())
    rig.reset(task="plush", seed=0)
    return rig


@dataclasses.dataclass
class Scene:
    """A person who sees what it is given."""

    person: SimulatedPerson
    rig: SimRig

    def tick(self, time_s: float, **seen: Any) -> HumanCommand | None:
        self.person._look = lambda: dataclasses.replace(WELL, time_s=time_s, **seen)
        return self.person.tick(self.rig.command)


def scene(rig: SimRig, config: PersonConfig = SURE, seed: int = 0) -> Scene:
    return Scene(SimulatedPerson(rig, seed=seed, config=config), rig)


def test_a_person_reacts_after_the_time_to_react_from_the_first_reason_on(rig):
    at = scene(rig, PersonConfig(reaction_s=(0.3, 0.3)))
    acts = [at.tick(time_s, **WRONG) is not None for time_s in (1.0, 1.1, 1.2, 1.25, 1.35)]
    assert acts == [False, False, False, False, True]
    assert at.person.reasons == ["wrong_approach"]


def test_a_reason_that_is_over_without_the_object_in_the_hand_is_still_one(rig):
    at = scene(rig, PersonConfig(reaction_s=(0.3, 0.3)))
    at.tick(1.0, **WRONG)
    assert at.tick(1.4) is not None


def test_a_false_alarm_is_one_however_well_it_goes(rig):
    at = scene(rig, PersonConfig(reaction_s=(0.2, 0.2), false_alarms_per_s=1000.0))
    at.tick(1.0, **CAUGHT)
    at.tick(1.1, **CAUGHT)
    assert at.tick(1.25, **CAUGHT) is not None
    assert at.person.reasons == ["false_alarm"]


def test_false_alarms_come_at_their_rate(rig):
    """1 a second, looked for 1 s: none in 37 % of all cases."""
    config = PersonConfig(reaction_s=(0.0, 0.0), false_alarms_per_s=1.0)
    people = [scene(rig, config, seed) for seed in range(200)]
    alarmed = [any(at.tick(k / rig.control_hz) is not None for k in range(round(rig.control_hz))) for at in people]
    assert np.mean(alarmed) == pytest.approx(1 - np.exp(-1), abs=0.12)


@pytest.mark.parametrize("foresight", [0.0, 0.25, 1.0])
def test_so_many_people_foresee_a_miss(rig, foresight):
    people = [scene(rig, dataclasses.replace(SURE, foresight=foresight), seed) for seed in range(200)]
    assert np.mean([at.tick(1.0, **WRONG) is not None for at in people]) == pytest.approx(foresight, abs=0.1)


@pytest.mark.parametrize("hand_back", [0.0, 0.25, 1.0])
def test_so_many_people_hand_back_once_the_object_is_in_the_hand(rig, hand_back):
    handed = []
    for seed in range(60):
        at = scene(rig, dataclasses.replace(SURE, hand_back=hand_back), seed)
        assert at.tick(1.0, **WRONG) is not None
        assert at.tick(1.1, **CAUGHT | {"in_hand": False}) is not None
        assert at.tick(1.2, **CAUGHT | {"moved": 0.01}) is not None
        handed.append(at.tick(1.3, **CAUGHT) is None)
    assert np.mean(handed) == pytest.approx(hand_back, abs=0.15)


def test_after_a_hand_back_patience_begins_anew(rig):
    at = scene(rig, dataclasses.replace(SURE, hand_back=1.0, late_s=2.0, no_progress_s=1.0))
    at.tick(5.0, **WRONG)
    assert at.tick(9.0, **CAUGHT) is None
    assert at.tick(9.1) is None
    assert at.tick(9.9) is None
    assert at.tick(11.5) is not None
    assert at.person.reasons == ["wrong_approach", "no_progress"]


def test_a_person_shows_where_the_robot_comes_to_rest_with_a_hand_like_its_own(rig):
    at = scene(rig)
    rest = rig.command.copy()
    rest[:ARM_DOF] += np.linspace(-0.1, 0.1, ARM_DOF)
    rest[ARM_DOF:] = np.minimum(rest[ARM_DOF:] + 0.2, rig.spec.upper[ARM_DOF:])
    at.person._look = lambda: dataclasses.replace(WELL, time_s=1.0, above=0.0)
    shown = at.person.tick(rest)
    wanted = Intent(arm_ik.forward(rest[:ARM_DOF].astype(np.float64)), hand_to_grasp(rest[ARM_DOF:]))
    expected = at.person._devices.show(wanted)
    assert shown is not None
    np.testing.assert_allclose(shown.pose_camera_cube[:3], expected.pose_camera_cube[:3], atol=1e-6)
    assert abs(shown.pose_camera_cube[3:] @ expected.pose_camera_cube[3:]) == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(shown.q_hand, expected.q_hand, atol=1e-6)
    assert wanted.grasp != Grasp()


def test_each_takeover_is_another_attempt_with_the_same_habits(rig):
    habits = dataclasses.replace(SURE, hand_back=1.0, approach_speed=0.07, skill=4.0, authority="arm", blend=0.25)
    at, attempts = scene(rig, habits), []
    for time_s in (1.0, 3.0):
        at.tick(time_s, **WRONG)
        assert at.person._operator is not None
        attempts.append(at.person._operator)
        at.tick(time_s + 1.0, **CAUGHT)
    first, second = attempts
    assert first.style.speed != second.style.speed
    assert {operator._approach_speed for operator in attempts} == {0.07}
    assert {operator.style.tremor_m for operator in attempts} == {0.0015 / 4.0}
    assert (at.person.authority, at.person.blend) == ("arm", 0.25)


def test_an_arm_that_does_not_follow_is_led_back_for_two_seconds(rig, monkeypatch):
    at = scene(rig)
    clock = {"time": 0.0}
    monkeypatch.setattr(SimRig, "time", property(lambda self: clock["time"]))
    stuck = rig.pose_base_ee + np.array([0.5, 0, 0, 0, 0, 0, 0])
    moments = []
    for k in range(200):
        clock["time"] = 10.0 + k / rig.control_hz
        if k == 1:
            monkeypatch.setattr(SimRig, "pose_base_ee", property(lambda self: stuck))
        shown = at.tick(clock["time"], **(WRONG if at.person._operator is None and k < 10 else {}))
        moments.append((clock["time"], at.person._led_back_at is not None, shown is not None))
        if k and shown is None:
            break
    began = next(time_s for time_s, led, _ in moments if led)
    assert began - 10.0 == pytest.approx(0.85, abs=0.11)
    assert moments[-1][0] - began == pytest.approx(2.0, abs=0.06)
    again = at.tick(moments[-1][0] + 0.1, **WRONG)
    assert again is not None
    assert at.tick(moments[-1][0] + 0.15) is not None  # led back once; the next takeover is a new one


def test_a_hand_is_away_in_the_plane_of_the_table_and_above_where_fingers_close(rig, monkeypatch):
    person, state = SimulatedPerson(rig, seed=0), rig.privileged()
    hand = state.grasp_point.copy()
    monkeypatch.setattr(SimRig, "pose_base_ee", property(lambda self: np.array([*hand, 1.0, 0, 0, 0])))
    hand += [0.03, 0.04, 0.2]
    seen = person._look()
    assert seen.away == pytest.approx(0.05)
    assert seen.above == pytest.approx(hand[2] - GRASP_HEIGHT_M)
    lifted = [0.0, 0.1, 0.06, 0.08]
    dropped = []
    for height in lifted:
        monkeypatch.setattr(SimRig, "privileged", lambda self, h=height: dataclasses.replace(state, lifted=h))
        dropped.append(person._look().dropped)
    assert dropped == pytest.approx([0.0, 0.0, 0.04, 0.02])


@pytest.mark.parametrize("seen", [{"closure": 0.8, **CAUGHT}, {"dropped": 0.1, **CAUGHT}, {"time_s": 100.0, **CAUGHT}])
def test_what_is_in_the_hand_is_no_miss(seen):
    watch = Watch(best=0.3, since=99.9, moved=0.0)
    assert foresee("plush", dataclasses.replace(WELL, **seen), watch, PersonConfig()) == ""


BESIDE: dict[str, Any] = {"away": 0.005, "above": 0.0}


@pytest.mark.parametrize(
    ("task", "measure", "within", "beyond", "more", "reasons"),
    [
        ("plush", "away", 0.025, 0.035, {"above": 0.0}, ("", "wrong_approach")),
        ("tissue", "away", 0.016, 0.024, {"above": 0.0}, ("", "wrong_approach")),
        ("plush", "above", 0.025, 0.035, {}, ("wrong_approach", "")),
        ("tissue", "above", 0.030, 0.040, {}, ("wrong_approach", "")),
        ("plush", "closure", 0.40, 0.50, {}, ("", "hand_before_arm")),
        ("plush", "above", 0.055, 0.065, {"away": 0.0, "closure": 0.8}, ("", "poor_contact")),
        ("plush", "dropped", 0.016, 0.024, BESIDE, ("", "slip")),
        ("plush", "moved", 0.016, 0.024, {"closure": 0.8}, ("hand_before_arm", "")),
        ("plush", "moved", 0.016, 0.024, {"time_s": 8.5}, ("late", "")),
    ],
)
def test_how_far_is_too_far(task, measure, within, beyond, more, reasons):
    found = []
    for value in (within, beyond):
        seen = dataclasses.replace(WELL, **{"time_s": 1.0} | more)
        watch = Watch(best=0.3, since=seen.time_s - 0.1)
        found.append(foresee(task, dataclasses.replace(seen, **{measure: value}), watch, PersonConfig()))
    assert tuple(found) == reasons


@pytest.mark.parametrize(
    ("measure", "per_s", "goes_well"),
    [("moved", 0.02, True), ("moved", 0.001, False), ("above", -0.05, True), ("away", 0.05, False)],
)
def test_what_counts_as_progress(measure, per_s, goes_well):
    watch, config = Watch(), PersonConfig()
    seen = dataclasses.replace(WELL, above=0.3)
    reasons = [
        foresee(
            "plush", dataclasses.replace(seen, time_s=t, **{measure: getattr(seen, measure) + per_s * t}), watch, config
        )
        for t in np.arange(0.0, 3.0, 0.05)
    ]
    assert ("no_progress" not in reasons) == goes_well


def test_below_the_height_at_which_fingers_close_nothing_is_gained():
    watch, reasons = Watch(), set()
    for t in np.arange(0.0, 3.0, 0.05):
        seen = dataclasses.replace(WELL, time_s=t, away=0.0, above=-0.05 * t)
        reasons.add(foresee("plush", seen, watch, PersonConfig()))
    assert "no_progress" in reasons
