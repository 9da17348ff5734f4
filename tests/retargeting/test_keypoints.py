"""Key points in another order, of a left hand or in another unit, told from a hand's; real hands and gloves pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dexhil.retargeting.keypoints import MANO, check_keypoints, fault_of
from dexhil.retargeting.synthetic import draw_person, free_motion

THUMB, INDEX, MIDDLE, RING, LITTLE = (list(range(4 * k + 1, 4 * k + 5)) for k in range(5))
CHAINS = (THUMB, INDEX, MIDDLE, RING, LITTLE)
TIPS = [chain[3] for chain in CHAINS]
ORDERS = {
    "MANO": [0, *INDEX[:3], *MIDDLE[:3], *LITTLE[:3], *RING[:3], *THUMB[:3], *TIPS],
    "MANO, tips as its joints": [
        0,
        *(p for chain in (INDEX, MIDDLE, LITTLE, RING, THUMB) for p in chain[:3]),
        *(c[3] for c in (INDEX, MIDDLE, LITTLE, RING, THUMB)),
    ],
    "thumb last": [0, *INDEX, *MIDDLE, *RING, *LITTLE, *THUMB],
    "by name": [0, *INDEX, *MIDDLE, *LITTLE, *RING, *THUMB],
    "ring and little": [0, *THUMB, *INDEX, *MIDDLE, *LITTLE, *RING],
    "index and middle": [0, *THUMB, *MIDDLE, *INDEX, *RING, *LITTLE],
    "little to index": [0, *THUMB, *LITTLE, *RING, *MIDDLE, *INDEX],
    "little to thumb": [0, *LITTLE, *RING, *MIDDLE, *INDEX, *THUMB],
    "tip to root": [0, *(p for chain in CHAINS for p in chain[::-1])],
    "joint by joint": [0, *(chain[joint] for joint in range(4) for chain in CHAINS)],
    "wrist last": [*range(1, 21), 0],
    "backwards": list(range(20, -1, -1)),
}


def people() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [free_motion(rng, draw_person(rng, stray), 20.0, 20.0) for stray in (0.0, 0.0, 1.0, 1.0)]


@pytest.mark.parametrize("order", ORDERS)
def test_points_in_another_order_are_refused(order: str) -> None:
    for clip in people():
        mixed = clip[:, ORDERS[order]]
        with pytest.raises(
            ValueError, match=r"the bones are not a hand's; expected the wrist, then thumb|expected metres"
        ):
            check_keypoints(mixed)
        assert np.mean([fault_of(points) == "" for points in mixed]) < (0.3 if order == "wrist last" else 0.04)


def test_manos_order_is_named_with_the_way_back() -> None:
    clip = people()[0]
    mano = clip[:, ORDERS["MANO"]]
    np.testing.assert_array_equal(mano[:, MANO], clip)
    with pytest.raises(ValueError, match=r"this looks like MANO's order: take points\[:, \[0, 13, 14, 15, 16, 1, "):
        check_keypoints(mano)


def test_tips_that_change_places_stretch_the_bones_of_a_recording() -> None:
    clip = people()[0]
    clip[:, [INDEX[3], THUMB[3]]] = clip[:, [THUMB[3], INDEX[3]]]
    with pytest.raises(ValueError, match="the bones are not a hand's"):
        check_keypoints(clip)


def test_hands_of_any_proportion_pass_frame_by_frame(shared_data: Path) -> None:
    recorded = [
        np.load(shared_data / "hands" / f"{n}_right_21kp.npy")[::10] for n in ("geort_alex", "manus_000", "mediapipe")
    ]
    rng = np.random.default_rng(1)
    noisy = [clip + rng.normal(0.0, 0.002, clip.shape) for clip in people()]
    for clip in (*recorded, *people(), *noisy):
        check_keypoints(clip.astype(np.float64))
        faults = [fault_of(points) for points in clip.astype(np.float64)]
        assert not [fault for fault in faults if "bones" in fault]
