"""One flat gradient buffer for the parameters that a loss trains, reduced in one collective."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rllib_ppg.learning.collectives import LearnerCollective


def reached(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Those of `parameters` that `loss` has a gradient for, in their order; none if frozen."""
    trainable = [p for p in parameters if p.requires_grad]
    if not loss.requires_grad:
        return []
    grads = torch.autograd.grad(loss, trainable, allow_unused=True)
    return [p for p, g in zip(trainable, grads, strict=True) if g is not None]


class GradientBuffer:
    """The gradients of some parameters as views of one flat tensor, and the count of their states.

    `backward()` of a summed loss adds to the views; `reduce` makes them the gradient of the mean
    over all learners. All other parameters keep `grad=None`, so that no optimiser touches them.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], device: torch.device):
        self.parameters = list(parameters)
        numel = sum(p.numel() for p in self.parameters)
        dtype = self.parameters[0].dtype if self.parameters else torch.float32
        self._flat = torch.zeros(numel + 1, dtype=dtype, device=device)
        self.views: list[Tensor] = []
        start = 0
        for p in self.parameters:
            # In the parameter's own layout (channels-last weights): nothing is reordered.
            view = self._flat[start : start + p.numel()].as_strided(p.shape, p.stride(), start)
            self.views.append(view)
            start += p.numel()

    @property
    def gradient(self) -> Tensor:
        """The gradients of all parameters one after the other, `[numel]`; not a copy."""
        return self._flat[:-1]

    def attach(self) -> None:
        """Zeroes the buffer and makes it the parameters' `grad`."""
        self._flat.zero_()
        for p, view in zip(self.parameters, self.views, strict=True):
            p.grad = view

    def detach(self) -> None:
        """Takes the gradients off the parameters again."""
        for p in self.parameters:
            p.grad = None

    def reduce(self, count: int, peers: LearnerCollective) -> bool:
        """Divides the summed gradients of all learners by the number of their states.

        Args:
            count: number of states that this learner has summed over; may be 0.
            peers: all learners.

        Returns:
            Whether there is anything to step with: False, on all learners alike, for a minibatch
            without states (few rows because an env runner died, or all masked).
        """
        self._flat[-1] = count
        peers.sum(self._flat)
        self.gradient.div_(self._flat[-1].clamp(min=1))
        return bool(self._flat[-1] > 0)

    def not_finite(self) -> int | None:
        """The index of the first parameter with a NaN or infinite gradient, if there is one.

        After `reduce`, all learners get the same answer.
        """
        # A NaN or an infinity is in the sum, too, which is the cheaper question.
        if torch.isfinite(self._flat.sum()) or torch.isfinite(self._flat).all():
            return None
        return next(i for i, view in enumerate(self.views) if not torch.isfinite(view).all())
