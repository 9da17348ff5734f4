"""A stateless sampler: what a batch holds is a function of (seed, step, host), so resuming needs a step number.

Each epoch is a keyed permutation, evaluated point by point: a Feistel network on the smallest even number of bits,
walked until it lands inside (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
"""

from fractions import Fraction

import numpy as np

_ROUNDS = 6


def _mix(value: np.ndarray) -> np.ndarray:
    """SplitMix64 finaliser: uint64 -> well-mixed uint64 (Steele et al. 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def hash64(*parts: int | np.ndarray) -> np.ndarray:
    """uint64 hash of integers, elementwise over array parts."""
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = _mix(state + np.uint64(0x9E3779B97F4A7C15) + np.asarray(part).astype(np.uint64))
    return state


def permute(positions: np.ndarray, size: np.ndarray | int, key: np.ndarray) -> np.ndarray:
    """Image int64 [B] of positions [B] in [0, size) under the permutation of each key, uint64 [B]."""
    half = np.uint64(max(1, (int(size - 1).bit_length() + 1) // 2))
    values = _feistel(positions.astype(np.uint64), key, half)
    outside = values >= np.uint64(size)
    while outside.any():
        values[outside] = _feistel(values[outside], key[outside], half)
        outside = values >= np.uint64(size)
    return values.astype(np.int64)


def _feistel(values: np.ndarray, key: np.ndarray, half: np.uint64) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for number in range(_ROUNDS):
        left, right = right, left ^ (hash64(key, number, right) & mask)
    return (left << half) | right


def sample_indices(
    seed: int, step: int, *, batch_size: int, num_samples: int, host: int = 0, num_hosts: int = 1
) -> np.ndarray:
    """Samples of this host's part of batch `step`, int64 [batch_size / num_hosts] in [0, num_samples).

    Every epoch visits each sample once, in its own order; the hosts' parts make up what one host alone would draw.
    """
    return _in_epochs(_stream(step, batch_size, host, num_hosts), num_samples, seed)


def two_pool_indices(
    seed: int,
    step: int,
    *,
    batch_size: int,
    sizes: tuple[int, int],
    p_first: Fraction,
    host: int = 0,
    num_hosts: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Samples drawn from two pools of `sizes`, the first with probability `p_first`: both [batch_size / num_hosts].

    Any n positions in a row hold the floor or the ceiling of p_first * n samples of the first pool: before position p
    it has given floor(p_first * p + phase). Each pool goes through its own epochs; the hosts' parts make up the batch.

    Returns:
        bool, whether a sample is of the first pool, and int64, which one of its pool.
    """
    stream = _stream(step, batch_size, host, num_hosts)
    phase = int(hash64(seed)[0]) % p_first.denominator
    before, after = ((p_first.numerator * p + phase) // p_first.denominator for p in (stream, stream + 1))
    first = after > before
    indices = np.empty(len(stream), np.int64)
    indices[first] = _in_epochs(before[first], sizes[0], seed, 1)
    indices[~first] = _in_epochs((stream - before)[~first], sizes[1], seed, 2)
    return first, indices


def _stream(step: int, batch_size: int, host: int, num_hosts: int) -> np.ndarray:
    """Positions of this host's part of batch `step` in the endless stream, int64 [batch_size / num_hosts]."""
    size = batch_size // num_hosts
    return step * batch_size + host * size + np.arange(size, dtype=np.int64)


def _in_epochs(stream: np.ndarray, size: int, *key: int) -> np.ndarray:
    """Sample in [0, size) at each position [B] of a stream of epochs, each a permutation by the key and its number."""
    epochs, positions = np.divmod(stream, size)
    return permute(positions, size, hash64(*key, epochs))
