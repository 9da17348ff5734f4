"""Settings of trials and of the simulated person who supervises: config sections `eval` and `online.person`."""

import dataclasses
from typing import Literal

from dexhil.control.executor import ExecutorConfig
from dexhil.settings import Fraction, Natural, NotNegative, Positive, Settings


@dataclasses.dataclass(frozen=True)
class EvalConfig(ExecutorConfig):
    """How a policy is scored."""

    trials: Natural = 20  # per task; 0: a training is not scored
    first_seed: Natural = 1_000_000  # never a seed of a demonstration
    max_seconds: NotNegative = 0.0  # then a trial has failed; 0: the task's own limit
    latency_steps: Natural = 0  # emulated inference latency, control steps
    workers: Natural = 2  # processes; 0: in this one
    videos_per_task: Natural = 4


@dataclasses.dataclass(frozen=True)
class PersonConfig(Settings):
    """Habits of the simulated person, dexhil/sim/person.py."""

    reaction_s: tuple[NotNegative, NotNegative] = (0.2, 0.5)  # range, from seeing a reason to taking over
    foresight: Fraction = 1.0  # chance of seeing a miss before the fingers have closed, else only an empty hand tells
    no_progress_s: Positive = 1.5  # patience without progress
    late_s: NotNegative = 8.0  # time of watching after which a person helps in any case
    false_alarms_per_s: NotNegative = 0.0  # takeovers without a reason
    hand_back: Fraction = 0.0  # chance of handing back once the object is in the hand, else the person finishes
    approach_speed: NotNegative = 0.0  # m/s of the hand far from the object; 0: as fast as near it
    skill: Positive = 1.0  # errors of eye and hand are divided by it; 1: as in demonstrations
    authority: Literal["both", "arm", "hand"] = "both"  # what the person takes; the policy keeps the rest
    blend: Fraction = 0.0  # fraction of the policy in what the person commands

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reaction_s[0] > self.reaction_s[1]:
            raise ValueError(f"reaction_s {self.reaction_s}: expected the shorter time first")
