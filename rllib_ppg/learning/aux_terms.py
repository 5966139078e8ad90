"""The terms of an auxiliary phase's losses for a micro-batch of B states."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.columns import Columns
from torch import Tensor, nn

from rllib_ppg.aux_losses.aux_loss import AuxLoss
from rllib_ppg.aux_losses.setting import VALUE
from rllib_ppg.learning.augmented_pass import augmented_pass
from rllib_ppg.learning.recurrence import TRANSITIONS
from rllib_ppg.learning.trained_module import Batch, Terms, TrainedModule


def metric_name(name: str) -> str:
    """The metric of the auxiliary loss with that name."""
    return "vf_aux_loss" if name == VALUE else f"{name}_loss"


def weights_of(module: TrainedModule) -> dict[str, float]:
    """The weight of each auxiliary loss, by its metric."""
    return {metric_name(name): loss.weight for name, loss in module.aux_losses.items()}


def aux_terms(module: TrainedModule, batch: Batch, out: Batch) -> Terms:
    """The terms of all auxiliary losses, `[B]` each, by metric.

    Args:
        module: The module in training.
        batch: Columns of the micro-batch.
        out: What the networks gave for it (`TrainedModule.aux_outputs`).

    Raises:
        ValueError: A loss returns something else than a term with a gradient for each state.
    """
    inputs: dict[str, Any] = {**batch, **out}
    if TRANSITIONS in batch:
        inputs["obs"] = batch["obs"][batch[TRANSITIONS]]
    if Columns.EMBEDDINGS in out:
        inputs["features"] = out[Columns.EMBEDDINGS]
    if "other_obs" in batch and (module.needs_next_state or module.needs_false_transitions):
        features = _with_others(module, batch, inputs["features"])
        for name in ("next", "false_next"):
            if f"{name}_at" in batch:
                inputs[f"{name}_features"] = features[batch[f"{name}_at"]]
    if module.needs_augmented_pass:
        inputs |= augmented_pass(
            module, batch, out, Columns.ACTION_DIST_INPUTS, Columns.VF_PREDS, aux_phase=True
        )
    heads = dict(getattr(module.module, "aux_heads", {}))
    terms = {}
    for name, loss in module.aux_losses.items():
        term = _terms(module, name, loss, heads.get(name), inputs)
        _check(name, loss, term, len(out[Columns.ACTION_DIST_INPUTS]))
        if loss.next_state:
            term = torch.where(batch["has_next"], term, 0.0)
        terms[metric_name(name)] = term
    return terms


def _with_others(module: TrainedModule, batch: Batch, features: Tensor) -> Tensor:
    """Features of the batch's states, followed by those of `other_obs`."""
    if not len(batch["other_obs"]):
        return features
    others = module.forward({"obs": batch["other_obs"]}, Columns.EMBEDDINGS, aux_phase=True)
    return torch.cat([features, others[Columns.EMBEDDINGS]])


def _terms(
    module: TrainedModule, name: str, loss: AuxLoss, head: nn.Module | None, inputs: dict[str, Any]
) -> Tensor:
    has_head = type(loss).build_head is not AuxLoss.build_head
    if has_head and not hasattr(module.module, "aux_losses"):
        raise ValueError(
            f"aux_losses[{name!r}] has a head, which {type(module.module).__name__} does not "
            "build: derive it from PPGTorchRLModule"
        )
    try:
        return loss.terms(head, inputs)
    except Exception as e:
        raise ValueError(f"aux_losses[{name!r}] raises {type(e).__name__}: {e}") from e


def _check(name: str, loss: AuxLoss, term: Tensor, count: int) -> None:
    if not isinstance(term, Tensor) or term.shape != (count,):
        got = list(term.shape) if isinstance(term, Tensor) else type(term).__name__
        raise ValueError(
            f"aux_losses[{name!r}] returns {got} for {count} states, and not a term for each"
        )
    if torch.is_grad_enabled() and loss.weight and not term.requires_grad and name != VALUE:
        raise ValueError(
            f"aux_losses[{name!r}] has no gradient: does it use the features, and is what it "
            "trains frozen?"
        )
