"""The proximal policy of PPG-EWMA (Hilton et al. 2021, arXiv 2110.00641, section 3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class ProximalPolicy:
    """An exponentially weighted moving average of a module's weights and buffers.

    With W_k = 1 + decay + ... + decay^k, the average of theta_0, ..., theta_k after k steps is
    theta <- theta + (theta_k - theta) / W_k (algorithm 1).

    Args:
        module: The module in training.
        decay: beta_prox, at least 0 and below 1. With 0 it is the module itself.

    Attributes:
        module: A copy of the module that has the average, in evaluation mode.
    """

    def __init__(self, module: nn.Module, decay: float):
        self._source = module
        self._decay = decay
        self._average = AveragedModel(module, multi_avg_fn=self._move, use_buffers=True).eval()
        self.module: Any = self._average.module
        self.reset()

    def update(self) -> None:
        """Takes in the weights after a gradient step of the policy."""
        self._average.update_parameters(self._source)

    def reset(self) -> None:
        """Begins anew at the weights as they are."""
        self._average.n_averaged.zero_()
        self._average.update_parameters(self._source)

    def get_state(self) -> dict[str, np.ndarray]:
        """Its weights and buffers, and the number of those that it is the average of."""
        return {name: x.cpu().numpy().copy() for name, x in self._average.state_dict().items()}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Restores what `get_state` returned."""
        tensors = {name: torch.from_numpy(np.array(x)) for name, x in state.items()}
        self._average.load_state_dict(tensors)

    def _move(self, average: Any, new: Any, count: Any) -> None:
        """Moves tensors of one type, `average`, towards `new`."""
        if not average[0].is_floating_point():  # a counter
            torch._foreach_copy_(average, new)
            return
        steps = int(self._average.n_averaged)  # on the CPU, where `count` may not be
        weight = (1.0 - self._decay) / (1.0 - self._decay ** (steps + 1))  # 1 / W_k
        torch._foreach_lerp_(average, new, weight)
