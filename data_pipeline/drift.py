"""Whether a round's new data still fits the norm statistics that were frozen from the warm-up."""

from typing import Any

import numpy as np

from data_pipeline.loader import Loader
from dexhil.robots.spec import ROBOTS
from dexhil.transforms.normalization import Normalization, Samples, normalization_drift

WORST = 8  # rows that are kept


def newest_data_drift(data: Loader, normalization: Normalization) -> list[dict[str, Any]]:
    """Where the last data set moved most from the first, worst first: rows of `normalization_drift`, or none."""
    newest = data.num_datasets - 1
    if newest == 0 or not (data.index["dataset"][data.samples] == newest).any():
        return []
    known = data.robot in ROBOTS
    names = ROBOTS[data.robot].joint_names if known else [f"joint {i}" for i in range(data.state_dim)]
    return normalization_drift(normalization, _samples(data, 0), _samples(data, newest), names)[:WORST]


def _samples(data: Loader, dataset: int) -> Samples:
    here = np.flatnonzero(data.index["dataset"][data.samples] == dataset)
    return data.all_states()[here], *data.chunks(here)
