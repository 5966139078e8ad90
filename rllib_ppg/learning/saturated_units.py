"""How many tanh units of the policy's encoder are saturated.

A saturated unit hardly learns: beyond ±0.97, a tanh's derivative is below 0.06.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from torch import Tensor, nn

_SATURATED = 0.97


class SaturatedUnits:
    """Counts, within its context, the outputs of the encoder's tanh units that lie beyond ±0.97.

    Args:
        module: An RLModule. One without a `pi_encoder`, or without tanh units, has nothing to
            count.
    """

    def __init__(self, module: nn.Module):
        encoder = getattr(module, "pi_encoder", None)
        parts = encoder.modules() if isinstance(encoder, nn.Module) else ()
        self._units = [part for part in parts if isinstance(part, nn.Tanh)]
        self._handles: list[Any] = []
        self._beyond: list[Tensor] = []  # so that a GPU does not wait for each pass
        self._all = 0

    @property
    def counts(self) -> tuple[float, float]:
        """How many outputs lie beyond, and how many there are."""
        return float(sum(self._beyond)), float(self._all)

    def __enter__(self) -> SaturatedUnits:
        self._handles = [unit.register_forward_hook(self._count) for unit in self._units]
        return self

    def __exit__(
        self,
        error: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _count(self, unit: nn.Module, inputs: Any, output: Tensor) -> None:
        self._beyond.append((output.abs() > _SATURATED).sum())
        self._all += output.numel()
