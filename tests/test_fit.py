"""A policy acts on the rig that it was trained for, and on no other: both values are named."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from dexhil.config import ConfigError
from dexhil.fit import Interface, check_fits, check_kinematics, known_joint_names, rig_interface
from dexhil.robots.spec import FR3_DEXHAND021, ROBOTS

NAMES = FR3_DEXHAND021.joint_names
RIG = rig_interface("fr3_dexhand021", ("scene", "wrist", "top"), 20.0, 64)
POLICY = Interface("fr3_dexhand021", NAMES, ("scene", "wrist"), 64, 20.0, 19, 19)
SWAPPED = (*NAMES[:8], NAMES[9], NAMES[8], *NAMES[10:])


@pytest.mark.parametrize(
    "change", [{}, {"control_hz": 20.01}, {"image_size": 32}, {"cameras": ("wrist",)}, {"cameras": ("top", "scene")}]
)
def test_what_fits_passes(change):
    check_fits(dataclasses.replace(POLICY, **change), RIG)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"robot": "xarm7_allegro"}, r"trained on robot 'xarm7_allegro', rig\.robot is 'fr3_dexhand021'"),
        ({"control_hz": 10.0}, r"acts at 10 Hz, the rig at 20 Hz; set .*rig\.control_hz.*rates\.policy_hz.* to 10"),
        ({"control_hz": 21.0}, "acts at 21 Hz, the rig at 20 Hz"),
        ({"control_hz": float("nan")}, "acts at nan Hz, the rig at 20 Hz"),
        ({"cameras": ("scene", "left")}, r"needs cameras \['left'\], rig.cameras are \['scene', 'wrist', 'top'\]; add"),
        ({"image_size": 224}, r"images of 224 pixels, the rig's have 64; set rig\.image_size to 224"),
        ({"action_dim": 7}, "reads 19 numbers and gives 7, 'fr3_dexhand021' has 19 joints"),
        ({"state_dim": 8}, "reads 8 numbers and gives 19, 'fr3_dexhand021' has 19 joints"),
        ({"joint_names": SWAPPED}, f"joint 8 is '{NAMES[9]}' for the checkpoint and '{NAMES[8]}' for"),
        ({"joint_names": NAMES[:7]}, f"joint 7 is None for the checkpoint and '{NAMES[7]}' for"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        check_fits(dataclasses.replace(POLICY, **change), RIG)


def test_cameras_of_any_size_are_taken():
    check_fits(dataclasses.replace(POLICY, image_size=224), dataclasses.replace(RIG, image_size=0))


def test_an_older_checkpoint_that_names_no_joints_is_taken_and_it_is_said(caplog):
    check_fits(dataclasses.replace(POLICY, joint_names=()), RIG)
    assert "does not name its joints (an older one): taken for those of 'fr3_dexhand021'" in caplog.text


def test_a_rig_of_an_unknown_robot_is_named():
    with pytest.raises(ValueError, match=r"robot 'fr3_dexhand02' is not known; did you mean 'fr3_dexhand021'"):
        rig_interface("fr3_dexhand02", (), 20.0)


def test_names_of_joints_are_known_for_the_whole_robot_only():
    assert known_joint_names("fr3_dexhand021", 19) == NAMES
    assert known_joint_names("fr3_dexhand021", 7) == ()
    assert known_joint_names("xarm7_allegro", 23) == ()


@pytest.mark.parametrize("space", ["ee_delta", "ee_pose"])
def test_end_effector_actions_need_the_kinematics_of_the_arm(space, monkeypatch):
    check_kinematics("fr3_dexhand021", space)
    check_kinematics("xarm7_allegro", "recorded")
    with pytest.raises(ConfigError, match=rf"action_space '{space}': .* none of robot 'xarm7_allegro' .*'recorded'"):
        check_kinematics("xarm7_allegro", space)
    other = dataclasses.replace(FR3_DEXHAND021, name="ur", joint_names=tuple(f"j{i}" for i in range(19)))
    monkeypatch.setitem(ROBOTS, "ur", other)
    with pytest.raises(ConfigError, match="none of robot 'ur'"):
        check_kinematics("ur", space)
    monkeypatch.setitem(
        ROBOTS, "fr3_other_hand", dataclasses.replace(other, joint_names=NAMES[:7] + other.joint_names[7:])
    )
    check_kinematics("fr3_other_hand", space)


def test_a_robot_pc_loads_it_without_jax():
    code = (
        "import sys, dexhil.fit, dexhil.serving.client; assert not {'jax', 'mujoco', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
