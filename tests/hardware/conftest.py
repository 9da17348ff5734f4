import numpy as np
import pytest

from dexhil.control.takeover import Mode
from tests.hardware.fakes import Bench, somewhere


@pytest.fixture
def bench() -> Bench:
    """A policy on its way to a place some tenths of a radian away."""
    bench = Bench()
    bench.start(somewhere(np.random.default_rng(0)))
    assert bench.control.latest.mode is Mode.AUTONOMOUS
    return bench
