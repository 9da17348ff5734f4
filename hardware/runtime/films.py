"""Films of episodes: of the simulator's scene, or of a robot's own camera frames, with who was in control."""

from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from dexhil.reports.video import control_overlay, write_picture, write_video
from hardware.runtime.rig import Rig
from hardware.simulated.world import FILM_SIZE

HZ = 5.0
FAILURES = 3  # films of failures per film that is kept anyhow


class Films:
    """The films under `folder`. per_task: the first so many episodes of a task are kept, and some of the failures."""

    def __init__(self, rig: Rig, folder: Path, per_task: int) -> None:
        self._rig, self._folder, self._per_task = rig, folder, per_task
        self._kept: Counter[tuple[str, bool]] = Counter()
        self._frames: list[np.ndarray] = []

    def begin(self) -> None:
        self._frames = []

    def watch(self, seconds: float, who: str) -> None:
        """Takes a frame where one is due, `seconds` after the episode began."""
        if self._per_task and seconds >= len(self._frames) / HZ:
            frame = self._picture()
            if frame is not None:
                self._frames.append(control_overlay(frame, who))

    def keep(self, task: str, episode_id: str, failed: bool) -> None:
        """Writes the film that was just taken, where it is one to keep."""
        first = self._kept[task, False] < self._per_task
        if not self._frames or not (first or (failed and self._kept[task, True] < FAILURES * self._per_task)):
            return
        self._kept[task, not first] += 1
        path = film_path(self._folder, episode_id)
        path.parent.mkdir(exist_ok=True)
        write_video(path, self._frames, round(HZ))
        write_picture(path.with_suffix(".jpg"), self._frames[-1])

    def _picture(self) -> np.ndarray | None:
        if self._rig.world is not None:
            return self._rig.world.film()
        readings = [camera.read() for camera in self._rig.devices["cameras"].values()]
        images = [Image.fromarray(reading.value) for reading in readings if reading is not None]
        if len(images) < len(readings):
            return None
        film, width = Image.new("RGB", FILM_SIZE), FILM_SIZE[0] // max(len(images), 1)
        for index, image in enumerate(images):
            image.thumbnail((width, FILM_SIZE[1]))
            film.paste(image, (index * width, (FILM_SIZE[1] - image.height) // 2))
        return np.asarray(film)


def film_path(folder: Path, episode_id: str) -> Path:
    """Of a film, which is there where it was kept; its last frame is beside it as .jpg."""
    return folder / f"{episode_id}.mp4"
