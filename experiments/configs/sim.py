"""The embedded default: both simulated tasks in one policy, small enough to train on two CPU cores."""

from ml_collections import ConfigDict

from data_pipeline.config import DataConfig
from dexhil.config import Config, as_config
from dexhil.evaluation.config import EvalConfig
from dexhil.models.config import ModelConfig
from dexhil.rig import RigConfig
from dexhil.training.config import TrainConfig
from experiments.settings import CollectConfig, OnlineConfig

PRESETS = ("default", "quick", "debug")


def get_config(preset: str = "default") -> Config:
    """default: the demo's and the learning curve's setting. quick: minutes, easier scenes. debug: seconds."""
    config = ConfigDict({"preset": preset, "seed": 0})
    config.rig = as_config(RigConfig())
    config.collect = as_config(CollectConfig())
    config.data = as_config(DataConfig())
    config.model = as_config(ModelConfig())
    config.train = as_config(TrainConfig())
    config.eval = as_config(EvalConfig())
    config.online = as_config(OnlineConfig())
    if preset == "quick":
        config.rig.difficulty = config.rig.surroundings = 0.2
        config.train.steps = 1000
        config.eval.trials = 10
    elif preset == "debug":
        config.train.steps = 4
        config.train.batch_size = 4
        config.train.warmup_steps = 2
        config.train.log_every = 1
        config.train.save_every = 2
        config.train.heldout_every = 4
        config.eval.trials = 1
        config.eval.workers = 1
        config.eval.videos_per_task = 1
    return config
