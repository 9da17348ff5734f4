"""Both kinds of glove streams from a publisher: what arrives, what is refused, silence, freezing and coming back."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dexhil.retargeting import synthetic
from dexhil.retargeting.keypoints import TIPS, bending, check_keypoints, fault_of, to_canonical
from hardware.devices.base import DeviceError
from hardware.devices.gloves import ZmqGlove
from hardware.drivers.geort_glove import GeortGlove
from hardware.drivers.manus import ManusGlove, keypoints_of_ergonomics, keypoints_of_nodes
from tests.hardware.emulators.manus import SERIAL, ergonomics_text, nodes_text
from tests.hardware.support import emulator, in_background, wait_for

zmq = pytest.importorskip("zmq")

OPEN = synthetic.keypoints_of(synthetic.OPEN)
FIST = synthetic.keypoints_of(synthetic.FIST)


class Publisher:
    """Sends what `message` gives, over and over; None: nothing. Every frame is a little different, as sensors are."""

    def __init__(self, kind: str) -> None:
        self.socket = zmq.Context.instance().socket(getattr(zmq, kind))
        self.address = f"tcp://127.0.0.1:{self.socket.bind_to_random_port('tcp://127.0.0.1')}"
        self.message: Callable[[float], bytes] | None = None

    def run(self, stopped: Callable[[], bool]) -> None:
        count = 0
        while not stopped():
            count += 1
            if self.message is not None:
                with contextlib.suppress(zmq.Again):
                    self.socket.send(self.message(1e-6 * (count % 100)), zmq.NOBLOCK)
            self.socket.poll(3, zmq.POLLERR)
        self.socket.close(0)


@pytest.fixture
def publish() -> Iterator[Callable[[str], Publisher]]:
    opened = []

    def publish(kind: str) -> Publisher:
        publisher = Publisher(kind)
        running = in_background(publisher.run)
        running.__enter__()
        opened.append(running)
        return publisher

    yield publish
    for running in opened:
        running.__exit__(None, None, None)


@pytest.fixture
def connected() -> Iterator[Callable[[ZmqGlove], ZmqGlove]]:
    opened: list[ZmqGlove] = []

    def connect(glove: ZmqGlove) -> ZmqGlove:
        opened.append(glove)
        glove.connect()
        return glove

    yield connect
    for glove in opened:
        glove.stop()


def value_of(glove: ZmqGlove) -> np.ndarray:
    reading = glove.read()
    assert reading is not None
    return reading.value


def is_valid(glove: ZmqGlove) -> bool:
    reading = glove.read()
    return reading is not None and reading.valid


@pytest.fixture
def geort(publish: Callable[[str], Publisher], connected: Callable[[ZmqGlove], ZmqGlove]) -> tuple[ZmqGlove, Publisher]:
    publisher = publish("PUB")
    publisher.message = lambda noise: (OPEN + noise).astype(np.float32).tobytes()
    return connected(GeortGlove(publisher.address)), publisher


def test_key_points_arrive_as_sent_and_the_newest_wins(geort: tuple[ZmqGlove, Publisher]) -> None:
    glove, publisher = geort
    np.testing.assert_allclose(value_of(glove), OPEN, atol=2e-4)
    publisher.message = lambda noise: (FIST + noise).astype(np.float32).tobytes()
    wait_for(lambda: np.abs(value_of(glove) - FIST).max() < 2e-4)
    assert glove.health().ok
    assert is_valid(glove)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (lambda noise: b"half a frame", "expected messages of float32 .*252 bytes; got 12 bytes"),
        (lambda noise: np.full((21, 3), np.nan, np.float32).tobytes(), "21 key points not finite"),
        (lambda noise: (1e3 * OPEN + noise).astype(np.float32).tobytes(), "m from wrist to middle knuckle"),
        (lambda noise: ((FIST + noise) * [-1, 1, 1]).astype(np.float32).tobytes(), "a left hand"),
        (lambda noise: OPEN.astype(np.float32).tobytes(), "frozen: the same frame 45 times"),
        (None, "silent for .* start the glove's publisher at tcp://"),
    ],
    ids=["half", "nan", "millimetres", "left", "frozen", "silent"],
)
def test_a_bad_stream_is_not_valid_keeps_the_last_hand_and_recovers(
    geort: tuple[ZmqGlove, Publisher], message: Any, said: str
) -> None:
    glove, publisher = geort
    good, publisher.message = publisher.message, message
    wait_for(lambda: re.search(said, glove.health().message))
    assert not is_valid(glove)
    assert np.abs(value_of(glove) - OPEN).max() < 2e-4
    publisher.message = good
    wait_for(lambda: is_valid(glove) and glove.health().ok)


def test_no_publisher_says_where_it_was_expected() -> None:
    glove = GeortGlove("tcp://127.0.0.1:9", connect_s=0.1)
    with pytest.raises(DeviceError, match=r"glove: no reading within 0\.1 s; start .* at tcp://127\.0\.0\.1:9"):
        glove.connect()


@pytest.mark.parametrize("order", ["windows", "linux"])
def test_nodes_of_either_order_become_the_key_points(
    order: str, publish: Callable[[str], Publisher], connected: Callable[[ZmqGlove], ZmqGlove]
) -> None:
    publisher = publish("PUSH")
    publisher.message = lambda noise: nodes_text(FIST + noise, f"manus-{order}")
    glove = connected(ManusGlove(publisher.address, node_order=order))
    np.testing.assert_allclose(value_of(glove), FIST, atol=2e-4)
    assert is_valid(glove)


def test_the_wrong_node_order_is_said() -> None:
    for said, set_to in (("windows", "linux"), ("linux", "windows")):
        glove = ManusGlove(node_order=set_to)
        with pytest.raises(ValueError, match=f"not in the order '{set_to}'; set node_order to '{said}'"):
            glove.decode(nodes_text(OPEN, f"manus-{said}"))


def test_of_two_gloves_the_named_one_is_read() -> None:
    both = nodes_text(OPEN, "manus-linux", "aaaa") + b"," + nodes_text(FIST, "manus-linux", "bbbb")
    with pytest.raises(ValueError, match="two gloves send, aaaa and bbbb; name the one"):
        ManusGlove().decode(both)
    chosen = ManusGlove(serial="bbbb").decode(both)
    assert chosen is not None
    np.testing.assert_allclose(chosen, FIST, atol=1e-6)
    assert ManusGlove(serial="cccc").decode(nodes_text(OPEN, "manus-linux", SERIAL)) is None


@pytest.mark.parametrize(
    ("message", "said"),
    [(b"1,2,3", "got 3 values"), (b",".join([b"x"] * 40), "a field is no number"), (b"\xff\x00", "got 1 values")],
)
def test_broken_text_is_refused(message: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ManusGlove().decode(message)


def test_a_left_hand_is_mirrored_into_a_right_one() -> None:
    left = nodes_text(FIST * [1, -1, 1], "manus-linux")
    points = ManusGlove(side="left").decode(left)
    assert points is not None
    np.testing.assert_allclose(points, FIST, atol=1e-6)
    assert fault_of(points) == ""


def test_ergonomics_bend_the_fingers_that_they_name() -> None:
    degrees = np.zeros(20)
    degrees[4:8] = [0, 80, 90, 60]
    points = keypoints_of_ergonomics(degrees)
    assert bending(points, "index") > bending(points, "middle") + np.radians(200)
    assert bending(points, "ring") == pytest.approx(bending(points, "middle"), abs=0.3)
    fingers_out = np.tile([15.0, 0, 0, 0], 5)
    fingers_out[[0, 8]] = 0.0
    gaps, closed = (
        np.linalg.norm(np.diff(to_canonical(keypoints_of_ergonomics(shown))[TIPS[1:4]], axis=0), axis=-1)
        for shown in (fingers_out, np.zeros(20))
    )
    assert (gaps > closed + 0.01).all(), "index and ring spread away from the middle finger"
    right = ManusGlove(side="right").decode(ergonomics_text(degrees))
    assert right is not None
    np.testing.assert_allclose(right, points, atol=1e-5)
    assert fault_of(points) == ""


def test_a_real_recording_of_25_nodes_is_a_right_hand(shared_data: Path) -> None:
    clip = np.load(shared_data / "hands" / "manus_000_right_25x7.npz")["data"][::100, :, :3].astype(np.float64)
    facts = json.loads((shared_data / "hands" / "manus_000_right_25x7.json").read_text())
    assert facts["chirality"] == "RIGHT"
    points = np.stack([keypoints_of_nodes(nodes, "windows") for nodes in clip])
    check_keypoints(points)
    with pytest.raises(ValueError, match="set node_order to 'windows'"):
        keypoints_of_nodes(clip[0], "linux")


def test_a_glove_process_that_freezes_and_thaws() -> None:
    address = "tcp://127.0.0.1:48765"
    with emulator("hardware.emulators.glove", "--address", address) as fake:
        glove = GeortGlove(address, connect_s=10.0)
        glove.connect()
        fake.freeze()
        wait_for(lambda: not is_valid(glove))
        assert "glove: silent for" in glove.health().message
        fake.thaw()
        wait_for(lambda: is_valid(glove))
        glove.stop()
