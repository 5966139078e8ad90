"""A learner's states: whatever way they lie, a batch has the states that were asked for."""

import threading

import numpy as np
import pytest
import torch

from rllib_ppg.learning import batches
from rllib_ppg.learning.batches import StateDataset, prefetch

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")
SIZES = [4, 1, 6, 3]


@pytest.fixture(params=["resident", "streamed"])
def obs_and_states(request, monkeypatch):
    """States in four blocks, of which the third and others may be opened only on demand."""
    if request.param == "streamed":
        monkeypatch.setattr(batches, "_CPU_RESIDENT_BYTES", 0)
    rng = np.random.default_rng(0)
    blocks = [rng.integers(0, 256, (n, 2, 3), np.uint8) for n in SIZES]
    for block in blocks:
        block.setflags(write=False)  # as those of the object store
    obs, S = np.concatenate(blocks), sum(SIZES)
    number = torch.arange(S)
    valid = np.arange(S) % 5 != 0
    starts = np.cumsum([0, *SIZES])[:-1]
    return obs, StateDataset(blocks, {"number": number}, valid, starts, 6, CPU)


INDICES = [[0], [13], [1, 2, 3], [3, 4, 5], [0, 2, 5, 6, 12, 13], list(range(14)), [5, 7, 9]]


def test_a_batch_has_the_states_asked_for(obs_and_states):
    obs, all_states = obs_and_states
    indices = [np.array(i) for i in INDICES]
    batches = list(all_states.batches(indices))
    assert len(batches) == len(indices)
    for index, batch in zip(indices, batches, strict=True):
        assert batch["obs"].dtype == torch.uint8
        np.testing.assert_array_equal(batch["obs"].numpy(), obs[index])
        assert batch["number"].tolist() == index.tolist()


def test_only_transitions_are_trained_on(obs_and_states):
    _, all_states = obs_and_states
    assert all_states.drop_masked(np.array([0, 1, 5, 6, 10])).tolist() == [1, 6]


def test_a_run_within_a_row_is_not_copied(monkeypatch):
    monkeypatch.setattr(batches, "_CPU_RESIDENT_BYTES", 0)
    blocks = [np.zeros((8, 2), np.uint8), np.ones((8, 2), np.uint8)]
    streamed = StateDataset(blocks, {}, np.ones(16, bool), np.array([0, 8]), 2, CPU)
    (batch,) = streamed.batches([np.arange(9, 13)])
    assert np.shares_memory(batch["obs"].numpy(), blocks[1])


def test_one_ahead_is_one_ahead_and_in_order():
    started = [threading.Event() for _ in range(4)]

    def work(i):
        started[i].set()
        return i * i

    results = prefetch(work, range(4))
    assert next(results) == 0
    assert started[1].wait(10)  # before anybody asks for it
    assert not started[2].is_set() and not started[3].is_set()
    assert list(results) == [1, 4, 9]


def test_what_is_raised_ahead_is_raised_here():
    def work(i):
        if i == 1:
            raise OSError("the disk is gone")
        return i

    results = prefetch(work, range(3))
    assert next(results) == 0
    with pytest.raises(OSError, match="the disk is gone"):
        next(results)
