"""How many tanh units of the policy's encoder are saturated.

A saturated unit hardly learns: beyond ±0.97, a tanh's derivative is below 0.06.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from rllib_ppg.data.replay import ReplayBlock
from rllib_ppg.learning.trained_module import TrainedModule

SATURATED = 0.97
_EVERY = 16  # transitions of a row, so that the pass is short


class SaturatedUnits:
    """Counts the outputs of the encoder's tanh units that lie beyond ±0.97.

    A row's first transition is counted, and each 16th after it.

    Args:
        module: The module of the policy. One without a `pi_encoder`, without tanh units or with a
            memory has nothing to count.
    """

    def __init__(self, module: TrainedModule):
        self._module = module
        encoder = getattr(module.module, "pi_encoder", None)
        self._units: list[nn.Module] = []
        if isinstance(encoder, nn.Module) and module.recurrence is None:
            self._units = [part for part in encoder.modules() if isinstance(part, nn.Tanh)]
        self._beyond: list[Tensor] = []  # so that a GPU does not wait for each pass
        self._all: list[int] = []

    @property
    def counts(self) -> tuple[float, float]:
        """How many outputs lie beyond, and how many were counted."""
        return float(sum(self._beyond)), float(sum(self._all))

    def add(self, block: ReplayBlock) -> None:
        """Counts the outputs for transitions of a block."""
        counted = block.valid & (block.valid.cumsum(axis=1) % _EVERY == 1)
        if not self._units or not counted.any():
            return
        handles = [unit.register_forward_hook(self._count) for unit in self._units]
        try:
            self._module.action_dist_inputs(block.obs[counted])
        finally:
            for handle in handles:
                handle.remove()

    def _count(self, unit: nn.Module, inputs: Any, output: Tensor) -> None:
        self._beyond.append((output.abs() > SATURATED).sum())
        self._all.append(output.numel())
