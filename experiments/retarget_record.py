"""Records a person's hand for the trainer from a stream of key points, with guidance."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from dexhil.commands import stop_requested
from dexhil.progress import format_seconds
from dexhil.retargeting.keypoints import check_keypoints
from dexhil.retargeting.recording import Recording

CHECK_AFTER = 100  # frames, before a person spends minutes on a recording in the wrong unit


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
