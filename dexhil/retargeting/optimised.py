"""Retargeting by optimisation of every frame, through dex-retargeting (pip install dex-retargeting six torch)."""

import dataclasses
import logging
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np

from dexhil.names import check_known
from dexhil.retargeting.hand import Hand, canonical_frame
from dexhil.retargeting.keypoints import NUM_POINTS, TIPS, to_canonical
from dexhil.retargeting.urdf import HandCard, load_urdf
from dexhil.robots.geometry import FINGERS

KINDS = ("vector", "dexpilot")
_REMEDY = "install it with `pip install dex-retargeting six torch` (any CPU build of torch will do)"


class OptimisedRetargeter:
    """Key points [21, 3] m of one person, in any frame, to hand joints [m] rad; each frame starts from the last result.

    kind: "vector" (wrist to tips) or "dexpilot" (tips to each other too, drawn together where they are near). scale: of
    the robot's hand to the person's. low_pass: 1 for none; the library's default is 0.2.
    """

    def __init__(self, urdf: str | Path, card: HandCard, kind: str, *, scale: float, low_pass: float = 1.0) -> None:
        """Raises ValueError on an unknown kind, ImportError with the remedy where dex-retargeting is not installed."""
        check_known("kind", kind, KINDS)
        try:
            from dex_retargeting.retargeting_config import RetargetingConfig  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(f"retargeting by optimisation needs dex-retargeting ({error}); {_REMEDY}") from None
        card = dataclasses.replace(card, motors={})  # here they are called as in the file
        self.hand = load_urdf(urdf, card)
        root = ElementTree.parse(urdf).getroot()
        children = {child.attrib["link"] for child in root.iter("child")}
        base = next(link.attrib["name"] for link in root.iter("link") if link.attrib["name"] not in children)
        wrist, tips = card.wrist if isinstance(card.wrist, str) else base, list(card.tips.values())
        human_tips = [int(TIPS[FINGERS.index(finger)]) for finger in card.tips]
        if kind == "vector":
            links = {
                "target_origin_link_names": [wrist] * len(tips),
                "target_task_link_names": tips,
                "target_link_human_indices": np.array([[0] * len(tips), human_tips]),
            }
        else:
            links = {"wrist_link_name": wrist, "finger_tip_link_names": tips}
        logging.getLogger("dex_retargeting.yourdfpy").setLevel(logging.ERROR)  # it misses meshes that nobody draws
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder).resolve() / "hand.urdf"
            with_coupling(root, card, self.hand)
            ElementTree.ElementTree(root).write(path)
            self._solver = RetargetingConfig(
                type=kind,
                urdf_path=str(path),
                target_joint_names=list(self.hand.motor_names),
                scaling_factor=scale,
                low_pass_alpha=low_pass,
                **links,
            ).build()
        names = list(self._solver.joint_names)
        self._columns = [names.index(name) for name in self.hand.motor_names]
        self._axes = canonical_frame(self.hand)[1]
        self._origin = -self.hand.wrist / scale if wrist == base else np.zeros(3)  # of its vectors, seen from the wrist

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Hand joints [m] rad. Raises ValueError on a wrong shape or non-finite key points."""
        points = np.asarray(points, np.float64)
        if points.shape != (NUM_POINTS, 3) or not np.isfinite(points).all():
            raise ValueError(f"key points: expected finite [{NUM_POINTS}, 3], got {list(points.shape)}")
        in_base = to_canonical(points) @ self._axes.T
        in_base[0] = self._origin
        origins, tasks = self._solver.optimizer.target_link_human_indices
        return self._solver.retarget(in_base[tasks] - in_base[origins])[self._columns]

    def clip(self, clip: np.ndarray) -> np.ndarray:
        """[T, m] rad of key points [T, 21, 3]; starts afresh."""
        self._solver.reset()
        return np.stack([self(points) for points in clip])


def with_coupling(root: ElementTree.Element, card: HandCard, hand: Hand) -> None:
    """Writes what the card says of joints into the file's tree: `<mimic>` elements, fixed joints, motors' limits."""
    limits = dict(zip(hand.motor_names, zip(hand.lower, hand.upper, strict=True), strict=True))
    for joint in root.iter("joint"):
        name, limit = joint.attrib["name"], joint.find("limit")
        motor = card.motors.get(name, name)
        if motor in limits and limit is not None:
            lower, upper = limits[motor]
            limit.attrib.update(lower=f"{lower:.9g}", upper=f"{upper:.9g}")
        if name in card.locked:
            joint.set("type", "fixed")
        if name in card.coupled:
            first, ratio = card.coupled[name]
            for old in joint.findall("mimic"):
                joint.remove(old)
            ElementTree.SubElement(joint, "mimic", joint=first, multiplier=f"{ratio:g}", offset="0")
