"""A trained retargeter in use: key points of one frame to hand joints, and what is kept on disk.

A file holds the network, the hand that it was trained for and how: `save`, `load`. NumPy only, no JAX, so that a
control loop starts at once and a call takes a fraction of a millisecond.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from dexhil.frozen import FrozenSignal
from dexhil.retargeting import network
from dexhil.retargeting.hand import Hand, Point, hand_length
from dexhil.retargeting.keypoints import NUM_POINTS, TIPS, canonical_or_fault, check_keypoints, hand_size
from dexhil.robots.geometry import FINGERS
from dexhil.robots.spec import RobotSpec
from dexhil.schema import ARM_DOF

FORMAT = 1
FROZEN = 45  # frames, half a second of a glove at 90 Hz: a hand is never as still, sensors that run are noisy


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained network for `hand`; `config` says how it was trained, for people to read."""

    hand: Hand
    params: network.Params
    config: dict[str, Any]

    def motors(self, points: np.ndarray, scale: float) -> np.ndarray:
        """Motor angles [..., m] rad of key points [..., 21, 3] in the canonical frame, `scale` times as large."""
        columns = [FINGERS.index(finger) for finger in self.hand.fingers]
        tips = (scale * points[..., TIPS[columns], :]).astype(np.float32)  # as the weights: else each call widens these
        return np.asarray(network.forward(self.params, self.hand, tips, np))

    def check_fits(self, spec: RobotSpec) -> None:
        """Raises ValueError unless the motors are the hand joints of `spec`, by name and in their order."""
        ours, theirs = self.hand.motor_names, spec.joint_names[ARM_DOF:]
        if ours != theirs:
            raise ValueError(
                f"retargeter: made for {self.hand.name}, whose {len(ours)} motors are {', '.join(ours)}; {spec.name} "
                f"has {len(theirs)}: {', '.join(theirs)}; train one for it with experiments/retarget.py"
            )


class Retargeter:
    """Key points of one person to hand joints, frame by frame: call it with [21, 3] m in any frame of the glove.

    What comes out is the absolute mapping; `dexhil.control.takeover` anchors it to the last command. After a frame that
    is not finite, no hand in size, a left hand or the same for the FROZEN-th time the last joints, at first the middle
    of their ranges, are held.

    Args:
        model: of the hand.
        size_m: the person's hand, wrist to the middle finger's tip; None measures it on the first good frame.

    Attributes:
        valid: whether the last frame was used.
        reason: why it was not.
    """

    def __init__(self, model: Model, *, size_m: float | None = None) -> None:
        self.model = model
        self._size = size_m
        self._last = (model.hand.lower + model.hand.upper) / 2
        self._frozen = FrozenSignal(FROZEN, "frame")
        self.valid, self.reason = False, "no frame yet"

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Hand joints [m] rad. Raises ValueError on a wrong shape, and where the first frame is no right hand in m."""
        points = np.asarray(points, np.float64)
        if points.shape != (NUM_POINTS, 3):
            raise ValueError(f"key points: expected [{NUM_POINTS}, 3], got {list(points.shape)}")
        if self._size is None and np.isfinite(points).all():
            check_keypoints(points[None])
            self._size = hand_size(points[None])
        frozen, (canonical, fault) = self._frozen(points), canonical_or_fault(points)
        self.reason = fault or frozen
        self.valid = not self.reason
        if self.valid and self._size is not None:
            self._last = self.model.motors(canonical, hand_length(self.model.hand) / self._size)
        return self._last.copy()


def save(model: Model, path: str | Path) -> None:
    """Writes one .npz file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {f"params/{name}": value for name, value in _flat(model.params)}
    facts = {"format": FORMAT, "hand": dataclasses.asdict(model.hand), "config": model.config}
    np.savez(path, facts=json.dumps(facts, default=np.ndarray.tolist), **arrays)


def load(path: str | Path) -> Model:
    """The model in a file of `save`.

    Raises:
        ValueError: it is none, or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; train a retargeter with experiments/retarget.py")
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            facts = json.loads(str(file["facts"]))
            arrays = {name.removeprefix("params/"): file[name] for name in file.files if name != "facts"}
        found = facts["format"]
        if found == FORMAT:
            model = Model(_hand_from_dict(facts["hand"]), _nested(arrays), facts["config"])
            if not np.isfinite(model.motors(np.zeros((NUM_POINTS, 3)), 1.0)).all():
                raise ValueError("it gives joints that are not finite")
            return model
    except Exception as error:  # a damaged file may raise anything on its way through zip, JSON and the network
        raise ValueError(
            f"{path}: expected a retargeter's .npz file, this is none or damaged ({type(error).__name__}: {error}); "
            "copy it again or train one with experiments/retarget.py"
        ) from None
    raise ValueError(f"{path}: expected format {FORMAT}, got {found!r}; train it again")


def _flat(value: Any, prefix: str = "") -> list[tuple[str, np.ndarray]]:
    if not isinstance(value, dict | list):
        return [(prefix, np.asarray(value))]
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [leaf for key, part in items for leaf in _flat(part, f"{prefix}/{key}" if prefix else str(key))]


def _nested(arrays: dict[str, np.ndarray]) -> network.Params:
    """groups/0/1/w -> {"groups": [[…, {"w": …}]]}; empty lists were not written."""
    root: dict[str, Any] = {"groups": {}, "thumb": {}, "meet": {}}
    for name, value in arrays.items():
        *path, last = name.split("/")
        node = root
        for key in path:
            node = node.setdefault(key, {})
        node[last] = value

    def lists(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        parts = {key: lists(part) for key, part in node.items()}
        return parts if "w" in parts else [parts[str(index)] for index in range(len(parts))]

    return {name: lists(node) for name, node in root.items()}


def _hand_from_dict(values: dict[str, Any]) -> Hand:
    arrays = ("positions", "rotations", "axes", "lower", "upper", "coupling", "bias", "wrist")
    built: dict[str, Any] = {name: np.array(values[name], np.float64) for name in arrays}
    for name in ("tips", "roots"):
        built[name] = tuple(Point(point["joint"], np.array(point["offset"])) for point in values[name])
    for name in ("joint_names", "parents", "motor_names", "fingers"):
        built[name] = tuple(values[name])
    return Hand(name=values["name"], **built)
