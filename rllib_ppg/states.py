"""A learner's states, gathered by number from several arrays of rows into one batch of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class Arrays(Protocol):
    """A column's arrays, one a block of rows, `[S_k, ...]`; they may be opened on demand."""

    def __getitem__(self, k: int) -> np.ndarray: ...


def flat(array: np.ndarray) -> np.ndarray:
    """`[n, T, ...]` rows as `[n * T, ...]` states; a view."""
    return array.reshape(-1, *array.shape[2:])


class States:
    """Columns over the same states, which are numbered through all blocks.

    Args:
        columns: name -> arrays, one a block.
        valid: `[S_k]` bool, one array a block: which states are transitions.
        device: of the tensors handed out.
    """

    def __init__(self, columns: Mapping[str, Arrays], valid: Sequence[np.ndarray], device: Any):
        self._columns = columns
        self._valid = np.concatenate(valid)
        self._starts = np.cumsum([0, *map(len, valid)])
        self._device = device

    def only_valid(self, index: np.ndarray) -> np.ndarray:
        """Those of the numbers that are transitions."""
        return index[self._valid[index]]

    def batch(self, index: np.ndarray) -> dict[str, Tensor]:
        """The states with these numbers, ascending; `[len(index), ...]` a column."""
        cuts = np.searchsorted(index, self._starts)
        parts = [
            (k, index[a:b] - self._starts[k]) for k, (a, b) in enumerate(pairwise(cuts)) if a < b
        ]
        return {
            name: self._tensor([arrays[k][local] for k, local in parts])
            for name, arrays in self._columns.items()
        }

    def placeholder(self) -> dict[str, Tensor]:
        """A batch of one state of zeros, with every column's shape and dtype."""
        return {
            name: self._tensor([np.zeros((1, *arrays[0].shape[1:]), arrays[0].dtype)])
            for name, arrays in self._columns.items()
        }

    def _tensor(self, arrays: list[np.ndarray]) -> Tensor:
        array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        return torch.from_numpy(array).to(self._device)
