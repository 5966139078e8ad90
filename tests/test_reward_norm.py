"""Reward normalisation against numpy's variance over everything seen so far."""

import numpy as np
import pytest

from rllib_ppg.moments import Moments
from rllib_ppg.reward_norm import (
    RETURN_GAMMA,
    REWARD_CLIP,
    RewardNormalizer,
    discounted_returns_step,
    normalize,
)


def test_scale_is_the_std_of_all_returns_of_all_env_runners():
    rng = np.random.default_rng(0)
    norm = RewardNormalizer()
    seen = []
    for iteration in range(3):
        runners = [rng.normal(3.0 + iteration, 5.0, size=(4, 50)) for _ in range(3)]
        seen += runners
        norm.update(Moments.of(x.ravel()) for x in runners)
    # The prior (count 1e-4, variance 1) is all that keeps this from being exact.
    assert norm.scale == pytest.approx(np.concatenate([x.ravel() for x in seen]).std(), rel=1e-5)


def test_the_prior_before_any_reward():
    norm = RewardNormalizer()
    assert norm.scale == pytest.approx(1.0)
    norm.update([Moments.of(np.empty(0))])
    assert norm.scale == pytest.approx(1.0)


def test_rewards_are_divided_and_clipped_and_keep_their_mean():
    got = normalize(np.array([2.0, -4.0, 100.0, -1e6], np.float32), scale=4.0)
    assert got.tolist() == [0.5, -1.0, REWARD_CLIP, -REWARD_CLIP]


def test_returns_start_anew_with_each_episode():
    rewards = [1.0, 1.0, 1.0, 1.0]
    first = [True, False, True, False]
    ret, got = np.zeros(1), []
    for r, f in zip(rewards, first, strict=True):
        ret = discounted_returns_step(ret, np.array([r]), np.array([f]))
        got.append(ret[0])
    assert got == pytest.approx([1.0, 1.0 + RETURN_GAMMA, 1.0, 1.0 + RETURN_GAMMA])


def test_returns_carry_over_from_one_rollout_to_the_next():
    ret = discounted_returns_step(np.array([10.0]), np.array([1.0]), np.array([False]))
    assert ret[0] == pytest.approx(1.0 + 0.99 * 10.0)
