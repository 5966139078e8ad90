"""A network that costs next to nothing."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.columns import Columns

from benchmarks.bare import ACTIONS
from rllib_ppg.networks.rl_module import VF_AUX_PREDS, PPGTorchRLModule


class TinyModule(PPGTorchRLModule):
    """Policy and values of one pixel."""

    def setup(self) -> None:
        """A layer each."""
        self.pi, self.vf, self.vf_aux = (torch.nn.Linear(3, n) for n in (ACTIONS, 1, 1))

    def get_non_inference_attributes(self) -> list[str]:
        """What does not act."""
        return ["vf", "vf_aux"]

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self.pi(batch[Columns.OBS][:, 0, 0].float() / 255.0)}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        pixel = batch[Columns.OBS][:, 0, 0].float() / 255.0
        vf, vf_aux = self.vf(pixel).squeeze(-1), self.vf_aux(pixel).squeeze(-1)
        logits = self.pi(pixel)
        return {Columns.ACTION_DIST_INPUTS: logits, Columns.VF_PREDS: vf, VF_AUX_PREDS: vf_aux}
