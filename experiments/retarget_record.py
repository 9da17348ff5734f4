"""Records a person's hand for the trainer from a stream of key points, with guidance."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from dexhil.commands import stop_requested
from dexhil.progress import format_seconds
from dexhil.retargeting.keypoints import NUM_POINTS, check_keypoints
from dexhil.retargeting.recording import Recording

SILENT_S = 5.0  # without a frame for so long, the glove is not there
CHECK_AFTER = 100  # frames, before a person spends minutes on a recording in the wrong unit


def stream(address: str, *, silent_s: float = SILENT_S) -> Iterator[tuple[float, np.ndarray]]:
    """(time of arrival s, key points [21, 3] m) from a ZMQ publisher of float32 [21, 3], as GeoRT's glove servers are.

    address: such as tcp://localhost:8765. Raises ValueError when nothing comes for `silent_s`, and on another size.
    """
    import zmq

    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVTIMEO, round(1e3 * silent_s))
        socket.subscribe(b"")
        socket.connect(address)
        while True:
            try:
                message = socket.recv()
            except zmq.Again:
                raise ValueError(
                    f"{address}: no key points within {silent_s:g} s; start the glove's publisher, or name its "
                    "address with --stream"
                ) from None
            if len(message) != 4 * NUM_POINTS * 3:
                raise ValueError(
                    f"{address}: expected messages of float32 [{NUM_POINTS}, 3], {4 * NUM_POINTS * 3} bytes; "
                    f"got {len(message)} bytes"
                )
            yield time.monotonic(), np.frombuffer(message, np.float32).reshape(NUM_POINTS, 3).astype(np.float64)


def record(frames: Iterable[tuple[float, np.ndarray]], path: Path, seconds: float) -> Recording:
    """Records (time s, key points [21, 3] m) for `seconds` or until Ctrl-C, says what to show next, writes `path`.

    A source that ends or fails ends the recording: what came is kept. Raises ValueError where nothing usable came or
    it is no right hand in metres.
    """
    recording, told, began = Recording(), "", None
    with stop_requested("saving the recording") as stop:
        try:
            for time_s, points in frames:
                began = time_s if began is None else began
                recording.add(time_s, points)
                if len(recording.frames) == CHECK_AFTER:
                    check_keypoints(np.stack(recording.frames).astype(np.float64))
                if recording.guidance != told:
                    told = recording.guidance
                    print(f"{format_seconds(time_s - began):>6}  {told}", flush=True)
                if stop() or time_s - began >= seconds:
                    break
        except ValueError as error:
            if len(recording.frames) <= CHECK_AFTER:
                raise
            print(f"the recording ends early: {error}", flush=True)
    recording.save(path)
    print(", ".join(f"{name} {value:.4g}" for name, value in recording.summary().items()))
    if recording.missing:
        print(f"hardly seen: {', '.join(recording.missing)}; the retargeter will guess there, record them too")
    return recording
