"""Inverse dynamics: which action leads from a state to the next one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import gymnasium as gym
import torch
from gymnasium.spaces import Discrete
from torch import Tensor, nn
from torch.nn import functional as F

from rllib_ppg.aux_losses.aux_loss import AuxLoss, check_discrete
from rllib_ppg.aux_losses.heads import check_hidden, mlp


class InverseDynamicsLoss(AuxLoss):
    """-log p(a | s, s'): tells the action from the features of a state and of the next one.

    Pathak et al. 2017 (arXiv 1705.05363), eq. 2 and 3, for discrete actions.

    Args:
        weight: Weight in L_joint.
        hidden: Units of the head's hidden layer.
    """

    columns: ClassVar[tuple[str, ...]] = ("actions",)
    next_state: ClassVar[bool] = True

    def __init__(self, weight: float = 1.0, hidden: int = 256):
        super().__init__(weight)
        self.hidden = check_hidden(hidden)

    def check(self, observation_space: gym.Space, action_space: gym.Space) -> None:
        """Raises ValueError unless actions are Discrete."""
        check_discrete(action_space)

    def build_head(
        self, num_features: int, observation_space: gym.Space, action_space: gym.Space
    ) -> nn.Module:
        """From the features of both states to the logits of the actions."""
        assert isinstance(action_space, Discrete)
        return mlp(2 * num_features, [self.hidden], int(action_space.n))

    def terms(self, head: nn.Module | None, batch: Mapping[str, Tensor]) -> Tensor:
        """See the class."""
        assert head is not None
        logits = head(torch.cat([batch["features"], batch["next_features"]], dim=1))
        return F.cross_entropy(logits, batch["actions"].long(), reduction="none")
