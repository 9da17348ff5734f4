"""The rig of fr3_dexhand021.py on emulators that speak its devices' protocols: no robot, but every driver as it is.

python -m hardware.emulators.all
python hardware/eval.py --config hardware/configs/emulators.py --checkpoint … --config.teleop.retargeter=…
"""

from ml_collections import ConfigDict

from dexhil.config import Config
from hardware.configs import fr3_dexhand021

FOLDER = "runs/emulators"  # of the cameras' recordings, which hardware.emulators.all makes
PRESETS = ("default", "quick", "debug")


def get_config(preset: str = "default") -> Config:
    """As fr3_dexhand021.py."""
    config = fr3_dexhand021.get_config(preset)
    config.safety.watchdog_min_s = 0.25  # the emulators share the processor with the loops that watch them
    config.devices.arm = ConfigDict({"driver": "fr3", "host": "127.0.0.1", "realtime": False, "silent_s": 0.5})
    config.devices.hand = ConfigDict(
        {
            "driver": "dexhand021",
            "bus": {"interface": "udp_multicast", "channel": "239.0.0.21", "port": 43113, "fd": True},
            "silent_s": 0.5,
        }
    )
    for camera in config.rig.cameras:  # at half the size: playing them back takes as long as anything here
        config.devices.cameras[camera] = ConfigDict(
            {"driver": "realsense", "file": f"{FOLDER}/{camera}.db3", "width": 320, "height": 240, "silent_s": 0.5}
        )
    config.devices.tracker = ConfigDict({"driver": "gamepad_arm"})
    config.devices.glove = ConfigDict({"driver": "geort_glove", "address": "tcp://127.0.0.1:8765"})
    config.devices.operator = ConfigDict({"driver": "scripted_gamepad"})
    return config
