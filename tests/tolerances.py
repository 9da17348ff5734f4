"""How far two ways of computing the same may lie apart: a count of roundings, each half a unit in the last place.

The order of a sum, fused multiply-adds and the width of vectors are the processor's and the compiler's. What they
change is how often a number is rounded on its way, and each time by at most half a unit in the last place of the
largest number that it is made of. So a tolerance follows from that largest number, and from how many roundings lie
between the inputs and the result, were they all in one direction: about one per term of the longest sum, and a few per
layer.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

TINY_VLA = 200  # the smallest model: 48 keys, 32 hidden units, and a few in each of its 5 layers
TINY_STEP = 64  # the training tests' steps: a mean over 32 errors, a few sums of 3, and the optimiser's
FEW = 16  # elementwise arithmetic


def roundings(count: float, largest: Any = 1.0, dtype: Any = jnp.float32) -> float:
    """Absolute tolerance for `count` roundings of numbers up to `largest`, or up to the largest of an array."""
    top = float(np.abs(np.asarray(largest, np.float64)).max())
    return count * 0.5 * float(jnp.finfo(dtype).eps) * top


def relative(count: float, dtype: Any = jnp.float32) -> float:
    """The same as a relative tolerance, where the result is as large as what it is made of."""
    return roundings(count, 1.0, dtype)


def assert_close(found: Any, expected: Any, count: float, message: str = "") -> None:
    """Arrays that lie apart by at most `count` roundings of the largest expected number."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=roundings(count, expected), err_msg=message)
