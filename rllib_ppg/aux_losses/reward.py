"""Reward prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import gymnasium as gym
from torch import Tensor, nn

from rllib_ppg.aux_losses.aux_loss import AuxLoss
from rllib_ppg.aux_losses.heads import check_hidden, mlp


class RewardLoss(AuxLoss):
    """1/2 (r_hat(s, .) - r)^2: predicts the reward of the step from the state.

    The reward is the one that is trained on: scaled with `normalize_rewards`. In the spirit of
    UNREAL's reward prediction (Jaderberg et al. 2017, arXiv 1611.05397, section 3.2), which
    classifies it into three classes.

    Args:
        weight: Weight in L_joint.
        hidden: Units of the head's hidden layer.
    """

    columns: ClassVar[tuple[str, ...]] = ("rewards",)

    def __init__(self, weight: float = 1.0, hidden: int = 256):
        super().__init__(weight)
        self.hidden = check_hidden(hidden)

    def build_head(
        self, num_features: int, observation_space: gym.Space, action_space: gym.Space
    ) -> nn.Module:
        """From features to the reward."""
        return mlp(num_features, [self.hidden], 1)

    def terms(self, head: nn.Module | None, batch: Mapping[str, Tensor]) -> Tensor:
        """See the class."""
        assert head is not None
        predicted = head(batch["features"]).squeeze(-1)
        return 0.5 * (predicted - batch["rewards"]) ** 2
