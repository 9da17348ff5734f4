"""Tasks: reproducible resets, ranges that grow with difficulty, success and failure by moving bodies, both models."""

from __future__ import annotations

import dataclasses

import mujoco
import numpy as np
import pytest

from dexhil.sim.robot_model import build_scene
from dexhil.sim.tasks import PlushTask, Task, TissueTask, make_task, task_names
from dexhil.sim.tasks import plush as plush_module
from dexhil.sim.tasks import tissue as tissue_module
from dexhil.sim.tasks.tissue import LENGTH

SEEDS = range(40)
ABOVE = np.array([0.0, 0.0, 1.0])


def make_world(task: Task) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """The task's scene with one more thing in it: a ball, `pad`, that counts as a hand and can be put anywhere."""
    spec = build_scene()
    pad = spec.worldbody.add_body(name="pad", mocap=True, pos=(0, 0, 2))
    pad.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=(0.02, 0, 0), contype=3, conaffinity=0)
    task.build(spec)
    model = spec.compile()
    return model, mujoco.MjData(model)


def reset(task: Task, model: mujoco.MjModel, data: mujoco.MjData, *, seed: int, difficulty: float) -> None:
    mujoco.mj_resetData(model, data)
    task.randomise(model, data, np.random.default_rng(seed), difficulty)
    mujoco.mj_forward(model, data)


def model_arrays(model: mujoco.MjModel) -> dict[str, np.ndarray]:
    arrays = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
    return {name: value.copy() for name, value in arrays.items() if isinstance(value, np.ndarray)}


def run(task: Task, model: mujoco.MjModel, data: mujoco.MjData, seconds: float) -> None:
    """Physics with the task's hooks, 20 times per s."""
    steps = round(0.05 / model.opt.timestep)
    while data.time < seconds - 1e-9:
        task.before_step(model, data, data.time)
        mujoco.mj_step(model, data, steps)
        task.update(model, data, data.time)


def place_pad(model: mujoco.MjModel, data: mujoco.MjData, position: np.ndarray) -> None:
    data.mocap_pos[0] = position
    mujoco.mj_forward(model, data)


def move_toy(model: mujoco.MjModel, data: mujoco.MjData, height: float) -> None:
    data.qpos[model.joint("plush_root").qposadr[0] + 2] = height
    mujoco.mj_forward(model, data)


def pull_sheet(model: mujoco.MjModel, data: mujoco.MjData, distance: float) -> None:
    data.qpos[model.joint("tissue_slide").qposadr[0]] += distance
    mujoco.mj_forward(model, data)


@pytest.mark.parametrize("name", task_names())
def test_a_reset_depends_on_seed_and_difficulty_only(name: str) -> None:
    task = make_task(name)
    model, data = make_world(task)
    reset(task, model, data, seed=3, difficulty=0.7)
    first, state = model_arrays(model), data.qpos.copy()
    reset(task, model, data, seed=4, difficulty=1.0)
    assert not np.array_equal(state, data.qpos) or any(
        not np.array_equal(first[k], v, equal_nan=True) for k, v in model_arrays(model).items()
    )
    run(task, model, data, 0.1)
    reset(task, model, data, seed=3, difficulty=0.7)
    np.testing.assert_array_equal(data.qpos, state)
    for field, value in model_arrays(model).items():
        np.testing.assert_array_equal(value, first[field], err_msg=field)


@pytest.mark.parametrize("name", task_names())
def test_rollouts_repeat_bit_for_bit(name: str) -> None:
    ends = []
    for _ in range(2):
        task = make_task(name)
        model, data = make_world(task)
        reset(task, model, data, seed=5, difficulty=0.5)
        run(task, model, data, 0.5)
        ends.append(data.qpos.copy())
    np.testing.assert_array_equal(ends[0], ends[1])


@pytest.mark.parametrize("module", [plush_module, tissue_module], ids=task_names())
def test_ranges_grow_with_difficulty_and_vanish_at_zero(module) -> None:
    def values(seed: int, difficulty: float) -> np.ndarray:
        fields = dataclasses.asdict(module.draw(np.random.default_rng(seed), difficulty))
        fields.pop("push_time", None)
        return np.concatenate([np.atleast_1d(value) for value in fields.values()])

    nominal = values(0, 0.0)
    for seed in SEEDS:
        np.testing.assert_array_equal(values(seed, 0.0), nominal)
        gaps = np.array([np.abs(values(seed, d) - nominal) for d in (0.25, 0.5, 0.75, 1.0)])
        assert (np.diff(gaps, axis=0) >= -1e-12).all()


def test_full_difficulty_spans_the_whole_plush_ranges() -> None:
    draws = [plush_module.draw(np.random.default_rng(seed), 1.0) for seed in range(500)]
    for field, low, high in (
        ("yaw", -np.pi / 2, 3 * np.pi / 2),
        ("size", 0.8, 1.2),
        ("friction", 1.0, 1.7),
        ("mass", 0.5, 2.0),
    ):
        seen = np.array([getattr(values, field) for values in draws])
        assert low <= seen.min() < low + 0.05 * (high - low), field
        assert high - 0.05 * (high - low) < seen.max() <= high, field


def test_full_difficulty_spans_the_whole_tissue_ranges() -> None:
    draws = [tissue_module.draw(np.random.default_rng(seed), 1.0) for seed in range(500)]
    for field, low, high in (
        ("yaw", -1.0, 1.0), ("height", -0.006, 0.006), ("visible", 0.032, 0.042), ("width", 0.05, 0.07),
        ("retention", 0.3, 0.7),
    ):  # fmt: skip
        seen = np.array([getattr(values, field) for values in draws])
        assert low <= seen.min() < low + 0.05 * (high - low), field
        assert high - 0.05 * (high - low) < seen.max() <= high, field


def test_drawn_plush_parameters_reach_the_model() -> None:
    task = PlushTask()
    model, data = make_world(task)
    nominal = model_arrays(model)
    reset(task, model, data, seed=1, difficulty=1.0)
    values = plush_module.draw(np.random.default_rng(1), 1.0)
    belly, body = model.geom("plush_belly").id, model.body("plush_belly").id
    np.testing.assert_allclose(model.geom_size[belly], nominal["geom_size"][belly] * values.size)
    np.testing.assert_allclose(model.body_mass[body], nominal["body_mass"][body] * values.mass)
    assert model.geom_friction[belly, 0] == pytest.approx(values.friction)
    state = task.privileged(model, data)
    np.testing.assert_allclose(state.grasp_point[:2], values.position, atol=1e-9)
    assert state.yaw == pytest.approx(values.yaw)


def test_drawn_tissue_parameters_reach_the_model() -> None:
    task = TissueTask()
    model, data = make_world(task)
    reset(task, model, data, seed=1, difficulty=1.0)
    values = tissue_module.draw(np.random.default_rng(1), 1.0)
    state = task.privileged(model, data)
    np.testing.assert_allclose(state.lip, [*values.position, tissue_module.LIP_Z + values.height], atol=1e-9)
    assert model.geom("tissue_0").size[1] == pytest.approx(values.width / 2)
    assert model.dof_frictionloss[model.joint("tissue_slide").dofadr[0]] == pytest.approx(values.retention)
    assert state.visible == pytest.approx(values.visible)
    assert np.sign(model.qpos_spring[model.joint("tissue_hinge7").qposadr[0]]) == np.sign(values.curl)
    assert 0 < state.tip[2] - state.lip[2] <= values.visible + 1e-9


@pytest.mark.parametrize("name", task_names())
def test_without_difficulty_the_objects_are_as_described(name: str) -> None:
    task = make_task(name)
    model, data = make_world(task)
    described = model_arrays(model)
    reset(task, model, data, seed=1, difficulty=0.0)
    for field in ("geom_size", "geom_friction", "geom_rgba", "body_pos", "body_mass", "dof_frictionloss", "jnt_range"):
        np.testing.assert_allclose(getattr(model, field), described[field], atol=1e-12, err_msg=field)
    assert tuple(model.geom(f"{name}_{'belly' if name == 'plush' else 'pack_front'}").rgba[:3]) in [
        pytest.approx(colour) for colour in task.colours
    ]


def test_plush_succeeds_when_held_high_for_a_second() -> None:
    task = PlushTask()
    model, data = make_world(task)
    reset(task, model, data, seed=0, difficulty=0.0)
    move_toy(model, data, 0.18)
    place_pad(model, data, task.privileged(model, data).grasp_point)
    for time_s in (1.0, 1.5, 1.95):
        task.update(model, data, time_s)
        assert not task.success()
    assert task.failure() == "not_held_long_enough"
    task.update(model, data, 2.0)
    assert task.success()
    assert task.failure() == ""
    move_toy(model, data, 0.034)
    task.update(model, data, 3.0)
    assert task.success()


def test_plush_hold_restarts_when_the_hand_loses_it() -> None:
    task = PlushTask()
    model, data = make_world(task)
    reset(task, model, data, seed=0, difficulty=0.0)
    move_toy(model, data, 0.18)
    held = task.privileged(model, data).grasp_point
    for time_s, where in ((0.0, held), (0.6, held + ABOVE), (0.7, held), (1.6, held)):
        place_pad(model, data, where)
        task.update(model, data, time_s)
    assert not task.success()
    task.update(model, data, 1.7)
    assert task.success()


def test_plush_failure_names_the_furthest_stage() -> None:
    task = PlushTask()
    model, data = make_world(task)
    reset(task, model, data, seed=0, difficulty=0.0)
    task.update(model, data, 0.1)
    assert task.failure() == "never_touched"
    place_pad(model, data, task.privileged(model, data).grasp_point)
    task.update(model, data, 0.2)
    assert task.failure() == "touched_not_grasped"
    move_toy(model, data, 0.034 + 0.08)
    task.update(model, data, 0.3)
    assert task.failure() == "not_high_enough"
    move_toy(model, data, 0.034)
    task.update(model, data, 0.4)
    assert task.failure() == "slipped"
    move_toy(model, data, -0.3)
    task.update(model, data, 0.5)
    assert task.failure() == "knocked_off_table"


def test_a_push_moves_the_plush_about_as_far_as_drawn_unless_it_was_touched() -> None:
    """A toy that grips tips over and stops sooner than one that slides, so "about" is a third to all of it."""
    seed = next(s for s in SEEDS if np.linalg.norm(plush_module.draw(np.random.default_rng(s), 1.0).push) > 0.03)
    push = plush_module.draw(np.random.default_rng(seed), 1.0).push
    for touched in (False, True):
        task = PlushTask()
        model, data = make_world(task)
        reset(task, model, data, seed=seed, difficulty=1.0)
        start = task.privileged(model, data).grasp_point
        if touched:
            place_pad(model, data, start)
            task.update(model, data, 0.0)
            place_pad(model, data, start + ABOVE)
        run(task, model, data, 2.5)
        moved = (task.privileged(model, data).grasp_point - start)[:2]
        if touched:
            np.testing.assert_allclose(moved, 0.0, atol=0.012)
        else:
            assert 0.3 < moved @ push / (push @ push) < 1.1


def test_tissue_succeeds_past_half_of_its_length_measured_by_slide() -> None:
    task = TissueTask()
    model, data = make_world(task)
    reset(task, model, data, seed=2, difficulty=1.0)
    pull_sheet(model, data, LENGTH / 2 - 0.002)
    task.update(model, data, 1.0)
    assert not task.success()
    pull_sheet(model, data, 0.004)
    task.update(model, data, 1.05)
    assert task.success()
    pull_sheet(model, data, -0.05)
    task.update(model, data, 1.1)
    assert task.success()
    assert task.failure() == ""


def test_tissue_failure_names_the_furthest_stage() -> None:
    task = TissueTask()
    model, data = make_world(task)
    reset(task, model, data, seed=0, difficulty=0.0)
    task.update(model, data, 0.1)
    assert task.failure() == "never_touched"
    place_pad(model, data, task.privileged(model, data).grasp_point)
    task.update(model, data, 0.2)
    assert task.failure() == "touched_not_grasped"
    pull_sheet(model, data, 0.03)
    task.update(model, data, 0.3)
    assert task.failure() == "not_far_enough"


def test_locks_open_as_the_sheet_comes_out_and_it_falls_once_it_has_left() -> None:
    task = TissueTask()
    model, data = make_world(task)
    reset(task, model, data, seed=0, difficulty=0.0)
    locked = [data.eq_active.sum()]
    for distance in (0.05, 0.05):
        pull_sheet(model, data, distance)
        task.before_step(model, data, data.time)
        locked.append(data.eq_active.sum())
    assert locked[0] > locked[1] > locked[2]
    pull_sheet(model, data, 0.05)
    high = task.privileged(model, data).tip[2]
    run(task, model, data, 0.5)
    assert task.privileged(model, data).tip[2] < high - 0.05


def test_an_untouched_sheet_stays_where_it_is() -> None:
    task = TissueTask()
    model, data = make_world(task)
    reset(task, model, data, seed=7, difficulty=1.0)
    run(task, model, data, 1.0)
    state = task.privileged(model, data)
    assert abs(state.pulled) < 0.002
    assert state.tip[2] > state.lip[2] + 0.4 * state.visible


def test_an_untouched_plush_settles_and_tells_its_pose() -> None:
    task = PlushTask()
    model, data = make_world(task)
    reset(task, model, data, seed=7, difficulty=0.3)
    before = task.privileged(model, data)
    drawn = plush_module.draw(np.random.default_rng(7), 0.3)
    np.testing.assert_allclose(before.grasp_point[:2], drawn.position, atol=1e-6)
    assert before.yaw == pytest.approx(drawn.yaw, abs=1e-6)
    run(task, model, data, 1.0)
    after = task.privileged(model, data)
    assert np.isfinite(data.qpos).all()
    assert abs(after.lifted) < 0.008
    assert abs(after.yaw - before.yaw) < 0.2
    assert task.failure() == "never_touched"


def test_wrong_names_and_numbers_are_explained() -> None:
    with pytest.raises(ValueError, match="task 'plsh' is not known; did you mean 'plush'"):
        make_task("plsh")
    for name in task_names():
        task = make_task(name)
        model, data = make_world(task)
        with pytest.raises(ValueError, match=r"difficulty 1\.5: expected a number from 0"):
            task.randomise(model, data, np.random.default_rng(0), 1.5)
