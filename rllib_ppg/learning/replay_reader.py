"""Reads replay blocks from the object store while a learner trains on them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError

from rllib_ppg.data.replay import ReplayBlock
from rllib_ppg.data.rollout import as_states

# Bytes of blocks that a learner keeps open at once. Blocks are views of the object store: beyond
# this budget they are released, so that Ray may spill them, and read again when needed.
BLOCK_CACHE_BYTES = 2**26
SEGMENT_CACHE_BYTES = 2**30  # for minibatches that take segments of many rows


class BlockReader:
    """Opens blocks by reference and keeps the last used ones open, within a budget of bytes.

    Args:
        refs: References to the blocks.
        cache_bytes: The budget.
        timeout_s: Seconds to wait for a block.
    """

    def __init__(self, refs: Sequence[Any], cache_bytes: int, timeout_s: float):
        self._refs = refs
        self._timeout_s = timeout_s
        self._budget = cache_bytes
        self._cache: OrderedDict[int, ReplayBlock] = OrderedDict()
        self._cached_bytes = 0

    def __len__(self) -> int:
        return len(self._refs)

    def __getitem__(self, k: int) -> ReplayBlock:
        """Block `k`; unless it was compressed, its arrays are read-only views of the object store.

        Raises:
            RuntimeError: It does not arrive in time. Ray waits forever for a spilled object whose
                file is gone.
        """
        if k not in self._cache:
            try:
                self._cache[k] = ray.get(self._refs[k], timeout=self._timeout_s).decompressed()
            except GetTimeoutError as e:
                raise RuntimeError(
                    f"a block of the replay list did not arrive within {self._timeout_s:g} s "
                    "(collective_timeout_s): Ray may have spilled it to a file that is gone"
                ) from e
            self._cached_bytes += self._cache[k].nbytes
            while len(self._cache) > 1 and self._cached_bytes > self._budget:
                _, released = self._cache.popitem(last=False)
                self._cached_bytes -= released.nbytes
        self._cache.move_to_end(k)
        return self._cache[k]


class Observations:
    """Observations of each block as states, `[n * T, ...]`; a block is opened when asked for."""

    def __init__(self, blocks: BlockReader):
        self._blocks = blocks

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, k: int) -> np.ndarray:
        return as_states(self._blocks[k].obs)
