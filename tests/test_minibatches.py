"""Minibatches: every segment once an epoch, whole, and the same ones for any number of learners."""

import numpy as np
import pytest

from rllib_ppg.minibatches import Segments


def epoch_in_rows(rows_of_learners, num_rows, T, L, num_minibatches, seed=(1, 2)):
    """The minibatches as sets of (row, step), put together from all learners."""
    minibatches = [set() for _ in range(num_minibatches)]
    for rows in rows_of_learners:
        order = np.concatenate([*rows, np.empty(0, int)]).astype(int)
        states = [(row, t) for row in order for t in range(T)]
        epoch = list(Segments(rows, num_rows, T, L).epoch(seed, num_minibatches))
        assert len(epoch) == num_minibatches
        for m, index in enumerate(epoch):
            assert (np.diff(index) > 0).all()
            minibatches[m] |= {states[i] for i in index}
    return minibatches


@pytest.mark.parametrize("L", [8, 4, 1])
def test_an_epoch_takes_every_segment_once_and_whole(L):
    minibatches = epoch_in_rows([[np.arange(6)]], num_rows=6, T=8, L=L, num_minibatches=3)
    assert [len(m) for m in minibatches] == [16, 16, 16]
    assert set.union(*minibatches) == {(row, t) for row in range(6) for t in range(8)}
    for minibatch in minibatches:
        for row, t in minibatch:
            start = t - t % L
            assert {(row, s) for s in range(start, start + L)} <= minibatch


def test_the_number_of_learners_does_not_change_a_minibatch():
    one = epoch_in_rows([[np.arange(6)]], 6, 4, 4, 3)
    two_env_runners = epoch_in_rows([[np.array([0, 1, 2]), np.array([3, 4, 5])]], 6, 4, 4, 3)
    three_uneven = epoch_in_rows(
        [[np.array([5, 0])], [np.array([1]), np.array([2, 3, 4])], [np.empty(0, int)]], 6, 4, 4, 3
    )
    assert one == two_env_runners == three_uneven


def test_seeds_shuffle():
    def epoch(*seed):
        return epoch_in_rows([[np.arange(64)]], 64, 1, 1, 4, seed)

    assert epoch(1, 0) == epoch(1, 0) != epoch(1, 1)
