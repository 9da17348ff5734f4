"""Manus gloves through the common bridge of their C++ SDK: ZMQ PUSH of comma-separated text.

Two kinds of message: `serial` + 25 nodes x (x y z m, quaternion x-y-z-w) for each glove, or 40 ergonomics angles in
degrees, 20 of the left hand, then 20 of the right. Prefer the nodes: the angles carry no lengths and no thumb geometry,
key points from them are those of an average hand.
"""

import numpy as np

from dexhil.names import check_known
from dexhil.retargeting.keypoints import NUM_POINTS, OF_FINGER
from dexhil.retargeting.synthetic import OPEN, keypoints_of
from dexhil.robots.geometry import FINGERS
from hardware.devices.gloves import ZmqGlove

NUM_NODES, PER_NODE = 25, 7
PER_GLOVE = 1 + NUM_NODES * PER_NODE
PER_HAND = 20  # ergonomics: (spread, MCP, PIP, DIP) of thumb to little
SIDES = ("left", "right")
# Root first, then each finger's chain to the tip. The SDK on Windows goes from thumb to little; the integrated one on
# Linux by name: index, middle, little ("pinky"), ring, thumb.
NODE_ORDERS = {
    "windows": ("thumb", "index", "middle", "ring", "little"),
    "linux": ("index", "middle", "little", "ring", "thumb"),
}
OTHER_ORDER_SHARE = 0.8  # bones of the other order that much shorter in sum: it is the right one


def kept_nodes(order: str) -> np.ndarray:
    """Of 25 nodes the 21 that are key points, in their order: the metacarpals' roots of four fingers are dropped."""
    kept, node = np.zeros(NUM_POINTS, int), 1
    for finger in NODE_ORDERS[order]:
        node += finger != "thumb"
        kept[OF_FINGER[finger]] = np.arange(node, node + 4)
        node += 4
    return kept


def keypoints_of_nodes(nodes: np.ndarray, order: str) -> np.ndarray:
    """Key points [21, 3] m of node positions [25, 3] m. Raises ValueError where they are in the other order."""
    lengths = {name: _bones(nodes[kept_nodes(name)]) for name in NODE_ORDERS}
    nearest = min(lengths, key=lambda name: lengths[name])
    if nearest != order and lengths[nearest] < OTHER_ORDER_SHARE * lengths[order]:
        raise ValueError(f"the nodes are not in the order {order!r}; set node_order to {nearest!r}")
    return nodes[kept_nodes(order)]


def _bones(points: np.ndarray) -> float:
    return float(sum(np.linalg.norm(np.diff(points[part], axis=0), axis=-1).sum() for part in OF_FINGER.values()))


def keypoints_of_ergonomics(degrees: np.ndarray) -> np.ndarray:
    """Key points [21, 3] m of an average hand with angles [20] degrees.

    Spread of the fingers counts away from the middle finger, of the thumb away from the palm's plane; the thumb's
    first bending joint swings its metacarpal inwards.
    """
    angles = np.radians(degrees).reshape(len(FINGERS), 4)
    sides = np.array([0.0, 1.0, 1.0, -1.0, -1.0])  # index and middle spread to the thumb's side, ring and little away
    turned = angles.copy()
    turned[:, 0] *= sides
    turned[0] = [OPEN[0, 0] + angles[0, 0], OPEN[0, 1] - 0.5 * angles[0, 1], angles[0, 2], angles[0, 3]]
    return keypoints_of(turned)


class ManusGlove(ZmqGlove):
    """Key points [21, 3] m of one hand, as a right one: those of a left hand are mirrored.

    Args:
        side: of the person's hand.
        serial: of the glove, needed where two send.
        node_order: of the bridge, see NODE_ORDERS.
        mirrored: whether the stream's coordinates are left-handed.
    """

    def __init__(
        self, address: str = "tcp://localhost:8000", *, side: str = "right", serial: str | None = None,
        node_order: str = "linux", mirrored: bool = False, name: str = "glove", period_s: float = 1 / 90,
        silent_s: float = 0.2, connect_s: float = 3.0,
    ) -> None:  # fmt: skip
        check_known("side", side, SIDES)
        check_known("node_order", node_order, NODE_ORDERS)
        super().__init__(address, "PULL", name=name, period_s=period_s, silent_s=silent_s, connect_s=connect_s)
        self._side, self._serial, self._order = side, serial, node_order
        self._mirror = np.array([1.0, -1.0 if mirrored != (side == "left") else 1.0, 1.0])

    def decode(self, message: bytes) -> np.ndarray | None:
        fields = message.decode("ascii", "replace").strip().strip(",").split(",")
        if len(fields) == 2 * PER_HAND:
            values = _numbers(fields)[PER_HAND * SIDES.index(self._side) :][:PER_HAND]
            return keypoints_of_ergonomics(values)  # of a right hand already
        if len(fields) not in (PER_GLOVE, 2 * PER_GLOVE):
            raise ValueError(
                f"expected {2 * PER_HAND} ergonomics angles or {PER_GLOVE} values per glove; got {len(fields)} values"
            )
        gloves = {fields[at]: fields[at + 1 : at + PER_GLOVE] for at in range(0, len(fields), PER_GLOVE)}
        chosen = self._choose(gloves)
        if chosen is None:
            return None
        nodes = _numbers(chosen).reshape(NUM_NODES, PER_NODE)[:, :3]
        return keypoints_of_nodes(nodes, self._order) * self._mirror

    def _choose(self, gloves: dict[str, list[str]]) -> list[str] | None:
        if self._serial is not None:
            return gloves.get(self._serial)
        if len(gloves) > 1:
            raise ValueError(f"two gloves send, {' and '.join(gloves)}; name the one to use with serial")
        return next(iter(gloves.values()))


def _numbers(fields: list[str]) -> np.ndarray:
    try:
        return np.array(fields, np.float64)
    except ValueError as error:
        raise ValueError(f"a field is no number: {error}") from None
