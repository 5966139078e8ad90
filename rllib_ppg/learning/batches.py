"""A learner's states, gathered by index into batches of tensors.

The states are numbered from 0 over the learner's blocks of rows, one after the other. A column is
one tensor on the device. Observations are streamed from their blocks instead (`Streamed`) if they
take more than 64 MB on a CPU, or more than a GPU has room for.

Batches may share memory with what is stored: never write to them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from rllib_ppg.learning.micro_batches import map_ahead

# Up to this many bytes of observations are copied into one tensor on a CPU. On a GPU they may take
# this fraction of the free memory.
_CPU_RESIDENT_BYTES = 2**26
_GPU_RESIDENT_PART = 0.5

X = TypeVar("X")
Y = TypeVar("Y")


class Arrays(Protocol):
    """A column as one array per block of rows, `[S_k, ...]`, perhaps opened on demand."""

    def __getitem__(self, k: int) -> np.ndarray: ...

    def __len__(self) -> int: ...


class Streamed:
    """Observations in blocks, gathered batch by batch: one copy, or none within a row."""

    def __init__(self, arrays: Arrays, starts: np.ndarray, device: torch.device):
        self._arrays = arrays
        self._starts = starts
        self._device = device

    def take(self, index: np.ndarray) -> Tensor:
        """The states at these indices, ascending, as `[len(index), ...]` on the device."""
        block = np.searchsorted(self._starts, index, side="right") - 1
        cuts = [0, *(np.flatnonzero(np.diff(block)) + 1), len(index)]
        parts = [(a, b, block[a], index[a:b] - self._starts[block[a]]) for a, b in pairwise(cuts)]
        first = self._arrays[parts[0][2]]
        run = _contiguous_slice(parts[0][3])
        on_cpu = self._device.type == "cpu"
        if on_cpu and len(parts) == 1 and run is not None:
            return as_tensor(first[run])
        shape, dtype = (len(index), *first.shape[1:]), as_tensor(first[:0]).dtype
        out = torch.empty(shape, dtype=dtype, pin_memory=not on_cpu)
        for a, b, k, local in parts:
            np.take(self._arrays[k], local, axis=0, out=out.numpy()[a:b], mode="clip")
        return out.to(self._device, non_blocking=True)


class StateDataset:
    """Columns over the same S states.

    Args:
        obs: Observations, one array per block.
        columns: The other columns by name, which are small: `[S, ...]`, on the device.
        valid: Which states are transitions, `[S]` bool.
        starts: Index of the first state of each block.
        obs_bytes: Bytes of one observation.
        device: Device of the batches.

    Attributes:
        others: For each name, the index of another state for each state, `[S]`; -1 for none. With
            it, batches have `has_NAME` `[B]` and `NAME_at` `[B]`: the other state's place among the
            batch's observations followed by `other_obs`, those that are not in the batch.
    """

    def __init__(
        self,
        obs: Arrays,
        columns: Mapping[str, Tensor],
        valid: np.ndarray,
        starts: np.ndarray,
        obs_bytes: int,
        device: torch.device,
    ):
        self._valid = valid
        self.others: dict[str, np.ndarray] = {}
        self._device = device
        self._columns = columns
        self._obs: Tensor | Streamed
        if len(valid) * obs_bytes > _resident_bytes_limit(device):
            self._obs = Streamed(obs, starts, device)
        else:
            self._obs = concatenate_to_device(obs, len(valid), device)

    def drop_masked(self, index: np.ndarray) -> np.ndarray:
        """The indices of states that are transitions."""
        return index[self._valid[index]]

    def batches(self, indices: Iterable[np.ndarray]) -> Iterator[dict[str, Tensor]]:
        """A batch for each array of ascending indices: columns `[len(index), ...]` by name.

        Streamed observations are gathered, and copied to a GPU, while the previous batch is used.
        """
        if isinstance(self._obs, Streamed):
            return self._ahead(indices)
        return map(self._batch, indices)

    def _batch(self, index: np.ndarray) -> dict[str, Tensor]:
        batch = self._columns_at(index) | self._observations_at(index)
        if self.others:
            batch |= self._other_states(index, batch["obs"])
        return batch

    def _columns_at(self, index: np.ndarray) -> dict[str, Tensor]:
        where = self._where(index)
        return {name: _pick(column, where) for name, column in self._columns.items()}

    def _observations_at(self, index: np.ndarray) -> dict[str, Tensor]:
        """Observations, and the random numbers that they are augmented with."""
        where = self._where(index)
        found = {"obs": self._obs_at(index, where)}
        if "random" in self._columns:
            found["random"] = _pick(self._columns["random"], where)
        return found

    def _other_states(self, index: np.ndarray, obs: Tensor) -> dict[str, Tensor]:
        others = {name: other[index] for name, other in self.others.items()}
        wanted = np.unique(np.concatenate([*others.values()]))
        wanted = np.setdiff1d(wanted[wanted >= 0], index, assume_unique=True)
        order = np.concatenate([index, wanted])
        sorter = np.argsort(order)
        found: dict[str, Tensor] = {
            "other_obs": self._obs_at(wanted, self._where(wanted)) if len(wanted) else obs[:0]
        }
        if "random" in self._columns:
            found["other_random"] = self._columns["random"][self._to_device(wanted)]
        for name, other in others.items():
            has = other >= 0
            place = sorter[np.searchsorted(order, np.where(has, other, index), sorter=sorter)]
            found[f"has_{name}"] = self._to_device(has)
            found[f"{name}_at"] = self._to_device(place)
        return found

    def set_column(self, name: str, column: np.ndarray) -> None:
        """Adds a column `[S, ...]`, or replaces it."""
        self._columns = {**self._columns, name: self._to_device(column)}

    def _where(self, index: np.ndarray) -> slice | Tensor:
        where = _contiguous_slice(index)
        return self._to_device(index) if where is None else where

    def _to_device(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            tensor = tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor

    def _obs_at(self, index: np.ndarray, where: slice | Tensor) -> Tensor:
        obs = self._obs
        return obs.take(index) if isinstance(obs, Streamed) else _pick(obs, where)

    def _ahead(self, indices: Iterable[np.ndarray]) -> Iterator[dict[str, Tensor]]:
        if self._device.type != "cuda":
            yield from prefetch(self._batch, indices)
            return
        current, side = torch.cuda.current_stream(self._device), _copies(self._device)
        side.wait_stream(current)  # it filled the resident columns

        def load(index: np.ndarray) -> tuple[dict[str, Tensor], torch.cuda.Event]:
            with torch.cuda.stream(side):
                batch = self._batch(index)
                return batch, side.record_event()

        for batch, arrived in prefetch(load, indices):
            current.wait_event(arrived)
            for tensor in batch.values():
                if tensor.is_cuda:
                    tensor.record_stream(current)
            yield batch


@cache
def _copies(device: torch.device) -> torch.cuda.Stream:
    """The one stream for copies to a GPU: torch keeps freed memory for the stream that used it."""
    return torch.cuda.Stream(device)


def prefetch(fn: Callable[[X], Y], items: Iterable[X]) -> Iterator[Y]:
    """`map`, but a thread computes the next result while the caller uses the last one."""
    with ThreadPoolExecutor(1) as thread:
        yield from map_ahead(thread, fn, items, 2)


def concatenate_to_device(arrays: Arrays, num_states: int, device: torch.device) -> Tensor:
    """A column's arrays as one tensor on the device; on a CPU a single array is not copied."""
    if len(arrays) == 1:
        return as_tensor(arrays[0]).to(device)
    if len(arrays) == 0:
        return torch.empty(0, device=device)
    start, first = 0, as_tensor(arrays[0])
    out = torch.empty((num_states, *first.shape[1:]), dtype=first.dtype, device=device)
    for k in range(len(arrays)):
        array = as_tensor(arrays[k])
        out[start : start + len(array)] = array
        start += len(array)
    return out


def as_tensor(array: np.ndarray) -> Tensor:
    """The array as a tensor over the same memory; never write to it."""
    return torch.from_numpy(array)


def _pick(column: Tensor, where: slice | Tensor) -> Tensor:
    return column[where] if isinstance(where, slice) else column.index_select(0, where)


def _contiguous_slice(index: np.ndarray) -> slice | None:
    """The ascending indices as a slice, or None if there is a gap between them."""
    if not len(index) or index[-1] - index[0] + 1 != len(index):
        return None
    return slice(int(index[0]), int(index[-1]) + 1)


def _resident_bytes_limit(device: torch.device) -> float:
    """The most bytes of observations that are kept in one tensor."""
    if device.type == "cuda":
        # Memory that torch has reserved and does not use, such as the last phase's, is free, too.
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return _GPU_RESIDENT_PART * (torch.cuda.mem_get_info(device)[0] + idle)
    return _CPU_RESIDENT_BYTES


# torch warns once per process about tensors over read-only memory such as the object store's.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    as_tensor(np.frombuffer(b"0", np.uint8))
