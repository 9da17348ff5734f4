"""The simulator's side of a simulated rig, step by step in this process: its person, its devices, its episodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from dexhil.control.takeover import HumanCommand
from dexhil.evaluation.config import PersonConfig
from dexhil.rig import RigConfig
from dexhil.robots.poses import IDENTITY, make_pose, rotation
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.schema import ARM_DOF
from hardware.simulated import world
from hardware.simulated.devices import SimActuator, SimOperator
from hardware.simulated.world import (
    REGRIP_STEPS,
    STEP_HZ,
    TRACKER_EVERY,
    PersonState,
    Target,
    World,
    _Served,
    step_command,
)

EAGER = PersonConfig(late_s=0.0, reaction_s=(0.0, 0.0), authority="arm")


@pytest.fixture(scope="module")
def simulator() -> _Served:
    return _Served(World(RigConfig(tasks=("plush",), cameras=("scene",), image_size=16), EAGER))


@pytest.fixture
def served(simulator: _Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Served]:
    monkeypatch.setattr(simulator.rig, "success", lambda: False)
    monkeypatch.setattr(world, "SETTLE_STEPS", 0)
    simulator.pause = 0
    yield simulator
    simulator.inject("")


class Watcher:
    """A person who shows something, and keeps where it was asked."""

    cube_to_ee, authority = IDENTITY, "hand"

    def __init__(self) -> None:
        self.rests: list[np.ndarray] = []
        cube = make_pose(np.full(3, 0.1), rotation(IDENTITY))
        self.shown: HumanCommand | None = HumanCommand(cube, np.full(SPEC.hand_dof, 0.3))

    def tick(self, rest: np.ndarray) -> HumanCommand | None:
        self.rests.append(rest.copy())
        return self.shown


def begin(served: _Served, person: Any = None, *, seed: int = 0) -> None:
    served.reset("plush", seed, person=False)
    served.person = person


def run(served: _Served, steps: int, first: int = 0) -> None:
    for index in range(first, first + steps):
        served.step(index / STEP_HZ)
        served.publish(index)


def read(slot: Any) -> Any:
    reading = slot.read()
    assert reading is not None
    return reading


def test_what_the_person_shows_is_what_the_devices_say(served: _Served):
    person = Watcher()
    begin(served, person)
    run(served, 2 * TRACKER_EVERY)
    assert person.shown is not None
    np.testing.assert_array_equal(read(served.world.tracker).value, person.shown.pose_camera_cube)
    np.testing.assert_array_equal(read(served.world.glove).value, person.shown.q_hand)
    assert read(served.world.person).value == PersonState(engage=True, successes=served.successes, authority="hand")
    person.shown = None
    run(served, 1, first=6)
    assert not read(served.world.person).value.engage
    np.testing.assert_array_equal(person.rests[-1], served.rig.command)  # a person leads from what was commanded


def test_who_takes_over_holds_still_until_the_robot_stands_and_leads_it_from_there(served: _Served, monkeypatch):
    monkeypatch.setattr(world, "SETTLE_STEPS", 5)
    person, led = Watcher(), []
    monkeypatch.setattr(Watcher, "lead_from", lambda self, command: led.append(len(self.rests)), raising=False)
    begin(served, person)
    asked = []
    for index in range(8):
        run(served, 1, first=index)
        asked.append(len(person.rests))
        assert served.engage
    assert asked == [1, 1, 1, 1, 1, 2, 3, 4]
    assert led == [1]


def test_an_episode_without_a_person_has_nobody_who_engages(served: _Served):
    facts = served.reset("plush", 1, person=False)
    np.testing.assert_array_equal(facts["cube_to_ee"], IDENTITY)
    run(served, 5)
    assert read(served.world.person).value == PersonState(False, served.successes, "both")
    np.testing.assert_array_equal(served.regrip(), IDENTITY)


def test_success_counts_once_and_ends_the_persons_part_until_the_next_episode(served: _Served, monkeypatch):
    person, before = Watcher(), served.successes
    begin(served, person)
    run(served, 3)
    monkeypatch.setattr(served.rig, "success", lambda: True)
    run(served, 5, first=3)
    assert served.successes == before + 1
    assert not read(served.world.person).value.engage
    assert len(person.rests) == 4
    begin(served, person)
    run(served, 1)
    assert len(person.rests) == 5
    assert served.successes == before + 2


def test_a_new_episode_begins_with_nobody_engaged(served: _Served):
    begin(served, Watcher())
    run(served, 1)
    assert served.engage
    begin(served, None)
    served.publish(0)
    assert not read(served.world.person).value.engage


def test_targets_of_the_last_episode_are_forgotten(served: _Served):
    begin(served)
    served.world.arm_target.write(Target(SPEC.home[:ARM_DOF] + 0.3, 0.0))
    served.world.hand_target.write(Target(SPEC.home[ARM_DOF:] + 0.1, 0.0))
    run(served, 5)
    assert np.abs(served.rig.command - SPEC.home).max() == pytest.approx(0.3, abs=1e-5)
    begin(served)
    held = served.rig.command.copy()
    run(served, 5)
    np.testing.assert_array_equal(served.rig.command, held)
    served.world.hand_target.write(Target(SPEC.home[ARM_DOF:] + 0.05, 0.0))
    run(served, 1)
    np.testing.assert_allclose(served.rig.command[ARM_DOF:], SPEC.home[ARM_DOF:] + 0.05, atol=1e-6)


def test_the_arms_velocity_is_that_of_its_joints(served: _Served):
    begin(served)
    served.world.arm_target.write(Target(SPEC.home[:ARM_DOF] + 0.2, 0.5))
    run(served, 20)
    before = read(served.world.arm).value.q
    run(served, 1, first=20)
    state = read(served.world.arm).value
    np.testing.assert_allclose(state.dq, (state.q - before) * STEP_HZ, atol=1e-4)
    assert (state.dq > 0.05).all()
    begin(served)
    served.publish(0)
    np.testing.assert_allclose(read(served.world.arm).value.dq, 0.0, atol=1e-6)  # the reset is no motion


def test_who_grips_anew_lets_go_for_a_while_and_takes_over_at_once_with_another_grip(served: _Served):
    facts = served.reset("plush", 2, person=True)
    np.testing.assert_array_equal(served.regrip(), facts["cube_to_ee"])  # nobody has taken over yet
    served.step(0.0)
    served.step(0.01)
    assert served.engage
    grip = served.regrip()
    assert np.abs(grip - facts["cube_to_ee"]).max() > 1e-3
    engaged = []
    for index in range(REGRIP_STEPS + 1):
        served.step(index / STEP_HZ)
        engaged.append(served.engage)
    assert engaged[: REGRIP_STEPS - 1] == [False] * (REGRIP_STEPS - 1)
    assert engaged[-1]
    assert served.person.authority == "arm"


def test_devices_speak_at_their_rates_and_a_silent_one_not_at_all(served: _Served):
    begin(served, Watcher())
    slots = {"arm": served.world.arm, "tracker": served.world.tracker, "scene": served.world.images["scene"]}
    run(served, 1)
    first = {name: read(slot).seq for name, slot in slots.items()}
    run(served, 60, first=1)
    assert {name: read(slot).seq - first[name] for name, slot in slots.items()} == {
        "arm": 60,
        "tracker": 20,
        "scene": 12,
    }
    taken = read(slots["scene"])
    assert taken.t_device < taken.t_received  # a picture is of when it was taken
    served.inject("tracker")
    silent, heard = read(slots["tracker"]).seq, read(slots["arm"]).seq
    run(served, 6, first=61)
    assert (read(slots["tracker"]).seq, read(slots["arm"]).seq) == (silent, heard + 6)


def test_pictures_are_there_just_before_the_observer_looks(served: _Served):
    begin(served)
    per_picture = round(STEP_HZ / served.world.rig.control_hz)
    run(served, 1, first=1000)
    said = []
    for index in range(1001, 1001 + 4 * per_picture):
        before = read(served.world.images["scene"]).seq
        served.publish(index)
        said += [index] if read(served.world.images["scene"]).seq > before else []
    assert {index % per_picture for index in said} == {per_picture - 2}


@pytest.mark.parametrize("late", [0, 3])
def test_the_arm_goes_straight_and_is_at_its_target_at_its_time(late: int):
    command, goal = SPEC.home.copy(), SPEC.home[:ARM_DOF] + np.linspace(-0.1, 0.2, ARM_DOF)
    hand = SPEC.home[ARM_DOF:] + np.linspace(0.0, 0.1, SPEC.hand_dof)
    way = []
    for step in range(late, 10):
        command = step_command(command, Target(goal, 0.1), Target(hand, 0.1), step / STEP_HZ)
        way.append(command[:ARM_DOF].copy())
    steps = np.diff([SPEC.home[:ARM_DOF], *way], axis=0)
    np.testing.assert_allclose(steps, np.broadcast_to(steps[0], steps.shape), atol=1e-5)
    np.testing.assert_allclose(command, [*goal, *hand], atol=1e-5)
    beyond = step_command(command, Target(goal, 0.1), None, 0.5)
    np.testing.assert_allclose(beyond, command, atol=1e-6)


def test_an_actuator_drops_targets_of_an_older_epoch(served: _Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(World, "alive", True)
    ours = served.world
    arm = SimActuator("simulated arm", ours, ours.arm, ours.arm_target, 1.0)
    told = [arm.command(np.full(ARM_DOF, value), 0.0, epoch)[0] for value, epoch in ((1, 3), (2, 3), (3, 2), (4, 4))]
    assert told == [1, 2, 2, 4]


def test_the_operator_says_every_event_once(served: _Served):
    operator = SimOperator("simulated person", served.world, served.world.person, 1.0)
    begin(served, Watcher())
    run(served, 1)
    operator.read()
    served.successes += 1
    operator.press("quit")
    run(served, 1, first=1)
    asks = [read(operator).value for _ in range(2)]
    assert [ask.events for ask in asks] == [("success", "quit"), ()]
    assert asks[0].authority == "hand"
