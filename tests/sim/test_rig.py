import subprocess
import sys

import numpy as np
import pytest

from dexhil.control.limits import UnsafeCommandError
from dexhil.control.safety import SafetyLayer, SafetySettings
from dexhil.sim.operator import ScriptedOperator
from dexhil.sim.rig import SimRig


@pytest.fixture(scope="module")
def rig() -> SimRig:
    return SimRig(image_size=32)


def run(rig: SimRig, task: str, seed: int, steps: int) -> list[np.ndarray]:
    """A short episode; the full state after every step."""
    rig.reset(task=task, seed=seed)
    operator = ScriptedOperator(rig, seed=seed)
    states = [rig.data.qpos.copy()]
    for _ in range(steps):
        rig.apply(operator.act())
        states.append(rig.data.qpos.copy())
    return states


@pytest.mark.parametrize("task", ["plush", "tissue"])
def test_a_reset_is_reproduced_bit_for_bit_whatever_came_before(rig, task):
    first = rig.reset(task=task, seed=3)
    qpos = rig.data.qpos.copy()
    run(rig, task, 8, 25)
    second = rig.reset(task=task, seed=3)
    np.testing.assert_array_equal(rig.data.qpos, qpos)
    for camera in rig.cameras:
        np.testing.assert_array_equal(first.images[camera], second.images[camera])
    other = rig.reset(task=task, seed=4)
    assert not np.array_equal(rig.data.qpos, qpos)
    assert not np.array_equal(first.images["scene"], other.images["scene"])


@pytest.mark.parametrize("task", ["plush", "tissue"])
def test_a_whole_episode_is_reproduced_on_another_rig(rig, task):
    np.testing.assert_array_equal(run(rig, task, 5, 40), run(SimRig(image_size=32), task, 5, 40))


def test_the_observation_fits_the_schema_and_hides_the_object(rig):
    observation = rig.reset(task="plush", seed=0)
    observation.validate()
    assert set(observation.images) == {"scene", "wrist"}
    assert observation.images["scene"].shape == (32, 32, 3)
    assert observation.language_instruction == "Grab that yellow plushie"
    assert observation.timestamp == 0.0


@pytest.mark.parametrize("camera", ["scene", "wrist"])
def test_a_camera_sees_something(rig, camera):
    rig.reset(task="plush", seed=0)
    picture = rig.render(camera, 48, 32)
    assert picture.shape == (32, 48, 3)
    assert picture.std() > 10


def test_the_executed_command_is_limited_and_followed(rig):
    rig.reset(task="plush", seed=0)
    wanted = executed = rig.command + 1.0
    for _ in range(8):
        before = rig.command
        executed = rig.apply(wanted)
        assert (np.abs(executed - before) <= rig.spec.max_velocity / rig.control_hz + 1e-6).all()
    np.testing.assert_allclose(rig.observe().q_arm, executed[:7], atol=0.1)
    assert rig.time == pytest.approx(8 / 20)


def test_commands_pass_the_safety_layer_of_a_robot(rig):
    rig.reset(task="plush", seed=0)
    layer = SafetyLayer(rig.spec, SafetySettings(), arm_hz=rig.control_hz, hand_hz=rig.control_hz)
    layer.reset(rig.command, -np.inf)
    rng = np.random.default_rng(0)
    for _ in range(20):
        wanted = rig.command + rng.normal(0.0, 0.5, rig.spec.action_dim)
        np.testing.assert_array_equal(rig.apply(wanted), layer.limit(wanted, 0.0, True))
        np.testing.assert_array_equal(rig.resting_point, layer.resting_point())


def test_a_rig_behind_a_control_loop_does_not_limit_again():
    rig = SimRig(("plush",), cameras=(), limited=False)
    rig.reset(task="plush", seed=0)
    wanted = np.clip(rig.command + 0.5, rig.spec.lower, rig.spec.upper)
    np.testing.assert_array_equal(rig.apply(wanted), wanted)
    np.testing.assert_array_equal(rig.resting_point, wanted)


def test_an_unsafe_command_moves_nothing(rig):
    rig.reset(task="plush", seed=0)
    state, action = rig.data.qpos.copy(), rig.command
    action[0] = np.nan
    with pytest.raises(UnsafeCommandError, match="fr3_joint1 is nan"):
        rig.apply(action)
    np.testing.assert_array_equal(rig.data.qpos, state)
    assert rig.time == 0.0


def test_stop_holds_the_measured_joints(rig):
    rig.reset(task="plush", seed=0)
    rig.apply(rig.command + 0.1)
    rig.stop()
    rig.stop()
    np.testing.assert_allclose(rig.command, rig.joints, atol=1e-6)


def test_unknown_names_suggest_the_nearest(rig):
    with pytest.raises(ValueError, match="did you mean 'plush'"):
        rig.reset(task="plushy", seed=0)
    with pytest.raises(ValueError, match="did you mean 'tissue'"):
        SimRig(tasks=("tisue",))
    rig.reset(task="plush", seed=0)
    with pytest.raises(ValueError, match=r"camera 'top' is not in the scene; expected one of \['scene', 'wrist'\]"):
        rig.render("top", 8, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"difficulty": 1.5}, "difficulty 1.5: expected"),
        ({"surroundings": 1.5}, "surroundings 1.5: expected"),
        ({"control_hz": 0.0}, "control_hz 0.0: expected more than 0"),
        ({"image_size": 0}, "image_size 0: expected at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SimRig(**options)


def test_use_before_reset_says_so():
    with pytest.raises(RuntimeError, match="call reset"):
        SimRig().observe()


def test_without_opengl_the_error_names_the_packages():
    code = (
        "from dexhil.sim.rig import SimRig\n"
        "rig = SimRig(tasks=('plush',), cameras=())\n"
        "rig.reset(task='plush', seed=0)\n"
        "rig.apply(rig.command)\n"
        "rig.render('scene', 8, 8)\n"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, env={"MUJOCO_GL": "disable", "PATH": ""}, capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert "apt-get install libegl1" in result.stderr.splitlines()[-1]
    assert "libosmesa6" in result.stderr.splitlines()[-1]
