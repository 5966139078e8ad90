"""The one object that acts, used by env runners, evaluation, `load_policy` and the ONNX export.

Shapes: B observations.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule
from torch import Tensor

from rllib_ppg import ray_private
from rllib_ppg.envs.spaces import Actions
from rllib_ppg.inference.action_sampling import draw
from rllib_ppg.networks.recurrent_state import (
    STATE_IN,
    STATE_OUT,
    StateLayout,
    flatten_states,
    state_layouts,
)


class Policy:
    """A module with what it takes to act: random numbers, and how actions are given to the env.

    Args:
        module: The networks, in evaluation mode.
        rng: Random numbers for sampled actions. Tuple and Dict actions are drawn with torch's
            global generator instead.
        normalize_actions: Whether the policy acts in [-1, 1], and Box actions are scaled to the
            env's bounds.
        clip_actions: Whether Box actions that are not scaled are clipped to these bounds.
    """

    def __init__(
        self,
        module: RLModule,
        rng: np.random.Generator,
        *,
        normalize_actions: bool = True,
        clip_actions: bool = False,
    ):
        self.module = module
        self.rng = rng
        self.actions = Actions(module.action_space)
        self._device = next((p.device for p in module.parameters()), torch.device("cpu"))
        self._for_env = {"normalized": normalize_actions, "clip": clip_actions}

    @cached_property
    def _layout(self) -> StateLayout | None:
        return state_layouts(self.module).get(STATE_IN)

    @property
    def initial_state(self) -> np.ndarray:
        """Its state at the start of an episode, `[D]` float32; D is 0 without a memory."""
        if self._layout is None:
            return np.empty(0, np.float32)
        return state_layouts(self.module)[STATE_IN].initial

    @torch.no_grad()
    def act(
        self, obs: np.ndarray, states: np.ndarray, explore: bool = True
    ) -> tuple[Any, np.ndarray, np.ndarray]:
        """Chooses an action for each observation.

        Args:
            obs: Observations `[B, ...]` as the networks take them.
            states: The policy's states `[B, D]`.
            explore: Whether to sample actions, or to take the most probable ones.

        Returns:
            The actions (arrays `[B, ...]` in the structure of the action space), their
            log-probability `[B]` and the next states `[B, D]`.
        """
        inputs, states = self.action_dist_inputs(obs, states, explore)
        return *self.draw(inputs, explore), states

    def action_dist_inputs(
        self, obs: np.ndarray, states: np.ndarray, explore: bool
    ) -> tuple[Tensor, np.ndarray]:
        """Inputs of the action distribution `[B, A]` for observations, and the next states."""
        batch: dict[str, Any] = {Columns.OBS: torch.from_numpy(obs).to(self._device)}
        forward = ray_private.forward_exploration if explore else ray_private.forward_inference
        if self._layout is None:
            return forward(self.module, batch)[Columns.ACTION_DIST_INPUTS], states
        # RLlib's contract for modules with a state: sequences, here of one step.
        batch[Columns.OBS] = batch[Columns.OBS][:, None]
        batch[STATE_IN] = self._layout.unflatten(torch.from_numpy(states).to(self._device))
        out = forward(self.module, batch)
        inputs = out[Columns.ACTION_DIST_INPUTS][:, 0]
        return inputs, flatten_states(out[STATE_OUT]).cpu().numpy()

    def draw(self, inputs: Tensor, explore: bool) -> tuple[Any, np.ndarray]:
        """Actions and their log-probability, from inputs of the action distribution `[B, A]`."""
        if explore:
            return draw(self.module.get_exploration_action_dist_cls(), inputs, self.rng)
        return draw(self.module.get_inference_action_dist_cls(), inputs, None)

    def for_env(self, actions: Any) -> Any:
        """The policy's actions, a batch or a single one, as the env takes them."""
        return self.actions.for_env(actions, **self._for_env)
