"""The losses of Phasic Policy Gradient, as the paper writes them (arXiv 2009.04416).

Shapes: B states of a minibatch. Every function returns one term per state, `[B]`. The paper's
expectation E[.] is the mean of these terms over the minibatch; `learning/epoch.py` takes it over
all micro-batches and learners at once. Pure torch, no Ray.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Distribution(Protocol):
    """What the losses need from an action distribution; RLlib's `TorchDistribution` has it."""

    def kl(self, other: Distribution) -> Tensor:
        """KL[self, other], summed over action dimensions, `[B]`."""


def L_clip(logp: Tensor, logp_old: Tensor, A: Tensor, clip_param: float) -> Tensor:
    """PPO's clipped surrogate objective, to be maximised (section 2; Schulman et al. 2017, eq. 7).

    Args:
        logp: log pi(a|s) of the policy in training, `[B]`.
        logp_old: Log-probability recorded while acting, `[B]`.
        A: Advantage estimate, normalised over the whole rollout, `[B]`.
        clip_param: The clip range, epsilon.
    """
    r = torch.exp(logp - logp_old)
    return torch.min(r * A, r.clamp(1.0 - clip_param, 1.0 + clip_param) * A)


def L_KL(logp: Tensor, logp_old: Tensor, A: Tensor, kl_penalty: float) -> Tensor:
    """The surrogate with a KL penalty instead of clipping, to be maximised (section 3.5).

    KL[pi_old, pi] is estimated from the action taken, as 1/2 (log r)^2, like in OpenAI's code.
    Shapes as in `L_clip`.
    """
    log_r = logp - logp_old
    return torch.exp(log_r) * A - kl_penalty * 0.5 * log_r**2


def L_value(V: Tensor, V_targ: Tensor, vf_clip_param: float | None = None) -> Tensor:
    """1/2 (V - V_targ)^2, for the value function (eq. 2).

    `vf_clip_param` bounds the squared error, as in RLlib's PPO; the paper has no bound.
    """
    squared = (V - V_targ) ** 2
    return 0.5 * (squared if vf_clip_param is None else squared.clamp(max=vf_clip_param))


def L_aux(V_aux: Tensor, V_targ: Tensor) -> Tensor:
    """1/2 (V_aux - V_targ)^2 for the auxiliary head on the policy network (eq. 1).

    Together with `clone_KL`: L_joint = L_aux + beta_clone E[KL[pi_old, pi]].
    """
    return L_value(V_aux, V_targ)


def clone_KL(pi_old: Distribution, pi: Distribution) -> Tensor:
    """KL[pi_old, pi], exact over the action distribution (eq. 1).

    Args:
        pi_old: The policy right before the auxiliary phase.
        pi: The policy in training.
    """
    return pi_old.kl(pi)
