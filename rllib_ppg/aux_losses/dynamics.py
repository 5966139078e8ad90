"""Dynamics: which transitions have happened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import gymnasium as gym
import torch
from gymnasium.spaces import Discrete
from torch import Tensor, nn
from torch.nn import functional as F

from rllib_ppg.aux_losses.aux_loss import AuxLoss
from rllib_ppg.aux_losses.heads import check_hidden, mlp


class DynamicsLoss(AuxLoss):
    """-log D(s, a, s') - 1/2 log(1 - D(s, a~, s')) - log(1 - D(s, a, s~)).

    D tells transitions that have happened from those with another action a~ or another next state
    s~ (Moon, Lee, Song 2022, "Rethinking Value Function Learning for Generalization in
    Reinforcement Learning", arXiv 2210.09960; the weights are those of its authors' code, DDCPG,
    which also has one weight for it, 1.0). There a~ and s~ come from the minibatch, here from the
    state's own row.

    Args:
        weight: Weight in L_joint.
        hidden: Units of each of the head's two hidden layers.
    """

    columns: ClassVar[tuple[str, ...]] = ("actions",)
    next_state: ClassVar[bool] = True
    false_transitions: ClassVar[bool] = True

    def __init__(self, weight: float = 1.0, hidden: int = 256):
        super().__init__(weight)
        self.hidden = check_hidden(hidden)

    def build_head(
        self, num_features: int, observation_space: gym.Space, action_space: gym.Space
    ) -> nn.Module:
        """From the features of both states and the action to the logit of D."""
        assert isinstance(action_space, Discrete)
        return mlp(2 * num_features + int(action_space.n), [self.hidden, self.hidden], 1)

    def terms(self, head: nn.Module | None, batch: Mapping[str, Tensor]) -> Tensor:
        """See the class."""
        assert head is not None
        s, s_next, s_false = (
            batch[name] for name in ("features", "next_features", "false_next_features")
        )
        num_actions = next(head.parameters()).shape[1] - 2 * s.shape[1]
        a, a_false = (
            F.one_hot(batch[name].long(), num_actions).to(s.dtype)
            for name in ("actions", "false_actions")
        )

        def logit(*parts: Tensor) -> Tensor:
            return head(torch.cat(parts, dim=1)).squeeze(-1)

        return (
            F.softplus(-logit(s, a, s_next))
            + 0.5 * F.softplus(logit(s, a_false, s_next))
            + F.softplus(logit(s, a, s_false))
        )
