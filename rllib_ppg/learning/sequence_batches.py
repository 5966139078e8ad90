"""States of a recurrent module, whose batches are whole segments.

A segment is cut into sequences where episodes begin. A sequence starts from the segment's state, or
where an episode begins from the initial one.

Shapes: S states in rows of T, in segments of L, K to a row; F frames, which make up C sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rllib_ppg.data.minibatches import segments_per_row, states_of_segments
from rllib_ppg.learning.batches import StateDataset
from rllib_ppg.learning.recurrence import LENGTHS, TRANSITIONS, Recurrence


def cut(
    begins: np.ndarray,
    segment_starts: np.ndarray,
    states: Mapping[str, Tensor],
    recurrence: Recurrence,
) -> dict[str, Tensor]:
    """The columns of a batch that say which sequences its frames make up.

    Args:
        begins: Whether each frame is the first of an episode, `[F]` bool.
        segment_starts: Which frames segments start with, ascending.
        states: The states at these starts, `[len(segment_starts), D]`, by column.
        recurrence: That of the module.
    """
    begins = begins.copy()
    begins[segment_starts] = True
    starts = np.flatnonzero(begins)
    from_state = torch.from_numpy(np.isin(starts, segment_starts, assume_unique=True))
    columns = {LENGTHS: torch.from_numpy(np.diff(starts, append=len(begins)))}
    for name, initial in recurrence.initial.items():
        column = initial.repeat(len(starts), 1)
        column[from_state.to(column.device)] = states[name]
        columns[name] = column
    return columns


class SegmentDataset(StateDataset):
    """A dataset that adds to each batch the sequences of its segments.

    Args:
        begins: Whether each state is the first of an episode, `[S]` bool.
        states: The states at the start of each segment, `[S / T * K, D]`, by column.
        T: Steps of a row.
        L: Steps of a segment.
        recurrence: That of the module.
        **kwargs: Those of `StateDataset`.
    """

    def __init__(
        self,
        begins: np.ndarray,
        states: Mapping[str, Tensor],
        T: int,
        L: int,
        recurrence: Recurrence,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._begins, self._states = begins, states
        self._T, self._L, self._recurrence = T, L, recurrence

    def _batch(self, index: np.ndarray) -> dict[str, Tensor]:
        T, L, K = self._T, self._L, segments_per_row(self._T, self._L)
        row, step = np.divmod(index, T)
        segments = np.unique(row * K + step // L)  # without those that have no transition
        starts = segments // K * T + segments % K * L
        frames = states_of_segments(starts, T, L)
        where = self._to_device(segments)
        states = {name: x.index_select(0, where) for name, x in self._states.items()}
        batch = self._columns_at(index) | self._observations_at(frames)
        batch |= cut(
            self._begins[frames], np.searchsorted(frames, starts), states, self._recurrence
        )
        if self.others:
            batch |= self._other_states(index, batch["obs"])
        if len(index) < len(frames):
            batch[TRANSITIONS] = self._to_device(np.searchsorted(frames, index))
        return batch
