"""A person's hands at the devices: intent in, cube pose and glove key points out, adapted to how the robot looks."""

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from dexhil.control.takeover import NOISE_HALF_RAD, NOISE_M, NOISE_RAD, HumanCommand
from dexhil.retargeting.hand import hand_length
from dexhil.retargeting.keypoints import hand_size
from dexhil.retargeting.runtime import Model, Retargeter
from dexhil.retargeting.synthetic import FIST, LOWER, OPEN, UPPER, Person, draw_person, keypoints_of
from dexhil.robots.poses import compose, inverse, make_pose, rotation
from dexhil.robots.spec import FR3_DEXHAND021
from dexhil.sim.operator import Intent, grasp_to_hand
from dexhil.sim.strategies.base import Grasp

# Made by `experiments/retarget.py` as it stands, for the simulated hand: a study needs none of its own.
SIMULATED_RETARGETER = Path(__file__).with_name("retargeter.npz")
FINGER_SPEED = 6.0  # rad/s, the fastest that a joint of a person's hand turns
PRACTISED = (Grasp(thumb_opposition=1.0), Grasp(1.0, 1.0, 1.0, 1.0))
_PROBE, _DAMPING, _EASE = 1e-3, 0.02, 0.3
# How much a person minds each joint: how far the thumb bends and the fingers spread shows least in a grasp.
_MATTERS = np.array([1.0, 0.3, 0.3, 0.3, *np.ones(8)])
_LARGEST, _TRIES, _THOUGHTS = 0.2, 40, 4  # rad of one improvement; improvements when practising, and in a tick


class CubeInHand:
    """The cube that moves the arm. cube_to_ee: [7], the constant `C` of DexHiL eq. 3."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.cube_to_ee, self._camera = _any_pose(rng), _any_pose(rng)

    def pose(self, pose_base_ee: np.ndarray) -> np.ndarray:
        """[7], the cube in its camera's frame where a person wants the end effector at `pose_base_ee` [7]."""
        return compose(self._camera, compose(pose_base_ee, inverse(self.cube_to_ee)))


class HandInGlove:
    """A person's hand, `angles` [5, 4] rad: `show` moves it towards the grasp that the robot should take."""

    def __init__(self, model: Model, rng: np.random.Generator, control_hz: float) -> None:
        """Raises ValueError where the retargeter is for another hand than the simulated one."""
        model.check_fits(FR3_DEXHAND021)
        self.person: Person = draw_person(rng)
        self.angles = OPEN.copy()
        self._model, self._period = model, 1.0 / control_hz
        self._glove = Rotation.random(rng=rng).as_matrix()
        self._scale = hand_length(model.hand) / hand_size(keypoints_of(OPEN, self.person)[None])
        self._practised = [grasp_to_hand(grasp).astype(np.float64) for grasp in PRACTISED]
        self._habits = [self._practise(q_hand, rng) for q_hand in self._practised]

    def show(self, q_hand: np.ndarray) -> np.ndarray:
        """Key points [21, 3] m in the glove's frame, one control period nearer to a robot hand at `q_hand` [m] rad."""
        most, wanted, habit = FINGER_SPEED * self._period, self.angles, self._habit(q_hand)
        for _ in range(_THOUGHTS):
            wanted = self._better(wanted, q_hand, habit)
        self.angles = self.angles + np.clip(wanted - self.angles, -most, most)
        return keypoints_of(self.angles, self.person) @ self._glove.T

    def _better(self, angles: np.ndarray, q_hand: np.ndarray, habit: np.ndarray) -> np.ndarray:
        """Damped least squares: angles [5, 4] at which the robot is nearer to `q_hand`; of those, near to the habit."""
        probes = angles.ravel() + np.vstack([np.zeros(20), _PROBE * np.eye(20)])
        seen = self._model.motors(keypoints_of(probes.reshape(-1, 5, 4), self.person), self._scale)
        slope = (seen[1:] - seen[0]).T / _PROBE
        rows = np.vstack([_MATTERS[:, None] * slope, np.sqrt(_DAMPING) * np.eye(20)])
        wanted = np.concatenate([_MATTERS * (q_hand - seen[0]), np.sqrt(_DAMPING) * _EASE * (habit - angles).ravel()])
        step = np.linalg.lstsq(rows, wanted, rcond=None)[0].reshape(5, 4)
        return np.clip(angles + np.clip(step, -_LARGEST, _LARGEST), LOWER, UPPER)

    def _practise(self, q_hand: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        starts = [*(OPEN + closed * (FIST - OPEN) for closed in (0.0, 0.5, 1.0)), *rng.uniform(LOWER, UPPER, (5, 5, 4))]
        shapes = []
        for angles in starts:
            for _ in range(_TRIES):
                angles = self._better(angles, q_hand, OPEN)
            shapes.append(angles)
        reached = self._model.motors(keypoints_of(np.stack(shapes), self.person), self._scale)
        return shapes[int(np.argmin(((_MATTERS * (reached - q_hand)) ** 2).sum(-1)))]

    def _habit(self, q_hand: np.ndarray) -> np.ndarray:
        way = self._practised[1] - self._practised[0]
        along = np.clip((q_hand - self._practised[0]) @ way / (way @ way), 0.0, 1.0)
        return self._habits[0] + along * (self._habits[1] - self._habits[0])


class Devices:
    """Cube and glove of one person, through the retargeter (None: joints as intended), to what a takeover takes."""

    def __init__(self, rng: np.random.Generator, model: Model | None, control_hz: float) -> None:
        self._cube = CubeInHand(rng)
        self._glove = HandInGlove(model, rng, control_hz) if model else None
        self._retargeter = Retargeter(model) if model else None

    @property
    def cube_to_ee(self) -> np.ndarray:
        return self._cube.cube_to_ee

    def show(self, intent: Intent) -> HumanCommand:
        """What the devices give while the person wants `intent`."""
        q_hand = grasp_to_hand(intent.grasp).astype(np.float64)
        if self._glove is not None and self._retargeter is not None:
            q_hand = self._retargeter(self._glove.show(q_hand))
        return HumanCommand(self._cube.pose(intent.pose_base_ee), q_hand)


def with_sensor_noise(human: HumanCommand, rng: np.random.Generator) -> HumanCommand:
    """What sensors show of a hand at rest: 1 mm and 0.5 degrees of the cube, 0.01 rad of every joint."""
    cube = human.pose_camera_cube
    turn = Rotation.from_rotvec(rng.normal(0.0, 2.0 * NOISE_HALF_RAD, 3)) * rotation(cube)
    pose = make_pose(cube[:3] + rng.normal(0.0, NOISE_M, 3), turn)
    return HumanCommand(pose, human.q_hand + rng.normal(0.0, NOISE_RAD, len(human.q_hand)))


def _any_pose(rng: np.random.Generator) -> np.ndarray:
    return make_pose(rng.uniform(-0.1, 0.1, 3), Rotation.random(rng=rng))
