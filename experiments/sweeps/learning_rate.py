"""A grid: every learning rate with every batch size."""

from typing import Any


def get_sweep() -> dict[str, list[Any]]:
    """6 trials around the setting of sim.py."""
    return {"train.learning_rate": [5e-4, 1.5e-3, 4.5e-3], "train.batch_size": [32, 64]}
