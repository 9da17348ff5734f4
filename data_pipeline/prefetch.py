"""Batches prepared ahead by tf.data: a pipeline over step numbers, whose state is the next number."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from data_pipeline.tensorflow_cpu import tensorflow

Arrays = dict[str, np.ndarray]
Batch = dict[str, Any]
_open: weakref.WeakSet[Prefetcher] = weakref.WeakSet()


class Prefetcher(Iterator[Batch]):
    """Iterates finish(load(step)) from `start` on, without end, `workers` at a time in other threads, until `close`."""

    def __init__(
        self, load: Callable[[int], Arrays], finish: Callable[[Arrays], Batch], start: int, workers: int, prefetch: int
    ) -> None:
        tf = tensorflow()
        self.step, self._finish = start, finish
        self._errors: list[Exception] = []
        first = load(start)
        self._keys = sorted(first)
        errors, keys = self._errors, self._keys  # the pipeline must not keep its own owner alive

        def call(step: Any) -> tuple[np.ndarray, ...]:
            try:
                numbers = load(int(step))
            except Exception as error:  # TensorFlow would turn it into text; `__next__` raises it as it was
                errors.append(error)
                raise
            return tuple(numbers[key] for key in keys)

        options = tf.data.Options()
        options.autotune.enabled = False
        options.threading.private_threadpool_size = workers + 1
        dtypes = [first[key].dtype for key in keys]
        steps = tf.data.Dataset.range(start, np.iinfo(np.int64).max).with_options(options)
        batches = steps.map(lambda step: tf.numpy_function(call, [step], dtypes), num_parallel_calls=workers)
        self._batches: Iterator[Any] | None = batches.prefetch(prefetch).as_numpy_iterator()
        _open.add(self)

    def __next__(self) -> Batch:
        if self._batches is None:
            raise StopIteration
        try:
            values = next(self._batches)
        except tensorflow().errors.OpError as error:
            raise (self._errors or [error])[0] from None
        self.step += 1
        return self._finish(dict(zip(self._keys, values, strict=True)))

    def close(self) -> None:
        """Stops preparing batches. May be called again."""
        self._batches = None


@atexit.register
def _close_all() -> None:
    """Threads that still wait for the interpreter while it shuts down would hang the process."""
    for prefetcher in list(_open):
        prefetcher.close()
