"""The end of an exported model: from the inputs of the action distribution to the env's actions.

Noise turns the most probable action into a drawn one: Gumbel noise on the logits of discrete
actions (the Gumbel-max trick), normal noise on the means of real ones. So a model that takes noise
as an input leaves the random numbers to its caller, and acts deterministically on zeros.

Shapes: B observations, A inputs of the distribution.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tree
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import (
    TorchCategorical,
    TorchDiagGaussian,
    TorchMultiCategorical,
    TorchMultiDistribution,
)
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils.spaces.space_utils import get_base_struct_from_space
from torch import Tensor, nn

from rllib_ppg.envs.box_actions import BoxActions

GUMBEL, NORMAL = "gumbel", "standard_normal"  # as numpy's generators call them


class DiscreteHead(nn.Module):
    """A Discrete or MultiDiscrete action.

    Attributes:
        sizes: Number of actions of each part.
        num_inputs: Inputs of the distribution.
        num_noise: Numbers of noise.
        noise: Their distribution.
    """

    start: Tensor
    noise = GUMBEL

    def __init__(self, space: gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        super().__init__()
        self._is_single = isinstance(space, gym.spaces.Discrete)
        self.sizes = [int(n) for n in np.ravel(space.n if self._is_single else space.nvec)]
        self.num_inputs = self.num_noise = sum(self.sizes)
        self.register_buffer("start", torch.from_numpy(np.asarray(space.start, space.dtype)))

    def forward(self, logits: Tensor, noise: Tensor | None) -> Tensor:
        """Actions `[B, ...]` for logits `[B, A]`."""
        if noise is not None:
            logits = logits + noise
        chosen = [part.argmax(-1) for part in logits.split(self.sizes, -1)]
        actions = chosen[0] if self._is_single else torch.stack(chosen, -1)
        return actions.to(self.start.dtype) + self.start


class BoxHead(nn.Module):
    """A Box action: see `DiscreteHead` for the attributes."""

    low: Tensor
    high: Tensor
    offset: Tensor
    span: Tensor
    noise = NORMAL

    def __init__(self, space: gym.spaces.Box, config: AlgorithmConfig):
        super().__init__()
        box = BoxActions(space)
        self._is_scaled = config.normalize_actions and box.is_scaled
        self._is_clipped = config.normalize_actions or config.clip_actions
        self.num_noise = int(np.prod(space.shape))
        self.num_inputs = 2 * self.num_noise
        for name in ("low", "high", "offset", "span"):
            self.register_buffer(name, torch.from_numpy(getattr(box, name)))

    def forward(self, inputs: Tensor, noise: Tensor | None) -> Tensor:
        """Actions `[B, ...]` for means and logarithms of standard deviations `[B, A]`."""
        actions, log_std = inputs.chunk(2, dim=-1)
        if noise is not None:
            actions = actions + log_std.exp() * noise
        if self._is_scaled:
            actions = self.offset + (actions + 1.0) * self.span / 2.0
        if self._is_clipped:
            actions = torch.minimum(torch.maximum(actions, self.low), self.high)
        return actions.to(self.low.dtype)


class ActionHeads(nn.Module):
    """The heads of all parts of an action, in the order of the distribution's inputs.

    Attributes:
        heads: The heads by the names of the model's outputs: `actions`, or `actions_KEY` for the
            parts of Tuple and Dict actions.
    """

    def __init__(self, space: gym.Space, config: AlgorithmConfig):
        super().__init__()
        self.heads = nn.ModuleDict({
            "_".join(map(str, (Columns.ACTIONS, *path))): (
                BoxHead(part, config) if isinstance(part, gym.spaces.Box) else DiscreteHead(part)
            )
            for path, part in tree.flatten_with_path(get_base_struct_from_space(space))
        })  # fmt: skip

    @property
    def num_noise(self) -> int:
        """Numbers of noise for an action."""
        return sum(head.num_noise for head in self._all)

    @property
    def _all(self) -> list[Any]:
        return list(self.heads.values())

    def split(self, inputs: Any) -> list[Any]:
        """The inputs `[B, A]` of each head, of torch's or numpy's."""
        ends = [int(end) for end in np.cumsum([head.num_inputs for head in self._all])]
        return [inputs[:, start:end] for start, end in pairwise([0, *ends])]

    def forward(self, inputs: Tensor, noise: Tensor | None = None) -> list[Tensor]:
        """Actions `[B, ...]` of each head; without noise, the most probable ones."""
        noises: Any = [None] * len(self._all)
        if noise is not None:
            noises = noise.split([head.num_noise for head in self._all], -1)
        each = zip(self._all, self.split(inputs), noises, strict=True)
        return [head(of_head, noise) for head, of_head, noise in each]


def action_heads(module: RLModule, config: AlgorithmConfig) -> ActionHeads | None:
    """The heads of a module's actions; None if it draws them in a way of its own."""
    dist_cls: Any = module.get_inference_action_dist_cls()
    usual = {
        gym.spaces.Discrete: TorchCategorical,
        gym.spaces.Box: TorchDiagGaussian,
        gym.spaces.MultiDiscrete: TorchMultiCategorical,
        gym.spaces.Tuple: TorchMultiDistribution,
        gym.spaces.Dict: TorchMultiDistribution,
    }
    # RLlib derives a class of its own for distributions with several parts.
    wanted = usual.get(type(module.action_space))
    if wanted is None or not (isinstance(dist_cls, type) and issubclass(dist_cls, wanted)):
        return None
    return ActionHeads(module.action_space, config)
