"""A hand retargeter: by default for the simulated hand, from synthetic people, so that it needs no recording at all."""

import dataclasses

from ml_collections import ConfigDict

from dexhil.config import Config
from dexhil.retargeting.training import TrainingConfig

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
    config.train.cover = 30.0  # every shape of the robot's hand in reach; 0 for tips where the person's are

    if preset == "quick":
        config.train.steps = (400, 600)
    elif preset == "debug":
        config.train.steps = (100, 100)
        config.train.batch_size = 32
        config.train.width = 16
        config.train.people = 1
        config.train.people_seconds = 10.0
    return config
