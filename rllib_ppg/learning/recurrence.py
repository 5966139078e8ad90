"""The recurrent side of a module in training: its states, and what passes over sequences take.

Shapes: F frames, which make up C sequences; D numbers of a state; B states that are transitions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from torch import Tensor

from rllib_ppg.networks.recurrent_encoder import SEQUENCES
from rllib_ppg.networks.recurrent_state import (
    STATE_AFTER,
    VF_STATE_IN,
    StateLayout,
    flatten_states,
    state_layouts,
)
from rllib_ppg.networks.rl_module import PPGTorchRLModule
from rllib_ppg.networks.sequences import Sequences

# Further columns of a recurrent module's batch: frames of each sequence, `[C]` int64 on the CPU,
# and, if there are others, which frames are transitions, `[B]`. The columns `state_in` and
# `vf_state_in` are `[C, D]`; `obs` has all frames, every other column the transitions.
LENGTHS = "lengths"
TRANSITIONS = "transitions"


class Recurrence:
    """Passes over sequences.

    PPG's own modules take frames as they are (`PPGTorchRLModule`). Others take them by RLlib's
    contract, `[C, T, ...]`, with zeros after a sequence's end.

    Args:
        module: The RLModule.
        frames_at_once: Frames that go through an encoder at once.
        device: Where it is.

    Attributes:
        layouts: How its states are laid out, by the name of their column.
        initial: Its states at the start of an episode, `[D]`.
    """

    def __init__(self, module: Any, frames_at_once: int, device: torch.device):
        self.layouts: dict[str, StateLayout] = {}
        self.initial: dict[str, Tensor] = {}
        self._module = module
        self._is_own = isinstance(module, PPGTorchRLModule)
        self._frames_at_once = frames_at_once
        self._device = device
        self.begin_phase()

    def begin_phase(self) -> None:
        """Reads the initial states, which the weights may decide."""
        self.layouts = state_layouts(self._module)
        self.initial = {
            name: torch.from_numpy(layout.initial).to(self._device)
            for name, layout in self.layouts.items()
        }

    @property
    def has_vf_state(self) -> bool:
        """Whether the value network has a state of its own."""
        return VF_STATE_IN in self.layouts

    def forward(
        self, forward_train: Any, batch: Mapping[str, Tensor], outputs: Collection[str]
    ) -> dict[str, Tensor]:
        """Calls `forward_train` with what it takes.

        Args:
            forward_train: The module's method.
            batch: Columns of a micro-batch.
            outputs: Names of the outputs that it is to compute.

        Returns:
            The outputs of the transitions, `[B, ...]`, and the states after each sequence,
            `[C, D]`.
        """
        lengths = batch[LENGTHS].numpy()
        sequences = Sequences(lengths, self._device, self._frames_at_once)
        states = {name: x.unflatten(batch[name]) for name, x in self.layouts.items()}
        if self._is_own:
            out = forward_train({Columns.OBS: batch["obs"], SEQUENCES: sequences, **states})
        else:
            seq_lens = batch[LENGTHS].to(self._device)
            padded = {Columns.OBS: sequences.pad(batch["obs"]), Columns.SEQ_LENS: seq_lens}
            out = forward_train({**padded, **states})
        found: dict[str, Tensor] = {}
        for name in outputs:
            if name in out:
                frames = out[name] if self._is_own else sequences.unpad(out[name])
                found[name] = frames[batch[TRANSITIONS]] if TRANSITIONS in batch else frames
        for name in self.layouts:
            if (after := STATE_AFTER[name]) in out:
                found[after] = flatten_states(out[after])
        return found

    def placeholder(self) -> dict[str, Tensor]:
        """The columns that say which sequences there are, for a batch of one frame."""
        states = {name: x[None] for name, x in self.initial.items()}
        return {LENGTHS: torch.ones(1, dtype=torch.int64), **states}
