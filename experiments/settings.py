"""Settings of the commands themselves: config sections `collect`, `online` and `hil`."""

import dataclasses

from dexhil.evaluation.config import PersonConfig
from dexhil.settings import Count, Fraction, Natural, NotNegative, Positive, Settings


@dataclasses.dataclass(frozen=True)
class CollectConfig(Settings):
    """Demonstrations by the scripted operator."""

    first_seed: Natural = 0
    workers: Count = 2  # processes
    coverage: Fraction = 1.0  # of the rig's difficulty; less: demonstrations keep to the easy starts
    approach_speed: NotNegative = PersonConfig.approach_speed  # m/s of the hand far from the object; 0: as near it


@dataclasses.dataclass(frozen=True)
class SupervisorConfig(PersonConfig):
    """The simulated person of an online round."""

    hand_back: Fraction = 1.0  # chance of handing back once the object is in the hand
    # What the person's hand goes through: "simulated" is the retargeter of the simulator; or a file; "": nothing.
    retargeter: str = "simulated"


@dataclasses.dataclass(frozen=True)
class OnlineConfig(Settings):
    """Supervised rollouts: the policy acts, the simulated person takes over."""

    first_seed: Natural = 2_000_000
    tasks: tuple[str, ...] = ()  # those that are supervised; (): all of the rig's
    max_seconds: Positive = 20.0
    max_attempts: Count = 5  # rollouts per corrected episode that is wanted
    videos_per_task: Natural = 3
    person: SupervisorConfig = SupervisorConfig()


@dataclasses.dataclass(frozen=True)
class HilConfig(Settings):
    """A study of human-in-the-loop rounds."""

    arms: tuple[str, ...] = ("dexhil", "dagger", "offline")  # of experiments/arms.py; the first is compared with each
    rounds: Count = 3
    demonstrations: Count = 30  # per task, for the warm-up
    per_round: Count = 10  # corrected episodes, or demonstrations, per task and round
    round_steps: Count = 1000  # gradient steps of a round, the same for every arm
    round_learning_rate: Positive = 2e-3
    round_warmup_steps: Natural = 100
    final_trials: Count = 200  # per task after the last round, where the arms are compared; else eval.trials
    jobs: Count = 1  # arms at a time

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.arms:
            raise ValueError("arms (): expected at least one; all: experiments/arms.py")
        if self.round_warmup_steps >= self.round_steps:
            raise ValueError(
                f"round_warmup_steps {self.round_warmup_steps}: expected fewer than round_steps = {self.round_steps}"
            )
