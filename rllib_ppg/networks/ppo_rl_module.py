"""The paper's network for RLlib's own PPO, whose default networks fail on uint8 images."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils.annotations import override
from torch import Tensor

from rllib_ppg.networks.action_mask import masked
from rllib_ppg.networks.rl_module import PPGTorchRLModule

_CHUNK_SIZE = 1024


class ImpalaPPOModule(PPGTorchRLModule):
    """PPG's network with `arch="shared"` and without the auxiliary head, for RLlib's PPO.

    Examples:
        >>> from ray.rllib.algorithms.ppo import PPOConfig
        >>> from ray.rllib.core.rl_module.rl_module import RLModuleSpec
        >>> spec = RLModuleSpec(module_class=ImpalaPPOModule)
        >>> config = PPOConfig().rl_module(rl_module_spec=spec)
    """

    model_config: dict[str, Any]

    @override(RLModule)
    def setup(self) -> None:
        if self.model_config.get("use_lstm"):
            raise ValueError("ImpalaPPOModule has no recurrent core, and use_lstm is set")
        self.model_config = {**self.model_config, "arch": "shared"}
        super().setup()
        del self.vf_aux  # with several learners, a parameter without a gradient is an error

    @override(InferenceOnlyAPI)
    def get_non_inference_attributes(self) -> list[str]:
        return ["vf"]

    @override(RLModule)
    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        obs = self._network_inputs(batch[Columns.OBS])
        features, _ = self._encode(self.pi_encoder, obs, batch)
        return {
            Columns.ACTION_DIST_INPUTS: masked(self.pi(features), obs),
            Columns.EMBEDDINGS: features,
        }

    @override(ValueFunctionAPI)
    def compute_values(self, batch: dict[str, Any], embeddings: Tensor | None = None) -> Tensor:
        """Values `[B]` of the observations.

        PPO's loss passes the features that `_forward_train` returned. The computation of advantages
        passes no features and a whole rollout. It needs no gradients, which would take 17 GB per
        layer for 65,536 frames, so the rollout is evaluated in parts without them.
        """
        if embeddings is not None:
            return self.vf(embeddings).squeeze(-1)
        with torch.no_grad():
            parts = batch[Columns.OBS].split(_CHUNK_SIZE)
            features = torch.cat([self._features(part) for part in parts])
            return self.vf(features).squeeze(-1)

    def _features(self, obs: Tensor) -> Tensor:
        features, _ = self._encode(self.pi_encoder, self._network_inputs(obs), {})
        return features
