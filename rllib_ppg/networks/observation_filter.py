"""Observation normalisation: RLlib's MeanStdFilter, inside the networks.

Env runners send the moments of their observations, the driver adds them up, and the statistics
are part of the networks' state. So they reach env runners (training and evaluation), checkpoints
and exported modules with the weights, the replay list holds raw observations, and within an
iteration, its auxiliary phase included, they don't change.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FILTERS = ("NoFilter", "MeanStdFilter")
_CLIP = 10.0


class MeanStdFilter(nn.Module):
    """(observation - mean) / std, clipped to +-10; the identity but for the clipping at first."""

    mean: Tensor
    std: Tensor

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    def forward(self, obs: Tensor) -> Tensor:
        """`[B, ...]` observations, normalised."""
        return ((obs - self.mean) / self.std).clamp(-_CLIP, _CLIP)
