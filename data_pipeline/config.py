"""Settings of the data that a policy learns from: config section `data`."""

import dataclasses
from typing import Literal

from data_pipeline.mixture import UNIFORM, MixtureConfig
from dexhil.settings import BelowOne, Count, Natural, Positive, Settings


@dataclasses.dataclass(frozen=True)
class DataConfig(Settings):
    """Data sets, what is taken of them, and how actions are normalised."""

    paths: tuple[str, ...] = ("data/sim/rlds",)
    mapping: str = "dexhil"  # a name of data_pipeline.mapping
    robot: str = "fr3_dexhand021"
    action_dim: Count = 19
    control_hz: Positive = 20.0  # 1/s
    cameras: tuple[str, ...] = ("scene", "wrist")
    image_size: Count = 64  # px
    success: tuple[int, ...] = (1,)  # episodes to learn from: 1 success, 0 failure, -1 not known
    episodes_per_task: Natural = 0  # 0: all; else the first so many successful ones, to draw learning curves
    heldout_fraction: BelowOne = 0.05
    cache_dir: str = "data/.cache"
    chunk: Count = 16  # H, actions per sample
    # The arm as the end effector's pose, relative to now ("ee_delta") or in the base frame ("ee_pose"), or "recorded":
    # joints, those of delta_dims relative to now.
    action_space: Literal["ee_delta", "ee_pose", "recorded"] = "ee_delta"
    delta_dims: tuple[int, ...] = ()
    min_range: Positive = 0.02  # rad that are mapped to [-1, 1] at least, however little a joint moves in the data
    min_range_m: Positive = 0.02  # m, the same of the end effector's positions
    filter: str = "last_takeover"  # of an online episode: from its last takeover on; also "corrections", "none"
    mixture: MixtureConfig = UNIFORM
