"""The losses of Phasic Policy Gradient, as the paper writes them (arXiv 2009.04416).

Shapes: B states of a minibatch. Every function returns one term per state, `[B]`. The paper's
expectation E[.] is the mean of these terms over the minibatch; `learning/epoch.py` takes it over
all micro-batches and learners at once. Pure torch, no Ray.
"""

from __future__ import annotations

import math
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


def L_clip_decoupled(
    logp: Tensor,
    logp_old: Tensor,
    logp_prox: Tensor,
    A: Tensor,
    clip_param: float,
    importance_max: float | None,
) -> Tensor:
    """L_clip, clipped against a proximal policy (Hilton et al. 2021, arXiv 2110.00641, section 3).

    The importance ratio pi / pi_old stays that of the policy that acted. Where both are the same
    policy, this is `L_clip`.

    Args:
        logp: log pi(a|s) of the policy in training, `[B]`.
        logp_old: Log-probability recorded while acting, `[B]`.
        logp_prox: log pi_prox(a|s) of the proximal policy, without a gradient, `[B]`.
        A: Advantage estimate, `[B]`.
        clip_param: The clip range, epsilon.
        importance_max: Upper bound of the importance ratio, as in its authors' code; None for none.
    """
    logp_old = _bounded(logp_old, logp, importance_max)
    least = math.log1p(-clip_param) if clip_param < 1.0 else -math.inf
    log_r = (logp - logp_prox).clamp(least, math.log1p(clip_param))
    # In logarithms, since a ratio to an old policy can be huge.
    return torch.min(torch.exp(logp - logp_old) * A, torch.exp(log_r + logp_prox - logp_old) * A)


def L_KL_decoupled(
    logp: Tensor,
    logp_old: Tensor,
    logp_prox: Tensor,
    A: Tensor,
    kl_penalty: float,
    importance_max: float | None,
) -> Tensor:
    """L_KL, with the penalty on the distance from a proximal policy; as `L_clip_decoupled`."""
    logp_old = _bounded(logp_old, logp, importance_max)
    return torch.exp(logp - logp_old) * A - kl_penalty * 0.5 * (logp - logp_prox) ** 2


def _bounded(logp_old: Tensor, logp: Tensor, importance_max: float | None) -> Tensor:
    if importance_max is None:
        return logp_old
    return torch.max(logp_old, logp.detach() - math.log(importance_max))


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
