"""Reward normalisation against numpy's variance over everything seen so far."""

import numpy as np
import pytest

from rllib_ppg.data.reward_norm import (
    RETURN_GAMMA,
    REWARD_CLIP,
    RewardNormalizer,
    discounted_returns,
    normalize,
)
from rllib_ppg.data.running_moments import Moments

pytestmark = pytest.mark.unit


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


def test_returns_start_anew_with_each_episode_and_carry_over_from_the_last_rollout():
    first = np.array([[True, False, True, False], [False, False, False, False]])
    valid = np.array([[True, True, True, True], [True, False, True, True]])
    got = discounted_returns(np.where(valid, 1.0, 0.0), first, valid, np.array([7.0, 10.0]))
    g = RETURN_GAMMA
    assert got[0] == pytest.approx([1.0, 1.0 + g, 1.0, 1.0 + g])
    once = 1.0 + g * 10.0  # the step that is none leaves it alone
    assert got[1] == pytest.approx([once, once, 1.0 + g * once, 1.0 + g + g**2 * once])
