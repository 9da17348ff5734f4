"""TensorFlow on first use, without its log lines and without the GPUs, which belong to JAX."""

import functools
import os
import sys
from pathlib import Path
from types import ModuleType

_MAPS = Path("/proc/self/maps")


@functools.cache
def tensorflow() -> ModuleType:
    """The tensorflow module with every GPU hidden from it. The first call takes seconds.

    Raises:
        ImportError: it would crash: after software OpenGL, since both carry LLVM.
    """
    if "tensorflow" not in sys.modules and _MAPS.is_file() and "libLLVM" in _MAPS.read_text():
        raise ImportError(
            "TensorFlow cannot be loaded where software OpenGL has rendered: both carry LLVM, and crash together; "
            "render in a process of its own, as collect.py and eval.py do"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # no mathematics here, and one log line less
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    return tf


@functools.cache
def tensorflow_datasets() -> ModuleType:
    """The tensorflow_datasets module, GPUs hidden."""
    tensorflow()
    import tensorflow_datasets as tfds

    return tfds
