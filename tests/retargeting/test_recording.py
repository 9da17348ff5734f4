"""Recording a person's hand: from a real publisher to a clip that the trainer reads, and what can go wrong."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dexhil.retargeting import synthetic
from dexhil.retargeting.recording import GESTURES, Recording, gestures_of
from dexhil.robots.geometry import FINGERS
from experiments import retarget
from experiments.retarget import record
from hardware.drivers.geort_glove import stream

zmq = pytest.importorskip("zmq")


@pytest.fixture
def clip() -> np.ndarray:
    points = synthetic.free_motion(np.random.default_rng(0), synthetic.Person(), 20.0, 50.0)
    # A real glove's noise: where the synthetic hand rests, frames would be equal and be left out as frozen.
    return points + np.random.default_rng(1).normal(0.0, 1e-5, points.shape)


def timed(clip: np.ndarray, rate_hz: float = 50.0) -> Iterator[tuple[float, np.ndarray]]:
    return zip(np.arange(len(clip)) / rate_hz, clip, strict=True)


@pytest.fixture
def publisher(clip: np.ndarray) -> Iterator[str]:
    """Address of a publisher that sends `clip` over and over."""
    socket, done = zmq.Context.instance().socket(zmq.PUB), threading.Event()
    port = socket.bind_to_random_port("tcp://127.0.0.1")

    def send() -> None:
        for points in itertools.cycle(clip):
            if done.wait(0.002):
                break
            socket.send(points.astype(np.float32).tobytes())

    thread = threading.Thread(target=send)
    thread.start()
    yield f"tcp://127.0.0.1:{port}"
    done.set()
    thread.join()
    socket.close(0)


def test_the_command_records_what_a_publisher_sends(publisher: str, clip: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "glove.npy"
    retarget.main(
        ["--config=experiments/configs/retarget.py", f"--record={path}", f"--stream={publisher}", "--seconds=1.5"]
    )
    recorded = np.load(path)
    begin = int(np.argmin(np.abs(clip - recorded[0]).max(axis=(1, 2))))
    expected = np.take(clip, range(begin, begin + len(recorded)), axis=0, mode="wrap").astype(np.float32)
    np.testing.assert_array_equal(recorded, expected)
    assert retarget.load_clip(path).shape == recorded.shape


@pytest.mark.parametrize(
    ("angles", "gesture"), [(synthetic.OPEN, "open"), (synthetic.FIST, "fist"), (synthetic.pinch("ring"), "pinch ring")]
)
def test_gestures_are_known(angles: np.ndarray, gesture: str) -> None:
    assert gesture in gestures_of(synthetic.keypoints_of(angles))


def test_the_person_is_told_what_is_missing_until_all_was_seen() -> None:
    recording, told = Recording(), []
    poses = [synthetic.OPEN, synthetic.FIST, *(synthetic.pinch(finger) for finger in FINGERS[1:])]
    for frame, angles in enumerate(np.repeat(poses, 55, axis=0)):
        if not told or told[-1] != recording.guidance:
            told.append(recording.guidance)
        recording.add(frame / 50.0, synthetic.keypoints_of(angles) + 1e-6 * frame)
    assert told[:-1] == list(GESTURES.values())
    assert told[-1].startswith("move freely")


def test_broken_frozen_and_lost_frames_are_counted_and_left_out(clip: np.ndarray, tmp_path: Path) -> None:
    clip[10:15] = np.nan
    clip[30:34] = clip[29]
    recording = record(timed(clip), tmp_path / "glove.npy", 100.0)
    summary = recording.summary()
    assert (summary["broken"], summary["frozen"]) == (5, 4)
    assert summary["rate_hz"] == pytest.approx(50.0)
    assert summary["lost"] == 9
    assert len(np.load(tmp_path / "glove.npy")) == summary["frames"] == len(clip) - 9


def test_millimetres_are_refused_before_the_person_spends_minutes(clip: np.ndarray, tmp_path: Path) -> None:
    seen = []

    def source() -> Iterator[tuple[float, np.ndarray]]:
        for frame in timed(1000 * clip):
            seen.append(frame)
            yield frame

    with pytest.raises(ValueError, match="divide by 1000: they look like mm"):
        record(source(), tmp_path / "glove.npy", 100.0)
    assert len(seen) == 100


def test_a_glove_that_falls_silent_leaves_what_it_sent(clip: np.ndarray, tmp_path: Path) -> None:
    def source() -> Iterator[tuple[float, np.ndarray]]:
        yield from timed(clip[:300])
        raise ValueError("no key points within 5 s")

    assert len(record(source(), tmp_path / "glove.npy", 100.0).frames) == 300
    assert len(np.load(tmp_path / "glove.npy")) == 300


def test_a_silent_or_foreign_stream_is_named(publisher: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no key points within 0\.1 s; start the glove's publisher"):
        next(stream("tcp://127.0.0.1:1", silent_s=0.1))
    foreign = zmq.Context.instance().socket(zmq.PUB)
    port = foreign.bind_to_random_port("tcp://127.0.0.1")
    frames = stream(f"tcp://127.0.0.1:{port}")
    sender = threading.Thread(target=lambda: [(time.sleep(0.01), foreign.send(b"hello")) for _ in range(100)])
    sender.start()
    with pytest.raises(ValueError, match=r"expected messages of float32 \[21, 3\], 252 bytes; got 5 bytes"):
        next(frames)
    sender.join()
    foreign.close(0)


def test_nothing_usable_writes_no_file(clip: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no usable frame came \(1000 not finite, 0 frozen\)"):
        record(timed(np.full_like(clip, np.nan)), tmp_path / "glove.npy", 100.0)
    assert not (tmp_path / "glove.npy").exists()
    with pytest.raises(ValueError, match=r"expected frames of \[21, 3\], got \[20, 3\]"):
        Recording().add(0.0, clip[0, :20])


@pytest.mark.parametrize(
    "address", ["localhost:8765", "tcp://localhost", "tcp://localhost:99999", "udp://h:1", "", "tcp://:1"]
)
def test_an_address_that_is_none_is_refused_at_once(address: str) -> None:
    with pytest.raises(ValueError, match=f"address '{address}': expected one such as tcp://localhost:8765"):
        next(stream(address))
