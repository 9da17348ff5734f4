"""TensorFlow crashes beside software OpenGL: an error comes first. Beside SentencePiece and PyTorch it works."""

import importlib.util
import subprocess
import sys

import pytest

RENDER = """
from dexhil.sim.rig import SimRig
SimRig(("plush",), image_size=8).reset(task="plush", seed=0)
"""
LOAD = """
from data_pipeline.tensorflow_cpu import tensorflow
tensorflow()
"""


@pytest.mark.parametrize(("first", "second"), [(RENDER, LOAD), (LOAD, RENDER)], ids=["render-load", "load-render"])
def test_rendering_and_tensorflow_in_one_process_is_an_error_not_a_crash(first: str, second: str) -> None:
    done = subprocess.run([sys.executable, "-c", first + second], capture_output=True, text=True)
    on_a_gpu = done.returncode == 0
    assert on_a_gpu or "process of its own" in done.stderr or "one of its own" in done.stderr, done.stderr[-2000:]


def test_tensorflow_and_sentencepiece_live_together_in_either_order() -> None:
    text = "from dexhil.models.tokenizer import train_tokenizer\ntrain_tokenizer(['Grab'])\n"
    for code in (text + LOAD, LOAD + text):
        assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize("torch_first", [True, False])
def test_torch_jax_and_tensorflow_live_together(torch_first: bool) -> None:
    """One worker of the test run may meet all three."""
    if importlib.util.find_spec("torch") is None:
        pytest.skip("no torch: make test installs it from requirements-parity.txt")
    use_torch = "import torch\ntorch.ones(3, 3) @ torch.ones(3, 3)\n"
    use_jax = "import jax\nprint(jax.numpy.ones((3, 3)) @ jax.numpy.ones((3, 3)))\n"
    code = use_torch + use_jax + LOAD + use_torch if torch_first else LOAD + use_jax + use_torch + use_jax
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
