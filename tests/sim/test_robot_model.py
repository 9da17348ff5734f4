import mujoco
import numpy as np
import pytest

from dexhil.robots.geometry import FINGERS, ee_pose, finger_tips
from dexhil.sim.robot_model import SPEC, TIMESTEP_S, build_scene, drive_joint
from dexhil.sim.surroundings import SCENE_TARGET, look_at


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return build_scene().compile()


def random_joints(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(SPEC.lower, SPEC.upper).astype(np.float64)


def placed(model: mujoco.MjModel, joints: np.ndarray) -> mujoco.MjData:
    data = mujoco.MjData(model)
    for name, angle in zip(SPEC.joint_names[:7], joints[:7], strict=True):
        data.joint(name).qpos[0] = angle
    for name, angle in zip(SPEC.full_hand_joint_names, SPEC.coupling @ joints[7:], strict=True):
        data.joint(name).qpos[0] = angle
    mujoco.mj_forward(model, data)
    return data


def test_motors_are_in_the_order_of_the_robot_spec(model):
    assert [model.actuator(i).name for i in range(model.nu)] == list(SPEC.joint_names)
    driven = [model.joint(model.actuator(i).trnid[0]).name for i in range(model.nu)]
    assert driven == [*SPEC.joint_names[:7], *(drive_joint(SPEC, i) for i in range(SPEC.hand_dof))]


def test_motor_ranges_are_the_robots_limits(model):
    np.testing.assert_allclose(model.actuator_ctrlrange, np.stack([SPEC.lower, SPEC.upper], axis=1), atol=1e-6)


def test_joint_ranges_hold_every_command(model):
    highest = SPEC.coupling @ SPEC.upper[7:]
    for name, angle in zip(SPEC.full_hand_joint_names, highest, strict=True):
        assert model.joint(name).range[1] >= angle - 1e-6


def test_equalities_are_the_coupling_matrix(model):
    rows = dict(zip(SPEC.full_hand_joint_names, SPEC.coupling, strict=True))
    coupled = set()
    for index in range(model.neq):
        joint, driver = (model.joint(i[index]).name for i in (model.eq_obj1id, model.eq_obj2id))
        assert model.eq_data[index, 1] == pytest.approx(rows[joint].max() / rows[driver].max())
        assert np.argmax(rows[joint]) == np.argmax(rows[driver])
        coupled.add(joint)
    assert coupled == set(SPEC.full_hand_joint_names) - {drive_joint(SPEC, i) for i in range(SPEC.hand_dof)}


@pytest.mark.parametrize("seed", range(5))
def test_kinematics_agree_with_numpy(model, seed):
    joints = random_joints(seed)
    data = placed(model, joints)
    np.testing.assert_allclose(data.site("ee").xpos, ee_pose(joints[:7])[0], atol=1e-6)
    palm = data.body("palm")
    tips = np.stack([data.site(f"{finger}_tip").xpos for finger in FINGERS])
    np.testing.assert_allclose((tips - palm.xpos) @ palm.xmat.reshape(3, 3), finger_tips(joints[7:]), atol=1e-5)


def test_the_robot_stands_still_at_home_and_follows_a_grasp(model):
    data = placed(model, SPEC.home.astype(np.float64))
    grasp = SPEC.home.copy()
    grasp[7:] = 0.5 * (SPEC.lower + SPEC.upper)[7:]
    data.ctrl[:] = grasp
    mujoco.mj_step(model, data, 500)
    reached = [data.joint(drive_joint(SPEC, i)).qpos[0] for i in range(SPEC.hand_dof)]
    np.testing.assert_allclose(reached, grasp[7:], atol=0.02)
    np.testing.assert_allclose([data.joint(name).qpos[0] for name in SPEC.joint_names[:7]], SPEC.home[:7], atol=1e-3)


def test_coupled_joints_stay_coupled_while_moving(model):
    data = placed(model, SPEC.home.astype(np.float64))
    data.ctrl[:] = SPEC.home
    data.ctrl[7:] = 0.8 * SPEC.upper[7:]
    mujoco.mj_step(model, data, 50)
    actuated = np.array([data.joint(drive_joint(SPEC, i)).qpos[0] for i in range(SPEC.hand_dof)])
    full = np.array([data.joint(name).qpos[0] for name in SPEC.full_hand_joint_names])
    np.testing.assert_allclose(full, SPEC.coupling @ actuated, atol=0.05)


def test_what_the_code_knows_of_the_scene_stands_in_it(model):
    assert model.opt.timestep == TIMESTEP_S
    camera = model.camera("scene")
    np.testing.assert_allclose(look_at(camera.pos, SCENE_TARGET), camera.quat, atol=1e-12)
