"""A retargeter for the hand of a URDF file, so that its tips move as the person's do. The rest is as in retarget.py."""

import dataclasses

from dexhil.config import Config
from dexhil.retargeting.training import TrainingConfig
from experiments.configs import retarget

PRESETS = retarget.PRESETS


def get_config(preset: str = "default") -> Config:
    config = retarget.get_config(preset)
    usual = dataclasses.asdict(TrainingConfig())
    config.train.update({name: usual[name] for name in retarget.SIMULATED})
    return config
