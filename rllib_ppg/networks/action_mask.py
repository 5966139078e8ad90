"""Action masks: which actions of a state are allowed, as part of its observation.

Logits of forbidden actions are so low that their probability is exactly 0. So they are never drawn,
and have no part in log-probabilities, entropy and KL, nor a gradient. Where a mask forbids all, as
in states that nobody acts on, all actions are equally likely.

Shapes: B states, n actions, for MultiDiscrete actions those of all parts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rllib_ppg.envs.packed_observations import MASK

FORBIDDEN = -1e8  # the logit of a forbidden action


def masked(logits: Tensor, obs: Any) -> Tensor:
    """Logits `[B, n]` that allow what the observations' mask does; unchanged if there is none."""
    if not isinstance(obs, dict) or MASK not in obs:
        return logits
    return logits.masked_fill(obs[MASK] == 0, FORBIDDEN)


def uniform(masks: np.ndarray) -> Tensor:
    """Logits of a policy that draws all allowed actions equally often, of masks `[B, n]` bool."""
    return masked(torch.zeros(masks.shape), {MASK: torch.from_numpy(masks)})
