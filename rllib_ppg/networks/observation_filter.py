"""Observation normalisation: RLlib's MeanStdFilter as a layer of the networks.

Env runners send the moments of their observations, and the driver adds them up. The statistics are
part of the networks' state, so env runners, checkpoints and exported modules get them together with
the weights. They do not change within an iteration and its auxiliary phase. The replay list holds
raw observations.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FILTERS = ("NoFilter", "MeanStdFilter")
_CLIP = 10.0


class MeanStdFilter(nn.Module):
    """(observation - mean) / std, clipped to +-10. At first, mean is 0 and std is 1."""

    mean: Tensor
    std: Tensor

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    def forward(self, obs: Tensor) -> Tensor:
        """Normalised observations `[B, ...]`."""
        return ((obs - self.mean) / self.std).clamp(-_CLIP, _CLIP)
