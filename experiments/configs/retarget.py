"""A hand retargeter: by default for the simulated hand, from synthetic people, so that it needs no recording at all."""

import dataclasses

from ml_collections import ConfigDict

from dexhil.config import Config
from dexhil.retargeting.training import TrainingConfig

# Every grasp of the simulated hand in reach, and firm pinches: a person who watches the robot's hand, as teleoperation
# has it, adapts. For tips where the person's are: retarget_hand.py.
SIMULATED = {
    "bend": 0.2, "direction": 0.01, "cover": 30.0, "pinch": 100.0, "speed": 100.0, "let_go": 0.9, "decisive": 1.0,
    "together_m": 0.0, "stray": 0.0,
}  # fmt: skip
PRESETS = ("default", "quick", "debug")


def get_config(preset: str = "default") -> Config:
    """default: minutes on two cores. quick: under one. debug: seconds, only to see that it runs."""
    config = ConfigDict()
    config.preset = preset

    config.hand = ConfigDict()
    config.hand.urdf = ""  # a URDF file; "": the simulated DexHand021
    config.hand.card = "allegro"  # what the file does not say: a name of `dexhil.retargeting.urdf.CARDS`

    config.data = ConfigDict()
    config.data.clips = ()  # recordings, .npy files [T, 21, 3] m of right hands; none: synthetic people only
    config.data.heldout_fraction = 0.2  # the ends of five stretches of every recording

    config.train = ConfigDict(dataclasses.asdict(TrainingConfig()))
    config.train.update(SIMULATED)

    if preset == "quick":
        config.train.steps = (400, 600)
    elif preset == "debug":
        config.train.steps = (100, 100)
        config.train.batch_size = 32
        config.train.width = 16
        config.train.people = 1
        config.train.people_seconds = 10.0
    return config
