import mujoco
import numpy as np
import pytest

from dexhil.sim.rig import SimRig
from dexhil.sim.surroundings import CLEAR_M, CLUTTER
from dexhil.sim.tasks.tissue import TissueTask

PACK_AND_PAPER = TissueTask.colours
FIELDS = ("geom_rgba", "light_pos", "light_diffuse", "cam_pos", "cam_quat")


@pytest.fixture(scope="module")
def rig() -> SimRig:
    return SimRig(tasks=("tissue",), cameras=())


def reset(rig: SimRig, seed: int, difficulty: float) -> mujoco.MjModel:
    rig.difficulty = difficulty
    rig.reset(task="tissue", seed=seed)
    return rig.model


def clutter(model: mujoco.MjModel) -> np.ndarray:
    """Ids of the bodies that are on the table."""
    bodies = [model.body(f"clutter_{i}").id for i in range(CLUTTER)]
    return np.array([body for body in bodies if model.body_pos[body, 2] > 0], int)


def test_without_difficulty_nothing_varies(rig):
    first = {field: getattr(reset(rig, 1, 0.0), field).copy() for field in FIELDS}
    reset(rig, 2, 1.0)
    again = reset(rig, 3, 0.0)
    room = [i for i in range(again.ngeom) if again.geom(i).name.startswith("room_")]
    assert len(clutter(again)) == 0
    np.testing.assert_array_equal(again.geom_rgba[room], first["geom_rgba"][room])
    for field in FIELDS[1:]:
        np.testing.assert_array_equal(getattr(again, field), first[field])


def test_surroundings_vary_apart_from_the_task(rig):
    lab = SimRig(tasks=("tissue",), cameras=(), difficulty=0.5, surroundings=0.0)
    still = [{field: getattr(reset(lab, seed, 0.5), field).copy() for field in FIELDS} for seed in (1, 2)]
    for field in FIELDS[1:]:
        np.testing.assert_array_equal(still[0][field], still[1][field])
    for seed in (1, 2):
        lab.reset(task="tissue", seed=seed)
        rig.difficulty = 0.5
        rig.reset(task="tissue", seed=seed)
        np.testing.assert_allclose(lab.privileged().grasp_point, rig.privileged().grasp_point)


def test_every_part_varies_with_the_seed(rig):
    first = {field: getattr(reset(rig, 1, 0.5), field).copy() for field in FIELDS}
    second = reset(rig, 2, 0.5)
    for field in FIELDS:
        assert not np.array_equal(getattr(second, field), first[field]), field


def test_clutter_stays_off_the_object_touches_nothing_and_mostly_shares_its_colours(rig):
    alike = []
    for seed in range(30):
        model = reset(rig, seed, 1.0)
        own = [np.array(colour) for colour in PACK_AND_PAPER]
        for body in clutter(model):
            geom = model.body_geomadr[body]
            away = model.body_pos[body, :2] - rig.privileged().grasp_point[:2]
            alike.append(any(np.allclose(model.geom_rgba[geom, :3], colour) for colour in own))
            assert np.hypot(*away) > CLEAR_M
            assert model.geom_contype[geom] == model.geom_conaffinity[geom] == 0
    assert len(alike) > 60
    assert 0.5 < np.mean(alike) < 0.9
