"""A hand retargeter: by default for the simulated hand, from synthetic people, so that it needs no recording at all."""

from ml_collections import ConfigDict

from dexhil.config import Config, as_config
from dexhil.retargeting.config import ClipsConfig, HandConfig, TrainingConfig

# Every grasp of the simulated hand in reach, and firm pinches: a person who watches the robot's hand, as teleoperation
# has it, adapts. For tips where the person's are: retarget_hand.py.
SIMULATED = TrainingConfig(
    bend=0.2, direction=0.01, cover=30.0, pinch=100.0, speed=100.0, let_go=0.9, decisive=1.0, together_m=0.0, stray=0.0
)
PRESETS = ("default", "quick", "debug")


def get_config(preset: str = "default", train: TrainingConfig = SIMULATED) -> Config:
    """default: minutes on two cores. quick: under one. debug: seconds, only to see that it runs."""
    config = ConfigDict({"preset": preset})
    config.hand = as_config(HandConfig())
    config.data = as_config(ClipsConfig())
    config.train = as_config(train)
    if preset == "quick":
        config.train.steps = (400, 600)
    elif preset == "debug":
        config.train.steps = (100, 100)
        config.train.batch_size = 32
        config.train.width = 16
        config.train.people = 1
        config.train.people_seconds = 10.0
    return config
