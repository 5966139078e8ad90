"""The encoder of observations with several parts: one encoder for each, features side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.models.base import ENCODER_OUT, Encoder
from ray.rllib.core.models.configs import ModelConfig
from ray.rllib.core.models.torch.base import TorchModel
from ray.rllib.utils.annotations import override
from torch import nn


@dataclass
class PartsEncoderConfig(ModelConfig):
    """Describes the encoder: those of its parts by name."""

    encoders: Mapping[str, ModelConfig] = field(default_factory=dict)

    @property
    @override(ModelConfig)
    def output_dims(self) -> tuple[int]:
        return (sum(of_part.output_dims[0] for of_part in self.encoders.values()),)

    @override(ModelConfig)
    def build(self, framework: str = "torch") -> PartsEncoder:
        return PartsEncoder(self)


class PartsEncoder(TorchModel, Encoder):
    """{"obs": {name: `[B, ...]`}} -> {ENCODER_OUT: features `[B, F]`}."""

    def __init__(self, config: PartsEncoderConfig):
        TorchModel.__init__(self, config)
        Encoder.__init__(self, config)
        self.parts = nn.ModuleDict({
            name: of_part.build(framework="torch") for name, of_part in config.encoders.items()
        })  # fmt: skip

    @override(Encoder)
    def _forward(self, inputs: dict, **kwargs: object) -> dict:
        parts = inputs[Columns.OBS]
        features = [
            encoder({Columns.OBS: parts[name]})[ENCODER_OUT] for name, encoder in self.parts.items()
        ]
        return {ENCODER_OUT: torch.cat(features, dim=-1)}
