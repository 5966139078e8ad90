"""What an auxiliary loss is, for the shipped ones and for your own.

Shapes: B states of a micro-batch, F features of the policy encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
from torch import Tensor, nn

from rllib_ppg.setting_values import format_value, is_number

# What a loss can ask for of each state, beside its features (`AuxLoss.columns`).
REPLAY_COLUMNS = ("V_targ", "V", "A", "actions", "rewards")


class AuxLoss:
    """A loss on the policy encoder's features, trained in the auxiliary phase.

    Derive a class, and give it to `PPGConfig.training(aux_losses={"name": {"class": ...}})`. It may
    override all that is below. Its `__init__` passes `weight` on; other arguments are settings.

    Attributes:
        columns: What it needs of each state, of `REPLAY_COLUMNS`. Only these are stored.
        next_state: Whether it needs the features of the next state.
        presleep_values: Whether it needs V(s) from before the auxiliary phase.
        false_transitions: Whether it needs another action and the features of another next state.
        augmented: Whether it needs what the networks give for augmented observations.
        weight: Its weight in L_joint.

    Args:
        weight: At least 0.

    Raises:
        ValueError: The weight is negative, infinite or NaN.
    """

    columns: ClassVar[tuple[str, ...]] = ()
    next_state: ClassVar[bool] = False
    presleep_values: bool = False
    false_transitions: ClassVar[bool] = False
    augmented: ClassVar[bool] = False

    def __init__(self, weight: float = 1.0):
        if not (is_number(weight) and weight >= 0):
            raise ValueError(f"weight is a non-negative number, not {format_value(weight)}")
        self.weight = float(weight)

    def check(self, observation_space: gym.Space, action_space: gym.Space) -> None:
        """Raises ValueError if the loss can't be computed for an env with these spaces."""
        if self.false_transitions:
            check_discrete(action_space)

    def build_head(
        self, num_features: int, observation_space: gym.Space, action_space: gym.Space
    ) -> nn.Module | None:
        """A network on top of the features, which is trained with the policy encoder.

        Args:
            num_features: F.
            observation_space: Space of an observation, as the networks get it.
            action_space: Space of an action.

        Returns:
            The network; None if the loss needs none.
        """
        return None

    def terms(self, head: nn.Module | None, batch: Mapping[str, Any]) -> Tensor:
        """The loss of each state.

        Args:
            head: What `build_head` returned.
            batch: Do not write to it. It has `features` `[B, F]`, the `columns` `[B, ...]`; with
                `next_state`, `next_features` `[B, F]` and `has_next` `[B]` bool. The last state of
                a row and of an episode has no next one; what is in its `next_features` means
                nothing. With `presleep_values`, `V_presleep` `[B]`. With `false_transitions`,
                `false_actions` `[B]` and `false_next_features` `[B, F]`
                (`draw_false_transitions`). With `augmented`, `vf_preds` and `augmented_vf_preds`
                `[B]`, and RLlib's distributions `pi_detached` and `augmented_pi`.

        Returns:
            A term for each state, `[B]`. L is their mean over the minibatch; with `next_state`, a
            state without a next one has a term of 0.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method `terms`")


def check_discrete(action_space: gym.Space) -> None:
    """Raises ValueError unless actions are Discrete, and at least two."""
    if not isinstance(action_space, gym.spaces.Discrete) or action_space.n < 2:
        raise ValueError(f"it needs Discrete actions, and this env has {action_space}")
