"""Facts of a checkpoint that the tests of training share."""

import numpy as np
import pytest

from dexhil.models.config import TINY
from dexhil.training.checkpoints import CheckpointMeta
from dexhil.transforms.normalization import Normalization, NormStats


@pytest.fixture(scope="session")
def meta() -> CheckpointMeta:
    stats = NormStats(np.zeros(19, np.float32), np.linspace(0.1, 1, 19, dtype=np.float32))
    return CheckpointMeta(
        robot="fr3_dexhand021",
        control_hz=20.0,
        model=TINY,
        normalization=Normalization(stats, stats, (0, 1, 2)),
        tokenizer=bytes(range(256)),
        config={"learning_rate": 1e-3},
        lineage={"datasets": ["demo"], "parent": ""},
    )
