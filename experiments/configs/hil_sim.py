"""The study of human-in-the-loop rounds in simulation, which `experiments/hil.py` runs. The rest is as in sim.py."""

from dexhil.config import Config, as_config
from experiments.configs import sim
from experiments.settings import HilConfig

PRESETS = ("default", "quick", "debug")


def get_config(preset: str = "default") -> Config:
    """default: the committed study. quick: a miniature in minutes. debug: seconds, only to see that it runs."""
    config = sim.get_config(preset)
    if preset == "default":  # as in the paper, one laboratory: the task varies widely, what is around it hardly
        config.rig.difficulty, config.rig.surroundings = 0.7, 0.1
    # Offline data repeat what works: demonstrations are made near the middle of what the policy will meet.
    config.collect.coverage = 0.4
    config.eval.handover = "rtc"  # plans that go on from the last one; else the hand closes and opens in turn
    config.data.heldout_fraction = 0.0
    # Ranges are frozen from slow, clean demonstrations; a person who corrects moves farther, and back. Without a floor
    # such actions reach 7 where demonstrations end at 1: fifty times the loss, which, weighted, drowns all other.
    config.data.min_range, config.data.min_range_m = 0.5, 0.1
    if preset != "debug":
        config.train.log_every = 25  # the jump of the loss at the start of a round is a short one
    config.train.augment = True  # 30 demonstrations per task are few enough to learn the pictures by heart
    # As in the paper (10 s against 3 s), a demonstration is mostly approach and a correction only its end: 6.3 s and
    # 2.5 s, so that interventions are about as rare as there (a tenth of the samples in round 1).
    config.collect.approach_speed = config.online.person.approach_speed = 0.05
    config.online.person.late_s = 10.0
    config.eval.trials = 100
    config.eval.max_seconds = config.online.max_seconds  # as long as under supervision: time to recover counts

    config.hil = as_config(HilConfig())
    if preset == "quick":
        config.train.steps = 500
        config.hil.rounds = 2
        config.hil.demonstrations = 15
        config.hil.per_round = 4
        config.hil.round_steps = 300
        config.eval.trials = config.hil.final_trials = 10
    elif preset == "debug":
        # An untrained policy leaves odd states: at least the corrections should not fail.
        config.rig.difficulty = config.rig.surroundings = 0.0
        config.hil.rounds = 1
        config.hil.demonstrations = 1
        config.hil.per_round = 1
        config.hil.round_steps = 2
        config.hil.round_warmup_steps = 1
        config.online.max_attempts = 2
        config.eval.trials = config.hil.final_trials = 1
    return config
