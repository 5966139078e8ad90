"""The proximal policy of PPG-EWMA (Hilton et al. 2021, arXiv 2110.00641, section 3)."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class ProximalPolicy:
    """An exponentially weighted moving average of a module's weights and buffers.

    After k steps of the policy it is the average of theta_0, ..., theta_k with the weights decay^k,
    ..., decay, 1 (algorithm 1 of the paper). With a decay of 0 it is the module itself.

    Args:
        module: The module in training.
        decay: beta_prox, at least 0 and below 1.

    Attributes:
        module: A copy of the module that has the average, in evaluation mode.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.module: Any = copy.deepcopy(module).eval()
        self._source = module
        self._decay = decay
        self._sum_of_weights = 0.0  # 0: it has not begun

    def begin(self) -> None:
        """Begins at the weights as they are, if it has not begun."""
        if self._sum_of_weights == 0.0:
            self.update()

    def update(self) -> None:
        """Takes in the weights after a gradient step of the policy."""
        self._sum_of_weights = self._decay * self._sum_of_weights + 1.0
        average, new = _tensors(self.module), _tensors(self._source)
        if self._sum_of_weights == 1.0:
            torch._foreach_copy_([*average.values()], [*new.values()])
            return
        numbers = [name for name, x in average.items() if x.is_floating_point()]
        torch._foreach_lerp_(
            [average[name] for name in numbers],
            [new[name] for name in numbers],
            1.0 / self._sum_of_weights,
        )

    def reset(self) -> None:
        """Makes it begin anew."""
        self._sum_of_weights = 0.0

    def get_state(self) -> dict[str, Any]:
        """The average and the sum of its weights."""
        tensors = {name: x.cpu().numpy().copy() for name, x in _tensors(self.module).items()}
        return {"sum_of_weights": self._sum_of_weights, "tensors": tensors}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `get_state` returned; what it lacks is as in the module in training."""
        self.reset()
        self.update()
        self._sum_of_weights = state["sum_of_weights"]
        for name, x in _tensors(self.module).items():
            if name in state["tensors"]:
                x.copy_(torch.from_numpy(np.array(state["tensors"][name])))


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: x.detach() for name, x in (*module.named_parameters(), *module.named_buffers())}
