"""Minibatches: every segment once an epoch, whole, and the same ones for any number of learners."""

import numpy as np
import pytest

from rllib_ppg.data.minibatches import Segments, interleave_row_ids, shard_cuts

pytestmark = pytest.mark.unit


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


def deal(counts, num_learners):
    """The numbers of each learner's rows, of groups (env runners) of so many rows."""
    learners = [[] for _ in range(num_learners)]
    for numbers in interleave_row_ids(counts):
        cuts = shard_cuts(numbers, sum(counts), num_learners)
        assert cuts[0] == 0 and cuts[-1] == len(numbers)
        for k in range(num_learners):
            learners[k].append(numbers[cuts[k] : cuts[k + 1]])
    return learners


@pytest.mark.parametrize(
    ("counts", "num_learners"),
    [((64,), 2), ((64,) * 4, 8), ((4,) * 64, 8), ((1,) * 256, 16), ((65,) * 4, 5), ((3, 5), 3)],
)
def test_learners_have_equal_parts_of_the_rows_and_of_every_minibatch(counts, num_learners):
    rows = sum(counts)
    learners = deal(counts, num_learners)
    dealt = [np.concatenate(parts) for parts in learners]
    assert sorted(np.concatenate(dealt)) == list(range(rows))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    if rows % (num_learners * 16):
        return
    for parts in learners:  # minibatches of 16 rows
        segments = Segments(parts, rows, 1, 1)
        share = {len(index) for index in segments.epoch((0,), rows // 16)}
        assert share == {16 // num_learners}


def test_an_auxiliary_minibatch_has_equal_parts_of_learners_and_mixes_iterations():
    """4 iterations of 32 rows over 2 learners, 16 minibatches of 8 rows each."""
    numbers = interleave_row_ids([32] * 4)
    shares, mixed = [], 0
    for k in range(2):
        rows = [n[16 * k : 16 * (k + 1)] for n in numbers]
        for index in Segments(rows, 128, 1, 1).epoch((0,), 16):
            shares.append(len(index))
            mixed += len(set(index // 16)) > 1
    assert set(shares) == {4}
    assert mixed > 24


def test_any_number_of_rows_can_be_cut():
    """As when an env runner has died: minibatches differ by what does not divide evenly."""
    minibatches = epoch_in_rows([[np.arange(7)]], num_rows=7, T=1, L=1, num_minibatches=3)
    assert sum(map(len, minibatches)) == 7 and min(map(len, minibatches)) == 2
    few = epoch_in_rows([[np.arange(2)]], num_rows=2, T=1, L=1, num_minibatches=3)
    assert sorted(map(len, few)) == [0, 1, 1]
