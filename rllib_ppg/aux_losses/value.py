"""Value distillation, the paper's auxiliary loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from rllib_ppg.aux_losses.aux_loss import AuxLoss
from rllib_ppg.losses import L_aux
from rllib_ppg.setting_values import format_value


class ValueLoss(AuxLoss):
    """L_aux = 1/2 (V_aux - target)^2 (Cobbe et al. 2020, eq. 1).

    V_aux is the module's own head `vf_aux`, which is there if this loss is among the losses.

    Args:
        weight: Weight in L_joint.
        target: "V_targ", or "presleep": the value function's V(s) when the phase begins, as DNA
            distils it (Aitchison and Sweetser 2022, arXiv 2206.10027, eq. 5).
        center: Whether V_aux learns how the target differs from its mean over the phase. If not,
            V_aux is the target itself, as in the paper.

    Attributes:
        offset: What is subtracted from the target: its mean over the open phase, or 0.

    Raises:
        ValueError: There is no such target.
    """

    columns: ClassVar[tuple[str, ...]] = ("V_targ",)

    def __init__(self, weight: float = 1.0, target: str = "V_targ", center: bool = False):
        super().__init__(weight)
        if target not in ("V_targ", "presleep"):
            raise ValueError(f"target is 'V_targ' or 'presleep', not {format_value(target)}")
        if not isinstance(center, bool):
            raise ValueError(f"center is true or false, not {format_value(center)}")
        self.presleep_values = target == "presleep"
        self.target = "V_presleep" if self.presleep_values else "V_targ"
        self.center = center
        self.offset = 0.0

    def terms(self, head: nn.Module | None, batch: Mapping[str, Tensor]) -> Tensor:
        """See the class."""
        return L_aux(batch["vf_aux_preds"], batch[self.target] - self.offset)
