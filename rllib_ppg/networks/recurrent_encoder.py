"""An encoder with a memory: any encoder of single observations, followed by an LSTM or a GRU.

Shapes: F frames, which make up C sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.models.base import ENCODER_OUT, Encoder
from ray.rllib.core.models.configs import ModelConfig
from ray.rllib.core.models.torch.base import TorchModel
from ray.rllib.models.utils import get_initializer_fn
from ray.rllib.utils.annotations import override
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rllib_ppg.networks.recurrent_state import STATE_IN, STATE_OUT
from rllib_ppg.networks.sequences import Sequences

SEQUENCES = "sequences"  # in a batch: how its frames make up sequences

# On a CPU, up to so many parts of a minibatch keep their layers for the backward pass. A part is 32
# frames of 64 x 64; with the paper's network, all take 0.6 GB. A part on a GPU takes 2.5 GB.
_KEPT_PARTS = 8

# The cells by name: torch's layer, and the names of its states.
CELLS: dict[str, tuple[type[nn.LSTM] | type[nn.GRU], tuple[str, ...]]] = {
    "lstm": (nn.LSTM, ("h", "c")),
    "gru": (nn.GRU, ("h",)),
}


@dataclass
class RecurrentEncoderConfig(ModelConfig):
    """Describes the encoder, by the entries of RLlib's `model_config`."""

    tokenizer: ModelConfig = field(default_factory=ModelConfig)
    model_config: Mapping[str, Any] = field(default_factory=dict)

    @property
    @override(ModelConfig)
    def output_dims(self) -> tuple[int]:
        return (self.model_config["lstm_cell_size"],)

    @override(ModelConfig)
    def build(self, framework: str = "torch") -> RecurrentEncoder:
        return RecurrentEncoder(self)


class RecurrentEncoder(TorchModel, Encoder):
    """{"obs": frames, "state_in", "sequences"} -> {ENCODER_OUT: `[F, H]`, "state_out"}.

    States are RLlib's: {"h": `[C, 1, H]`, "c": `[C, 1, H]`}.
    """

    def __init__(self, config: RecurrentEncoderConfig):
        TorchModel.__init__(self, config)
        Encoder.__init__(self, config)
        self.tokenizer = config.tokenizer.build(framework="torch")
        cell, self._state_names = CELLS[config.model_config["recurrent_cell"]]
        (num_features,) = config.tokenizer.output_dims
        (size,) = config.output_dims
        self.core: nn.RNNBase = cell(num_features, size, batch_first=True)
        for kind in ("kernel", "bias"):
            initializer = config.model_config[f"lstm_{kind}_initializer"]
            if initializer is not None:
                initialize = get_initializer_fn(initializer, framework="torch")
                kwargs = config.model_config[f"lstm_{kind}_initializer_kwargs"] or {}
                for name, parameter in self.core.named_parameters():
                    if name.startswith("weight" if kind == "kernel" else "bias"):
                        initialize(parameter, **kwargs)

    @override(Encoder)
    def get_initial_state(self) -> dict[str, Tensor]:
        return {name: torch.zeros(1, self.core.hidden_size) for name in self._state_names}

    @override(Encoder)
    def _forward(self, inputs: dict, **kwargs: object) -> dict:
        sequences: Sequences = inputs[SEQUENCES]
        features = self._tokens(inputs[Columns.OBS], sequences.frames_at_once)
        states = [inputs[STATE_IN][name].transpose(0, 1) for name in self._state_names]
        # In float32 also where encoders compute in bfloat16: rounding adds up over the steps.
        with torch.autocast(features.device.type, enabled=False):
            dtype = next(self.core.parameters()).dtype
            y, *states = sequences.run(
                self.core, features.to(dtype), tuple(s.contiguous().to(dtype) for s in states)
            )
        state_out = {
            name: s.transpose(0, 1) for name, s in zip(self._state_names, states, strict=True)
        }
        return {ENCODER_OUT: y, STATE_OUT: state_out}

    def _tokens(self, obs: Any, frames_at_once: int | None) -> Tensor:
        """Features of the frames, `[F, D]`.

        In parts. If there are many, only the frames are kept for the backward pass, which computes
        each part's layers again.
        """
        parts = _split(obs, frames_at_once)
        if len(parts) == 1:
            return self._tokens_of(obs)
        on_cpu = next(self.parameters()).device.type == "cpu"
        if on_cpu and len(parts) <= _KEPT_PARTS:
            return torch.cat([self._tokens_of(part) for part in parts])
        return torch.cat([checkpoint(self._tokens_of, part, use_reentrant=False) for part in parts])

    def _tokens_of(self, obs: Any) -> Tensor:
        return self.tokenizer({Columns.OBS: obs})[ENCODER_OUT]


def _split(obs: Any, size: int | None) -> list[Any]:
    """Observations, or a dict of their parts, in parts of at most `size` frames."""
    if size is None:
        return [obs]
    if not isinstance(obs, dict):
        return list(obs.split(size))
    split = {name: x.split(size) for name, x in obs.items()}
    return [dict(zip(split, parts, strict=True)) for parts in zip(*split.values(), strict=True)]
