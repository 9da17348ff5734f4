"""Settings that every test shares: quiet CPU-only back ends, and the shared data folder beside the checkout."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "compiled"))

SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real recordings (robot episodes, human hands). Skips where the checkout has no such neighbour."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data beside the checkout: the tests on real recordings need it")
    return SHARED_DATA
