"""A person's hands at the devices: where the cube and the glove stand does not matter, and nothing jumps."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dexhil.control.safety import SafetyLayer, SafetySettings
from dexhil.control.takeover import Inputs, advance, arm_target, executed, start
from dexhil.retargeting import network
from dexhil.retargeting.hand import simulated_dexhand021
from dexhil.retargeting.runtime import Model, Retargeter
from dexhil.retargeting.synthetic import LOWER, UPPER
from dexhil.robots import arm_ik
from dexhil.robots.poses import make_pose
from dexhil.robots.spec import FR3_DEXHAND021 as SPEC
from dexhil.sim.operator import Intent, grasp_to_hand
from dexhil.sim.strategies.base import Grasp
from dexhil.sim.teleoperation import FINGER_SPEED, PRACTISED, CubeInHand, Devices, HandInGlove

HZ = 20.0


@pytest.fixture(scope="module")
def model() -> Model:
    hand = simulated_dexhand021()
    return Model(hand, network.init(np.random.default_rng(0), hand, 16), {})


def test_the_cubes_motion_brings_the_end_effector_where_the_person_wants_it() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        cube = CubeInHand(rng)
        here, there = (make_pose(rng.uniform(-0.5, 0.5, 3), Rotation.random(rng=rng)) for _ in range(2))
        target = arm_target(here, cube.pose(here), cube.pose(there), cube.cube_to_ee)
        assert target[:3] == pytest.approx(there[:3], abs=1e-9)
        assert abs(target[3:] @ there[3:]) == pytest.approx(1.0, abs=1e-9)


def test_a_hand_in_a_glove_nears_the_wanted_grasp_no_faster_than_fingers_go(model: Model) -> None:
    hand = HandInGlove(model, np.random.default_rng(0), HZ)
    wanted = grasp_to_hand(PRACTISED[1]).astype(np.float64)
    retargeter = Retargeter(model)
    speeds, misses = [], []
    for _ in range(40):
        before = hand.angles
        q_hand = retargeter(hand.show(wanted))
        assert ((hand.angles >= LOWER) & (hand.angles <= UPPER)).all()
        speeds.append(np.abs(hand.angles - before).max() * HZ)
        misses.append(np.linalg.norm(q_hand - wanted))
    assert max(speeds) <= FINGER_SPEED + 1e-9
    assert misses[-1] < misses[0]


def test_a_hundred_takeovers_move_nothing_and_never_exceed_the_velocity_limits(model: Model) -> None:
    rng = np.random.default_rng(2)
    people = [Devices(np.random.default_rng(seed), model, HZ) for seed in range(5)]
    layer = SafetyLayer(SPEC, SafetySettings(), arm_hz=HZ, hand_hz=HZ)
    for number in range(100):
        hand = rng.uniform(SPEC.lower[7:], SPEC.upper[7:])
        command = np.concatenate([SPEC.home[:7] + rng.uniform(-0.1, 0.1, 7), hand]).astype(np.float32)
        devices, state = people[number % len(people)], start(command)
        grasp = Grasp(*rng.uniform(0.0, 1.0, 5))
        intent = Intent(arm_ik.forward(command[:7].astype(np.float64)), grasp)
        shown = devices.show(intent)
        for _ in range(2):  # engaging, then in control: the hands hold still
            state, decision = advance(state, Inputs(True, shown, None), SPEC, devices.cube_to_ee)
            assert np.abs(decision.command - command).max() < 1e-6
        layer.reset(command, 0.0)
        for _ in range(3):
            before = layer.command
            state, decision = advance(state, Inputs(True, devices.show(intent), None), SPEC, devices.cube_to_ee)
            sent = layer.limit(decision.command, 10.0, True)
            assert (np.abs(sent - before) <= SPEC.max_velocity / HZ + 1e-6).all()
            state = executed(state, decision.command)


def test_a_retargeter_of_another_hand_is_refused(model: Model) -> None:
    hand = model.hand
    fewer = dataclasses.replace(
        hand, motor_names=hand.motor_names[:-1], lower=hand.lower[:-1], upper=hand.upper[:-1],
        coupling=hand.coupling[:, :-1],
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"whose 11 motors are .* fr3_dexhand021 has 12"):
        Devices(np.random.default_rng(0), Model(fewer, model.params, {}), HZ)
