"""Muon against AdamW at three rates, each: which loss do they reach in the same steps?"""

from typing import Any


def get_sweep() -> list[dict[str, Any]]:
    """6 trials; the schedule's length is the config's, so shorten it on the command line."""
    rates = {"muon": (2e-3, 4e-3, 8e-3), "adamw": (5e-4, 1e-3, 2e-3)}
    return [{"train.optimizer": name, "train.learning_rate": rate} for name in rates for rate in rates[name]]
