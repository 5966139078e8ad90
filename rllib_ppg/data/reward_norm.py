"""Reward normalisation: one running variance for the whole cluster, kept by the driver.

Rewards are divided by the running standard deviation of the discounted return, and clipped to
+-10. The discount is .99, and the deviation is over all env steps so far, including the new
rollout. The mean is not subtracted.

Source: OpenAI's code, after Engstrom et al. 2020 (arXiv 2005.12729), appendix.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rllib_ppg.data.running_moments import Moments

RETURN_GAMMA = 0.99
REWARD_CLIP = 10.0


class RewardNormalizer:
    """The running moments of the discounted return over all env runners."""

    def __init__(self) -> None:
        # OpenAI's prior: a count of 1e-4 with mean 0 and variance 1.
        self.moments = Moments(count=1e-4, mean=0.0, M2=1e-4)

    def update(self, new: Iterable[Moments]) -> None:
        """Adds the discounted returns of a whole rollout, one `Moments` per env runner."""
        for moments in new:
            self.moments = self.moments + moments

    @property
    def scale(self) -> float:
        """Standard deviation of the discounted return, which rewards are divided by."""
        return float(self.moments.std)


def normalize(rewards: np.ndarray, scale: float) -> np.ndarray:
    """Rewards divided by `scale` and clipped to +-10; any shape, float32."""
    return np.clip(rewards / np.float32(scale), -REWARD_CLIP, REWARD_CLIP)


def discounted_returns(
    rewards: np.ndarray, first: np.ndarray, valid: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """The discounted sum of past rewards after each step, `[N, T]` float32.

    Args:
        rewards: Rewards, 0 where a step is not valid, `[N, T]`.
        first: Whether the step is the first of its episode, where the sum restarts, `[N, T]` bool.
        valid: False where the step is no transition and leaves the sum as it is, `[N, T]` bool.
        start: The sum before the first step, `[N]`.
    """
    decay = np.where(first, 0.0, np.where(valid, RETURN_GAMMA, 1.0)).astype(np.float32)
    returns = np.empty(rewards.shape, np.float32)
    running = start
    for t in range(rewards.shape[1]):
        running = returns[:, t] = rewards[:, t] + decay[:, t] * running
    return returns
