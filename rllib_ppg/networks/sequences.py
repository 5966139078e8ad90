"""Sequences of different lengths in one batch, as recurrent networks take them.

Shapes: F frames, which make up C sequences, one after the other.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence


class Sequences:
    """How F frames make up C sequences.

    Args:
        lengths: Frames of each sequence, `[C]`, at least 1; a number if all have as many.
        device: Where the frames are.
        frames_at_once: Frames that go through an encoder at once; None for all.
    """

    def __init__(
        self,
        lengths: np.ndarray | int,
        device: torch.device | str = "cpu",
        frames_at_once: int | None = None,
    ):
        self.frames_at_once = frames_at_once
        self._lengths = np.asarray(lengths)
        self._same = int(self._lengths.flat[0]) if np.ptp(lengths) == 0 else None
        self._device = device

    def run(self, core: nn.RNNBase, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Runs torch's recurrent layers over the sequences.

        Args:
            core: An LSTM or a GRU with `batch_first`.
            x: Inputs `[F, D]`.
            states: States at each sequence's start, `[layers, C, H]` each.

        Returns:
            Outputs `[F, H]`, followed by the states after each sequence.
        """
        state = states if len(states) > 1 else states[0]
        if self._same is not None:
            y, state = core(x.unflatten(0, (-1, self._same)), state)
            y = y.flatten(0, 1)
        else:
            frames, places, sizes, order, ranks = self._packing
            packed, state = core(PackedSequence(x[frames], sizes, order, ranks), state)
            y = packed.data[places]
        return y, *(state if isinstance(state, tuple) else (state,))

    def pad(self, x: Tensor) -> Tensor:
        """`[F, ...]` as `[C, longest, ...]`, with zeros after a sequence's end."""
        padded = x.new_zeros((*self._is_frame.shape, *x.shape[1:]))
        padded[self._is_frame] = x
        return padded

    def unpad(self, x: Tensor) -> Tensor:
        """The frames `[F, ...]` of what `pad` returned."""
        return x[self._is_frame]

    @cached_property
    def _is_frame(self) -> Tensor:
        steps = np.arange(self._lengths.max())
        return torch.from_numpy(steps < self._lengths[:, None]).to(self._device)

    @cached_property
    def _packing(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The frames as torch packs them: step by step, the longest sequences first.

        Returns:
            For each packed frame, its place here; the reverse; sequences of each step (on the
            CPU); for each packed sequence, its place here; the reverse.
        """
        order = np.argsort(-self._lengths, kind="stable")
        lengths = self._lengths[order]
        starts = (np.cumsum(self._lengths) - self._lengths)[order]
        steps = np.arange(lengths[0])[:, None]
        lasts = steps < lengths
        frames = (starts + steps)[lasts]
        sizes = torch.from_numpy(lasts.sum(1))
        index = [frames, np.argsort(frames), order, np.argsort(order)]
        frames_, places, order_, ranks = (torch.from_numpy(x).to(self._device) for x in index)
        return frames_, places, sizes, order_, ranks
