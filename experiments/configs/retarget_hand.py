"""A retargeter for the hand of a URDF file, so that its tips move as the person's do. The rest is as in retarget.py."""

from dexhil.config import Config
from dexhil.retargeting.config import TrainingConfig
from experiments.configs import retarget

PRESETS = retarget.PRESETS


def get_config(preset: str = "default") -> Config:
    return retarget.get_config(preset, TrainingConfig())
