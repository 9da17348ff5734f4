"""A signal that stands still: sensors that run are noisy, so that the very same values say nothing new."""

import dataclasses

import numpy as np


@dataclasses.dataclass
class FrozenSignal:
    """Call with every value; "" until one comes for the `limit`-th time after the first. what: of the message."""

    limit: int
    what: str
    _seen: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
    _repeats: int = 0

    def __call__(self, value: np.ndarray) -> str:
        self._repeats = self._repeats + 1 if np.array_equal(value, self._seen) else 0
        self._seen = np.array(value)
        return f"frozen: the same {self.what} {self.limit} times" if self._repeats >= self.limit else ""
