"""Advantages against a reference that walks each episode on its own, and the cutting of rows."""

import numpy as np
import pytest

from rllib_ppg.data.advantages import gae, successor_values
from rllib_ppg.data.rollout import Rollout
from tests.support.learners import without_memory

pytestmark = pytest.mark.unit

GAMMA, LAMBDA = 0.9, 0.8


def make_rollout(rewards, terminated, truncated, valid=None, final=()):
    """A rollout whose observation is its own value: V(obs) = obs."""
    N, T = rewards.shape
    rng = np.random.default_rng(0)
    final_index = np.array([i for i, _ in final], np.int64).reshape(-1, 2)
    return Rollout(
        obs=rng.normal(size=(N, T, 1)),
        actions=np.zeros((N, T), np.int64),
        logp=np.zeros((N, T), np.float32),
        rewards=rewards,
        terminated=terminated,
        truncated=truncated,
        valid=np.ones((N, T), bool) if valid is None else valid,
        **without_memory(N),
        last_obs=rng.normal(size=(N, 1)),
        final_obs=np.array([o for _, o in final], float).reshape(-1, 1),
        final_index=final_index,
    )


def advantages(r):
    V = r.obs[..., 0]
    V_next = successor_values(r, V, r.last_obs[:, 0], r.final_obs[:, 0])
    return gae(r.rewards, V, V_next, r.terminated | r.truncated, GAMMA, LAMBDA)


def episode_advantages(rewards, values, bootstrap):
    """Equation 16 of the GAE paper as a plain double sum over one episode's steps."""
    v = [*values, bootstrap]
    deltas = [r + GAMMA * v[t + 1] - v[t] for t, r in enumerate(rewards)]
    return [
        sum((GAMMA * LAMBDA) ** k * d for k, d in enumerate(deltas[t:])) for t in range(len(deltas))
    ]


def flags(N, T, *where):
    x = np.zeros((N, T), bool)
    for index in where:
        x[index] = True
    return x


def test_gae_same_step_with_several_episodes_a_row():
    """Row 0: terminated at 2, truncated at 5, cut at 8. Row 1: one long episode, cut."""
    rng = np.random.default_rng(1)
    rewards = rng.normal(size=(2, 9))
    r = make_rollout(rewards, flags(2, 9, (0, 2)), flags(2, 9, (0, 5)), final=[((0, 5), 7.0)])
    A, V_targ = advantages(r)
    v = r.obs[..., 0]
    row0 = (
        episode_advantages(rewards[0, :3], v[0, :3], 0.0)
        + episode_advantages(rewards[0, 3:6], v[0, 3:6], 7.0)
        + episode_advantages(rewards[0, 6:], v[0, 6:], r.last_obs[0, 0])
    )
    row1 = episode_advantages(rewards[1], v[1], r.last_obs[1, 0])
    np.testing.assert_allclose(A, [row0, row1], rtol=1e-5)
    np.testing.assert_allclose(V_targ, A + v, rtol=1e-5, atol=1e-6)


def test_gae_next_step_bootstraps_from_the_following_observation():
    """Truncated at 2; step 3 is the env's reset and no transition; a new episode from 4 on."""
    rng = np.random.default_rng(2)
    rewards = rng.normal(size=(1, 7))
    rewards[0, 3] = 0.0
    valid = ~flags(1, 7, (0, 3))
    r = make_rollout(rewards, flags(1, 7, (0, 6)), flags(1, 7, (0, 2)), valid)
    A, _ = advantages(r)
    v = r.obs[..., 0]
    expected = episode_advantages(rewards[0, :3], v[0, :3], v[0, 3]) + episode_advantages(
        rewards[0, 4:], v[0, 4:], 0.0
    )
    np.testing.assert_allclose(A[valid], expected, rtol=1e-5)


def test_truncated_last_step_takes_its_own_final_observation():
    r = make_rollout(np.ones((1, 2)), flags(1, 2), flags(1, 2, (0, 1)), final=[((0, 1), 5.0)])
    A, _ = advantages(r)
    assert A[0, 1] == pytest.approx(1 + GAMMA * 5.0 - r.obs[0, 1, 0])


@pytest.mark.parametrize("cuts", [[0, 5], [0, 2, 5], [0, 0, 1, 4, 5, 5]])
def test_shards_hold_every_row_once_with_its_final_observations(cuts):
    N = 5
    final = [((0, 1), 10.0), ((3, 0), 13.0), ((4, 1), 14.0)]
    r = make_rollout(np.ones((N, 2)), flags(N, 2), flags(N, 2, (0, 1), (3, 0), (4, 1)), final=final)
    shards = r.split(cuts)
    assert [len(s) for s in shards] == np.diff(cuts).tolist()
    np.testing.assert_array_equal(np.concatenate([s.obs for s in shards]), r.obs)
    np.testing.assert_array_equal(np.concatenate([s.last_obs for s in shards]), r.last_obs)
    first = np.cumsum([0, *map(len, shards)])
    back = {
        (int(n + first[k]), int(t)): float(o[0])
        for k, s in enumerate(shards)
        for (n, t), o in zip(s.final_index, s.final_obs, strict=True)
    }
    assert back == dict(final)
    assert all(np.shares_memory(s.obs, r.obs) for s in shards if len(s))
