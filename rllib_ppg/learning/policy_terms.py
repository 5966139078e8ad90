"""The terms of the policy phase's losses for a micro-batch of B states."""

from __future__ import annotations

import math

from ray.rllib.core.columns import Columns

from rllib_ppg.learning.augmented_pass import augmented_pass
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
    logp_old, A = batch["logp_old"], batch["A"]
    log_r = (logp - logp_old).detach()
    metrics: Terms = {}
    if config.target_kl is not None:
        metrics["sampled_kl"] = (log_r.exp() - 1.0) - log_r
    if module.proximal is None:
        if config.kl_penalty > 0:
            objective = L_KL(logp, logp_old, A, config.kl_penalty)
        else:
            objective = L_clip(logp, logp_old, A, config.clip_param)
    else:
        logp_prox, r_max = module.proximal_logp(batch), config.importance_max
        if config.kl_penalty > 0:
            objective = L_KL_decoupled(logp, logp_old, logp_prox, A, config.kl_penalty, r_max)
        else:
            objective = L_clip_decoupled(logp, logp_old, logp_prox, A, config.clip_param, r_max)
        if r_max is not None:
            metrics["importance_clip_fraction"] = (log_r > math.log(r_max)).float()
        log_r = (logp - logp_prox).detach()
    return {
        "policy_loss": -objective,
        "entropy": pi.entropy(),
        "clip_fraction": ((log_r.exp() - 1.0).abs() > config.clip_param).float(),
        "approx_kl": 0.5 * log_r**2,
        **metrics,
    }


def drac_terms(module: TrainedModule, batch: Batch, out: Batch) -> Terms:
    """DrAC's G_pi and G_V for those of its two outputs that are trained; none without it.

    Raileanu et al. 2021 (arXiv 2006.12862), eq. 3 and 4.
    """
    if not module.augments_policy_phase:
        return {}
    changed = augmented_pass(module, batch, out, *out, aux_phase=False)
    terms = {}
    if Columns.ACTION_DIST_INPUTS in out:
        terms["augmentation_kl"] = clone_KL(changed["pi_detached"], changed["augmented_pi"])
    if Columns.VF_PREDS in out:
        difference = out[Columns.VF_PREDS].detach() - changed["augmented_vf_preds"]
        terms["augmentation_vf_loss"] = difference**2
    return terms
