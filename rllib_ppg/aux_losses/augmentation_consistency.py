"""Consistency of policy and value function under augmentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from rllib_ppg.aux_losses.aux_loss import AuxLoss


class AugmentationConsistencyLoss(AuxLoss):
    """KL[pi(.|s), pi(.|f(s))] + (V(s) - V(f(s)))^2, where pi(.|s) and V(s) are targets.

    G_pi and G_V of DrAC (Raileanu et al. 2021, arXiv 2006.12862, eq. 3 and 4), with f the setting
    `augmentation`. Both networks learn from it. Its authors' weight is 0.1.
    """

    augmented: ClassVar[bool] = True

    def terms(self, head: nn.Module | None, batch: Mapping[str, Any]) -> Tensor:
        """See the class."""
        difference = batch["vf_preds"].detach() - batch["augmented_vf_preds"]
        return batch["pi_detached"].kl(batch["augmented_pi"]) + difference**2
