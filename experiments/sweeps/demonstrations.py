"""A list: how many demonstrations per task, none held out. benchmarks/learning_curve.py plots what comes of it."""

from typing import Any


def get_sweep() -> list[dict[str, Any]]:
    """4 trials of the same number of gradient steps."""
    return [{"data.episodes_per_task": size, "data.heldout_fraction": 0.0} for size in (30, 60, 100, 200)]
