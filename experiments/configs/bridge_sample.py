"""BridgeData V2 (WidowX, RLDS), held-out loss only; with another path, mapping and widths, a user's own data."""

from dexhil.config import Config
from experiments.configs import sim


def get_config(preset: str = "default") -> Config:
    """25 episodes of 10 steps, a fifth of them held out by the hash of their ids (`val` repeats `train`)."""
    config = sim.get_config(preset)
    del config.rig, config.collect, config.eval

    config.data.paths = ()  # --config.data.paths=…/bridge_dataset/1.0.0
    config.data.mapping = "bridge"
    config.data.robot = "widowx"
    config.data.action_dim = 7
    config.data.control_hz = 5.0
    config.data.cameras = ("image_0", "image_1")
    config.data.success = (-1,)  # the data set does not say
    config.data.heldout_fraction = 0.2
    config.data.cache_dir = "data/.cache"
    config.data.chunk = 4
    config.data.action_space = "recorded"  # its actions are end-effector deltas already

    config.model.max_tokens = 40
    config.train.augment = True

    if preset != "debug":
        config.train.steps = 200  # 190 samples: more is learnt by heart
        config.train.batch_size = 32
        config.train.warmup_steps = 50
        config.train.ema_decay = 0.99
        config.train.log_every = 20
        config.train.heldout_every = 50
        config.train.save_every = 100
    return config
