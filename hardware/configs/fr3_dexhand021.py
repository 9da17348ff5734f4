"""A Franka Research 3 with a DexHand021, two RealSense cameras, a glove, a cube and a gamepad: the rig of the paper."""

from ml_collections import ConfigDict

from dexhil.config import Config, as_config
from dexhil.control.safety import SafetySettings
from hardware.settings import EpisodeConfig, PolicyConfig, RatesConfig, RigFacts, SimConfig, TeleopConfig

PRESETS = ("default", "quick", "debug")


def get_config(preset: str = "default") -> Config:
    """default: the rig. quick: shorter episodes, fewer trials. debug: seconds, to see that it runs."""
    config = ConfigDict({"preset": preset, "seed": 0})
    words = {"plush": "Grab that yellow plushie", "tissue": "Pull out a napkin"}
    config.rig = as_config(RigFacts(instructions=words))
    config.rates = as_config(RatesConfig())
    config.policy = as_config(PolicyConfig())
    config.safety = as_config(SafetySettings())  # NOT safety-rated; simulated trials keep to the same limits
    config.teleop = as_config(TeleopConfig())
    config.episode = as_config(EpisodeConfig())
    config.sim = as_config(SimConfig())

    config.devices = ConfigDict()  # driver: a name of hardware/devices/registry.py; the rest are its settings
    config.devices.arm = ConfigDict({"driver": "fr3", "host": "172.16.0.2"})
    config.devices.hand = ConfigDict({"driver": "dexhand021", "bus": {"interface": "socketcan", "channel": "can0"}})
    config.devices.cameras = ConfigDict(
        {"scene": {"driver": "realsense", "serial": ""}, "wrist": {"driver": "realsense", "serial": ""}}
    )
    # serials in quotes, from `rs-enumerate-devices -s`; "" takes the only camera
    config.devices.tracker = ConfigDict(
        {
            "driver": "aruco_cube",
            "camera": {"driver": "realsense", "serial": "", "width": 1280, "height": 720},
            "intrinsics": "data/calibration/camera.json",
        }
    )
    config.devices.glove = ConfigDict({"driver": "geort_glove"})
    config.devices.operator = ConfigDict({"driver": "gamepad"})

    if preset == "quick":
        config.episode.trials = 5
        config.episode.max_seconds = 20.0
    elif preset == "debug":
        config.episode.trials = 1
        config.episode.max_seconds = 4.0
        config.sim.person.late_s = 1.0
    return config
