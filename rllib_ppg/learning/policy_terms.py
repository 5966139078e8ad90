"""The terms of the policy phase's losses for a micro-batch of B states."""

from __future__ import annotations

import math
from typing import Any

from ray.rllib.core.columns import Columns
from torch import Tensor

from rllib_ppg.learning.augmented_pass import augmented_pass
from rllib_ppg.learning.epoch import SAMPLED_KL
from rllib_ppg.learning.trained_module import Batch, Terms, TrainedModule
from rllib_ppg.losses import L_KL, L_clip, L_clip_decoupled, L_KL_decoupled, clone_KL


def policy_terms(module: TrainedModule, batch: Batch, out: Batch) -> Terms:
    """The objective of the policy and its entropy, and metrics.

    Args:
        module: The module in training.
        batch: Columns of the micro-batch.
        out: What the networks gave for it.
    """
    config = module.config
    pi = module.dist_cls.from_logits(out[Columns.ACTION_DIST_INPUTS])
    logp = pi.logp(module.actions.unpack(batch["actions"]))
    logp_old = batch["logp_old"]
    logp_prox = None if module.proximal is None else module.proximal_logp(batch)
    terms = {
        "policy_loss": -_objective(config, logp, logp_old, logp_prox, batch["A"]),
        "entropy": pi.entropy(),
    }
    log_r = (logp - (logp_old if logp_prox is None else logp_prox)).detach()
    terms["clip_fraction"] = ((log_r.exp() - 1.0).abs() > config.clip_param).float()
    terms["approx_kl"] = 0.5 * log_r**2
    log_r = (logp - logp_old).detach()
    if config.target_kl is not None:
        terms[SAMPLED_KL] = (log_r.exp() - 1.0) - log_r
    if logp_prox is not None and config.importance_max is not None:
        terms["importance_clip_fraction"] = (log_r > math.log(config.importance_max)).float()
    return terms


def _objective(
    config: Any, logp: Tensor, logp_old: Tensor, logp_prox: Tensor | None, A: Tensor
) -> Tensor:
    """What the policy maximises, for the proximal policy and the penalty of the settings."""
    if logp_prox is None:
        if config.kl_penalty > 0:
            return L_KL(logp, logp_old, A, config.kl_penalty)
        return L_clip(logp, logp_old, A, config.clip_param)
    r_max = config.importance_max
    if config.kl_penalty > 0:
        return L_KL_decoupled(logp, logp_old, logp_prox, A, config.kl_penalty, r_max)
    return L_clip_decoupled(logp, logp_old, logp_prox, A, config.clip_param, r_max)


def drac_terms(module: TrainedModule, batch: Batch, out: Batch, *outputs: str) -> Terms:
    """DrAC's G_pi and G_V for those of the two outputs that are trained; none without DrAC.

    Raileanu et al. 2021 (arXiv 2006.12862), eq. 3 and 4.
    """
    if not module.augments_policy_phase:
        return {}
    changed = augmented_pass(module, batch, out, *outputs, aux_phase=False)
    terms = {}
    if Columns.ACTION_DIST_INPUTS in outputs:
        terms["augmentation_kl"] = clone_KL(changed["pi_detached"], changed["augmented_pi"])
    if Columns.VF_PREDS in outputs:
        difference = out[Columns.VF_PREDS].detach() - changed["augmented_vf_preds"]
        terms["augmentation_vf_loss"] = difference**2
    return terms
