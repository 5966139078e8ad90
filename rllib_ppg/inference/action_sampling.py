"""Draws actions from a policy's distribution.

This runs at every step. The arrays are so small that the calls cost more than the arithmetic, so
the common distributions are drawn with a few calls of numpy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ray.rllib.core.distribution.torch.torch_distribution import (
    TorchCategorical,
    TorchDiagGaussian,
)
from ray.rllib.utils.numpy import convert_to_numpy
from torch import Tensor

_HALF_LOG_2PI = np.float32(0.5 * np.log(2 * np.pi))


def draw(dist_cls: type, inputs: Tensor, rng: np.random.Generator | None) -> tuple[Any, np.ndarray]:
    """Draws an action for each state.

    Args:
        dist_cls: RLlib's distribution class of the policy.
        inputs: Inputs of the distribution `[B, A]`.
        rng: Random numbers; None takes the mode instead. Distributions other than Categorical and
            DiagGaussian draw with torch's global generator.

    Returns:
        Actions (arrays `[B, ...]` in the structure of the action space) and their log-probability
        `[B]`.
    """
    if dist_cls is TorchCategorical:
        return _draw_categorical(inputs.cpu().numpy(), rng)
    if dist_cls is TorchDiagGaussian:
        return _draw_gaussian(inputs.cpu().numpy(), rng)
    dist = dist_cls.from_logits(inputs)  # type: ignore[attr-defined]
    actions = dist.to_deterministic().sample() if rng is None else dist.sample()
    return convert_to_numpy(actions), convert_to_numpy(dist.logp(actions))


def _draw_categorical(
    logits: np.ndarray, rng: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    z = logits - logits.max(-1, keepdims=True)
    cdf = np.exp(z).cumsum(-1)
    total = cdf[:, -1]
    if rng is None:
        actions = z.argmax(-1)
    else:
        # In float64, so that rounding u * total never reaches an action of probability 0.
        u = rng.random(len(z))
        actions = (cdf > (u * total)[:, None]).argmax(-1)
    logp = z[np.arange(len(z)), actions] - np.log(total)
    return actions, logp.astype(np.float32)


def _draw_gaussian(
    inputs: np.ndarray, rng: np.random.Generator | None
) -> tuple[np.ndarray, np.ndarray]:
    mean, log_std = np.split(inputs, 2, axis=-1)
    if rng is None:
        actions, eps = mean, np.zeros_like(mean)
    else:
        eps = rng.standard_normal(mean.shape, np.float32)
        actions = mean + np.exp(log_std) * eps
    return actions, -(0.5 * eps**2 + log_std + _HALF_LOG_2PI).sum(-1)
