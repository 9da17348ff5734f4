"""TensorFlow on first use, without its log lines and without the GPUs, which belong to JAX."""

from __future__ import annotations

import functools
import os
from types import ModuleType


@functools.cache
def tensorflow() -> ModuleType:
    """The tensorflow module with every GPU hidden from it. The first call takes seconds."""
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
