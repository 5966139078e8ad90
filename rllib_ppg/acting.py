"""Drawing actions from a policy, in few tensor operations: this is done at every step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.core.distribution.torch.torch_distribution import TorchCategorical
from ray.rllib.utils.numpy import convert_to_numpy
from torch import Tensor


def draw(dist_cls: type, inputs: Tensor, *, mode: bool = False) -> tuple[Any, np.ndarray]:
    """Actions and their log-probability under the policy that they are drawn from.

    Args:
        dist_cls: RLlib's distribution class of the policy.
        inputs: its inputs, `[B, ...]`.
        mode: take the distribution's mode instead.

    Returns:
        Actions, arrays `[B, ...]` in the structure of the action space, and logp, `[B]`.
    """
    if dist_cls is TorchCategorical:
        logp = inputs.log_softmax(-1)
        if mode:
            actions = logp.argmax(-1, keepdim=True)
        else:
            # As torch.multinomial does it, without its checks: of exponential clocks with the
            # rates pi, clock a is the first to ring with probability pi(a).
            clocks = torch.empty_like(logp).exponential_()
            actions = (logp.exp() / clocks).argmax(-1, keepdim=True)
        return actions.squeeze(-1).cpu().numpy(), logp.gather(-1, actions).squeeze(-1).cpu().numpy()
    dist = dist_cls.from_logits(inputs)  # type: ignore[attr-defined]
    actions = dist.to_deterministic().sample() if mode else dist.sample()
    return convert_to_numpy(actions), convert_to_numpy(dist.logp(actions))
