"""Settings of a robot's rig: sections of hardware/configs. Light: a config is read before any device loads."""

import dataclasses
from typing import Annotated, Any

from dexhil.control.executor import ExecutorConfig
from dexhil.evaluation.config import PersonConfig
from dexhil.rig import RigConfig
from dexhil.settings import Bound, Count, Fraction, Natural, NotNegative, Positive, Settings

MAX_HZ = 1000.0
Rate = Annotated[float, Bound(f"more than 0 and at most {MAX_HZ:g} per s", lambda value: 0 < value <= MAX_HZ)]


@dataclasses.dataclass(frozen=True)
class RigFacts(Settings):
    """Section `rig`."""

    robot: str = RigConfig.robot
    tasks: tuple[str, ...] = RigConfig.tasks
    instructions: dict[str, Any] = dataclasses.field(default_factory=dict)  # task -> what the policy is to do, in words
    cameras: tuple[str, ...] = RigConfig.cameras


@dataclasses.dataclass(frozen=True)
class RatesConfig(Settings):
    """Section `rates`."""

    policy_hz: Rate = 20.0  # 1/s
    arm_hz: Rate = 30.0  # 1/s
    hand_hz: Rate = 90.0  # 1/s, a multiple of the arm's: one loop commands both

    def __post_init__(self) -> None:
        super().__post_init__()
        ratio = self.hand_hz / self.arm_hz
        if ratio != round(ratio) or ratio < 1:
            raise ValueError(f"hand_hz {self.hand_hz:g} must be a multiple of arm_hz {self.arm_hz:g}")


@dataclasses.dataclass(frozen=True)
class PolicyConfig(ExecutorConfig):
    """Section `policy`."""

    stale_s: Positive = 0.4  # a question that waits longer for its answer holds the robot: the policy's watchdog


@dataclasses.dataclass(frozen=True)
class TeleopConfig(Settings):
    """Section `teleop`."""

    retargeter: str = ""  # retargeter.npz of experiments/retarget.py; "": the glove gives joints itself
    blend: Fraction = 0.0  # fraction of the policy in a takeover; 0: the person alone
    calibration: str = ""  # of hardware/calibrate.py hand-eye; "": the cube is held like the end effector


@dataclasses.dataclass(frozen=True)
class EpisodeConfig(Settings):
    """Section `episode`."""

    first_seed: Natural = 3_000_000
    max_seconds: NotNegative = 30.0  # then a trial has failed; 0: the rig's own limit, where it has one
    trials: Count = 20  # per task
    operator: str = "operator"  # recorded with every episode
    videos_per_task: Natural = 1


SOMETIMES_HANDS_BACK = PersonConfig(hand_back=0.5)


@dataclasses.dataclass(frozen=True)
class SimConfig(Settings):
    """Section `sim`: what stands in for the rig with --rig sim."""

    difficulty: Fraction = RigConfig.difficulty  # 0 to 1, scales every randomisation of the tasks
    image_size: Count = RigConfig.image_size  # px
    watchdog_min_s: Positive = 0.25  # its devices share the processor with the loops that watch them
    person: PersonConfig = SOMETIMES_HANDS_BACK
