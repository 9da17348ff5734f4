"""A grid: every learning rate with every batch size."""

from typing import Any


def get_sweep() -> dict[str, list[Any]]:
    """6 trials around the setting of sim.py."""
    return {"train.learning_rate": [2e-3, 4e-3, 8e-3], "train.batch_size": [32, 64]}
