"""A person's hands at the devices: intent in, cube pose and glove key points out, as the real teleoperation gets them.

The person watches the robot's hand and adapts the own one until it looks as wanted, tick by tick, as fast as fingers
go. The glove's frame and the cube's are any: only how they move may count.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from dexhil.poses import compose, inverse, make_pose
from dexhil.retargeting.hand import hand_length
from dexhil.retargeting.keypoints import hand_size
from dexhil.retargeting.runtime import Model, Retargeter
from dexhil.retargeting.synthetic import LOWER, OPEN, UPPER, Person, draw_person, keypoints_of
from dexhil.sim.operator import Intent, grasp_to_hand
from dexhil.takeover import HumanCommand

FINGER_SPEED = 6.0  # rad/s, the fastest that a joint of a person's hand turns
_PROBE, _DAMPING, _EASE = 1e-3, 0.02, 0.02


class CubeInHand:
    """The cube that moves the arm. cube_to_ee: [7], the constant `C` of DexHiL eq. 3."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.cube_to_ee, self._camera = _any_pose(rng), _any_pose(rng)

    def pose(self, pose_base_ee: np.ndarray) -> np.ndarray:
        """[7], the cube in its camera's frame where a person wants the end effector at `pose_base_ee` [7]."""
        return compose(self._camera, compose(pose_base_ee, inverse(self.cube_to_ee)))


class HandInGlove:
    """A person's hand: `show` moves it towards the grasp that the robot should take. angles: [5, 4] rad, as it is."""

    def __init__(self, model: Model, rng: np.random.Generator, control_hz: float) -> None:
        self.person: Person = draw_person(rng)
        self.angles = OPEN.copy()
        self._model, self._period = model, 1.0 / control_hz
        self._glove = Rotation.random(rng=rng).as_matrix()
        self._scale = hand_length(model.hand) / hand_size(keypoints_of(OPEN, self.person)[None])

    def show(self, q_hand: np.ndarray) -> np.ndarray:
        """Key points [21, 3] m in the glove's frame, one control period nearer to a robot hand at `q_hand` [m] rad."""
        probes = self.angles.ravel() + np.vstack([np.zeros(20), _PROBE * np.eye(20)])
        seen = self._model.motors(keypoints_of(probes.reshape(-1, 5, 4), self.person), self._scale)
        slope = (seen[1:] - seen[0]).T / _PROBE
        # Damped least squares; among the shapes that do, the nearest to a relaxed hand.
        rows = np.vstack([slope, np.sqrt(_DAMPING) * np.eye(20)])
        wanted = np.concatenate([q_hand - seen[0], np.sqrt(_DAMPING) * _EASE * (OPEN - self.angles).ravel()])
        step = np.linalg.lstsq(rows, wanted, rcond=None)[0].reshape(5, 4)
        most = FINGER_SPEED * self._period
        self.angles = np.clip(self.angles + np.clip(step, -most, most), LOWER, UPPER)
        return keypoints_of(self.angles, self.person) @ self._glove.T


class Devices:
    """Cube and glove of one person, through the retargeter, to what the takeover logic takes. retargeter None: the
    hand's joints come from the intent itself.
    """

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


def _any_pose(rng: np.random.Generator) -> np.ndarray:
    return make_pose(rng.uniform(-0.1, 0.1, 3), Rotation.random(rng=rng))
