"""The error of a step whose loss or gradient is NaN or infinite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rllib_ppg.learning.gradients import GradientBuffer
from rllib_ppg.learning.trained_module import TrainedModule


def not_finite_error(
    module: TrainedModule, buffer: GradientBuffer, terms: Sequence[str], totals: Tensor, place: str
) -> FloatingPointError:
    """Says what is not finite, where, and what would help.

    Args:
        module: The module in training.
        buffer: Its gradients, after `reduce`.
        terms: Names of the terms that are trained.
        totals: Their sums over this learner's states so far, in the same order.
        place: Name of the minibatch.
    """
    bad = next(
        ((t, x.item()) for t, x in zip(terms, totals, strict=True) if not x.isfinite()), None
    )
    parameter = buffer.first_not_finite()
    if parameter is not None:
        names = {p: name for name, p in module.module.named_parameters()}
        what = f"NaN or infinite gradient of {names[buffer.parameters[parameter]]} in the {place}"
        if bad is not None:
            what += f", where {bad[0]} is {bad[1]}"
    elif bad is not None:
        what = f"{bad[0]} is {bad[1]} in the {place}"
    else:
        what = f"a loss of another learner is NaN or infinite in the {place}"
    advice = _advice(module.config, "" if bad is None else bad[0], place)
    return FloatingPointError(f"{what}; the weights are as they were before this step: {advice}")


def _advice(config: Any, term: str, place: str) -> str:
    lr = "aux_lr" if place.startswith("auxiliary") else "lr"
    if term.startswith("vf_"):
        if config.normalize_rewards:
            return f"scale the rewards in the env, or lower {lr}"
        return f"set normalize_rewards=True, scale the rewards in the env, or lower {lr}"
    if term.removesuffix("_loss") in config.aux_losses:
        return f"check that loss, lower its weight in aux_losses, or lower {lr}"
    return f"lower {lr}, or set grad_clip"
