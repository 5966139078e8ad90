"""A flat gradient buffer for the parameters that a loss trains, reduced in one collective."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ray.rllib.utils.torch_utils import clip_gradients
from torch import Tensor, nn

from rllib_ppg.learning.collectives import LearnerCollective

# A gradient for each parameter; None where a loss does not reach it.
Gradients = Sequence[Tensor | None]


def parameters_reached(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """The parameters that `loss` has a gradient for, in their order; none if all are frozen."""
    trainable = [p for p in parameters if p.requires_grad]
    if not loss.requires_grad:
        return []
    grads = torch.autograd.grad(loss, trainable, allow_unused=True)
    return [p for p, g in zip(trainable, grads, strict=True) if g is not None]


class GradientBuffer:
    """Gradients of some parameters as views of one flat tensor, with the count of their states.

    `backward` and `add` sum up the gradients of micro-batches, and `reduce` turns the sum into the
    gradient of the mean over all learners. All other parameters keep `grad=None`, so no optimiser
    moves them.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], device: torch.device):
        self.parameters = list(parameters)
        numel = sum(p.numel() for p in self.parameters)
        dtype = self.parameters[0].dtype if self.parameters else torch.float32
        # Behind the gradients: whether the loss is finite, and the number of states.
        self._flat = torch.zeros(numel + 2, dtype=dtype, device=device)
        self.views: list[Tensor] = []
        start = 0
        for p in self.parameters:
            # In the parameter's own layout (channels-last weights), so that nothing is reordered.
            view = self._flat[start : start + p.numel()].as_strided(p.shape, p.stride(), start)
            self.views.append(view)
            start += p.numel()

    @property
    def gradient(self) -> Tensor:
        """The gradients of all parameters, one after the other, `[numel]`; not a copy."""
        return self._flat[:-2]

    def attach(self) -> None:
        """Zeroes the buffer and makes it the parameters' `grad`."""
        self._flat.zero_()
        for p, view in zip(self.parameters, self.views, strict=True):
            p.grad = view

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a micro-batch's loss, without a copy; for one thread at a time."""
        if loss.requires_grad:  # not if all that it reaches is frozen
            loss.backward()

    def gradients_of(self, loss: Tensor) -> Gradients:
        """The gradients of a micro-batch's loss, for `add`."""
        if not loss.requires_grad:
            return [None] * len(self.parameters)
        return torch.autograd.grad(loss, self.parameters, allow_unused=True)

    def add(self, gradients: Gradients) -> None:
        """Adds what `gradients_of` returned."""
        for view, gradient in zip(self.views, gradients, strict=True):
            if gradient is not None:
                view.add_(gradient)

    def detach(self) -> None:
        """Sets the parameters' `grad` to None again."""
        for p in self.parameters:
            p.grad = None

    def reduce(self, count: int, loss: Tensor, collective: LearnerCollective) -> bool:
        """Sums the gradients of all learners and divides them by the number of their states.

        Args:
            count: Number of states that this learner has summed over; may be 0.
            loss: Sum of what it trains, of which only matters whether it is finite.
            collective: All learners.

        Returns:
            Whether there is a gradient to step with. For a minibatch without states it is False on
            all learners: an env runner died and there are few rows, or all states are masked.
        """
        self._flat[-2] = loss * 0  # NaN if it is not finite
        self._flat[-1] = count
        collective.sum(self._flat)
        self.gradient.div_(self._flat[-1].clamp(min=1))
        return bool(self._flat[-1] > 0)

    def is_finite(self) -> bool:
        """Whether the loss and all gradients are finite; after `reduce` on all learners alike."""
        # The sum is cheaper to check, and a NaN or an infinity is in it, too.
        return bool(torch.isfinite(self._flat.sum()) or torch.isfinite(self._flat).all())

    def first_not_finite(self) -> int | None:
        """Index of the first parameter with a NaN or infinite gradient; None if there is none."""
        bad = (i for i, view in enumerate(self.views) if not torch.isfinite(view).all())
        return next(bad, None)

    def clip(self, grad_clip: float | None, by: str) -> None:
        """Clips the gradients as RLlib does.

        Args:
            grad_clip: The bound; None and 0 both mean no bound in RLlib.
            by: "value", "norm" or "global_norm".
        """
        if not grad_clip:
            return
        # All in one tensor unless each has its own norm: in a small network calls cost the most.
        grads = self.views if by == "norm" else [self.gradient]
        clipped = dict(enumerate(grads))
        # The global norm is the norm of that one tensor, for which RLlib has a shorter way.
        by = "norm" if by == "global_norm" else by
        clip_gradients(clipped, grad_clip=grad_clip, grad_clip_by=by)
        for i, grad in enumerate(grads):
            if clipped[i] is not grad:
                grad.copy_(clipped[i])
