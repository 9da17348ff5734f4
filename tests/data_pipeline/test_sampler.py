"""The sampler visits every sample once per epoch, and depends on (seed, step, host) alone."""

from fractions import Fraction

import numpy as np
import pytest

from data_pipeline.sampler import hash64, permute, sample_indices, two_pool_indices


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000, 4097])
def test_permute_is_a_bijection(size):
    images = permute(np.arange(size), size, hash64(np.full(size, 7)))
    assert sorted(images.tolist()) == list(range(size))


@pytest.mark.parametrize(("size", "batch"), [(10, 4), (97, 8), (3, 8)])
def test_every_epoch_visits_every_sample_once(size, batch):
    epochs = 4
    steps = range(epochs * size // batch + 1)
    stream = np.concatenate([sample_indices(3, step, batch_size=batch, num_samples=size) for step in steps])
    for epoch in range(epochs):
        assert sorted(stream[epoch * size : (epoch + 1) * size].tolist()) == list(range(size))


def test_epochs_and_seeds_have_orders_of_their_own():
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        return tuple(sample_indices(seed, epoch, batch_size=50, num_samples=50).tolist())

    assert len({order(seed, epoch) for seed in range(5) for epoch in range(5)}) == 25


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_the_hosts_share_the_batch_of_one(hosts):
    whole = sample_indices(1, 5, batch_size=8, num_samples=33)
    parts = [sample_indices(1, 5, batch_size=8, num_samples=33, host=h, num_hosts=hosts) for h in range(hosts)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_orders_look_random():
    """Over 400 keys each sample comes first about equally often, and neighbours part (chi-square at 1e-4)."""
    size, keys = 20, 4000
    first = permute(np.zeros(keys, np.int64), size, hash64(np.arange(keys)))
    second = permute(np.ones(keys, np.int64), size, hash64(np.arange(keys)))
    for counts in (np.bincount(first, minlength=size), np.bincount((second - first) % size, minlength=size)[1:]):
        expected = keys / len(counts)
        assert ((counts - expected) ** 2 / expected).sum() < 50


def test_large_steps_do_not_overflow():
    indices = sample_indices(0, 10**9, batch_size=256, num_samples=10**8)
    assert indices.min() >= 0
    assert indices.max() < 10**8


def test_the_order_is_the_one_that_earlier_runs_were_trained_in():
    assert sample_indices(3, 2, batch_size=8, num_samples=47).tolist() == [20, 1, 21, 0, 42, 10, 32, 25]


@pytest.mark.parametrize("share", [Fraction(1, 2), Fraction(3, 10), Fraction(999_999, 10**6)])
@pytest.mark.parametrize("step", [0, 10**9])
def test_two_pools_keep_their_share_in_every_batch(share, step):
    first, indices = two_pool_indices(4, step, batch_size=256, sizes=(5, 10**8), p_first=share)
    assert abs(first.sum() - 256 * share) < 1
    assert set(indices[first].tolist()) == set(range(5))
    assert indices.min() >= 0
    assert indices.max() < 10**8
    assert len(set(indices[~first].tolist())) == (~first).sum()
