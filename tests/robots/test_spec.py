import dataclasses

import numpy as np
import pytest

from dexhil.robots.spec import FR3_DEXHAND021, ROBOTS, get_robot
from dexhil.schema import ARM_DOF


@pytest.mark.parametrize("spec", ROBOTS.values(), ids=ROBOTS)
def test_limits_hold_home_and_every_joint_can_move(spec):
    assert (spec.lower < spec.upper).all()
    assert (spec.lower <= spec.home).all()
    assert (spec.home <= spec.upper).all()
    assert (spec.max_velocity > 0).all()
    assert len(set(spec.joint_names)) == spec.action_dim


@pytest.mark.parametrize("spec", ROBOTS.values(), ids=ROBOTS)
def test_every_hand_joint_follows_one_motor_and_every_motor_drives_a_joint(spec):
    assert ((spec.coupling != 0).sum(axis=1) == 1).all()
    assert (spec.coupling != 0).any(axis=0).all()


def test_dexhand_has_twelve_motors_and_seven_driven_joints():
    spec = FR3_DEXHAND021
    assert spec.hand_dof == 12
    assert len(spec.full_hand_joint_names) == 19
    motors = set(spec.joint_names[ARM_DOF:])
    assert len([name for name in spec.full_hand_joint_names if name not in motors and name != "index_spread"]) == 7


def test_the_little_finger_spreads_twice_as_far():
    spec = FR3_DEXHAND021
    q_hand = np.zeros(12, np.float32)
    q_hand[spec.joint_names.index("spread") - ARM_DOF] = 0.1
    full = dict(zip(spec.full_hand_joint_names, spec.coupling @ q_hand, strict=True))
    assert full["little_spread"] == pytest.approx(0.2)
    assert full["index_spread"] == full["ring_spread"] == pytest.approx(0.1)


def test_unknown_robot_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'fr3_dexhand021'"):
        get_robot("fr3_dexhand")


def test_a_limit_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="upper: expected 19 values"):
        dataclasses.replace(FR3_DEXHAND021, upper=np.zeros(3, np.float32))
