"""Starts every emulator of hardware/configs/emulators.py: cameras' recordings, robot, hand and glove."""

import argparse
import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from hardware.configs.emulators import FOLDER, get_config
from hardware.emulators.realsense import record

EMULATORS = ("hardware.emulators.fr3", "hardware.emulators.dexhand021", "hardware.emulators.glove")


def write_recordings(folder: Path) -> None:
    """A few seconds of a bright square that wanders over noise, for each camera."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    pictures = []
    for number in range(60):
        picture = rng.integers(60, 100, (240, 320, 3), np.uint8)
        picture[100:140, 4 * number : 4 * number + 40] = 230
        pictures.append(picture)
    for camera in get_config().rig.cameras:
        record(folder / f"{camera}.db3", pictures)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    if not Path(FOLDER, "scene.db3").is_file():
        write_recordings(Path(FOLDER))
    processes = []
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # ends them as Ctrl-C does
    try:
        for module in EMULATORS:
            process = subprocess.Popen([sys.executable, "-m", module], stdout=subprocess.PIPE, text=True)
            processes.append(process)
            assert process.stdout is not None
            print(f"{module}: {process.stdout.readline().strip()}", flush=True)
        print("now: python hardware/eval.py --config hardware/configs/emulators.py --checkpoint RUN", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            processes[0].wait()
    finally:
        for process in processes:
            process.kill()


if __name__ == "__main__":
    main()
