"""The replay list: references to the states and value targets of the current phase.

The driver holds the list but none of the states. Each learner returns the blocks that it will train
on in the auxiliary phase. The driver therefore owns these objects, they outlive any actor, and they
stay on the node where they are used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from rllib_ppg.data.compression import Compressed

# A block has as few rows as make up this many bytes. A minibatch takes its rows from random
# iterations, and Ray restores spilled objects a block at a time: with larger blocks it would read
# rows that nobody asked for.
_BLOCK_BYTES = 2**18


def rows_per_block(row_bytes: int) -> int:
    """Number of rows in a block, for rows of so many bytes."""
    return max(1, -(-_BLOCK_BYTES // max(row_bytes, 1)))


@dataclass
class ReplayBlock:
    """Some rows of one iteration, as a learner returns them.

    Attributes:
        obs: Observations `[n, T, ...]` in the env's dtype: an array, or `Compressed`.
        valid: Which states are transitions, `[n, T]` bool (see `Rollout.valid`).
        columns: What else the auxiliary phase needs of each state, by name, `[n, T, ...]`:
            `V_targ` from the policy phase, float32.
    """

    obs: Any
    valid: np.ndarray
    columns: Mapping[str, np.ndarray]

    @property
    def nbytes(self) -> int:
        """Bytes that the block takes in the object store."""
        others = sum(column.nbytes for column in self.columns.values())
        return self.obs.nbytes + self.valid.nbytes + others

    def compressed(self) -> ReplayBlock:
        """This block with lz4-compressed observations."""
        if isinstance(self.obs, Compressed):
            return self
        return ReplayBlock(Compressed.of(self.obs), self.valid, self.columns)

    def decompressed(self) -> ReplayBlock:
        """This block with its observations as an array."""
        if isinstance(self.obs, np.ndarray):
            return self
        return ReplayBlock(self.obs.array(), self.valid, self.columns)

    def select_rows(self, rows: np.ndarray | slice) -> ReplayBlock:
        """Some of its rows, by mask, index or slice."""
        block = self.decompressed()
        columns = {name: column[rows] for name, column in block.columns.items()}
        return ReplayBlock(block.obs[rows], block.valid[rows], columns)

    def info(self, row_ids: np.ndarray) -> BlockInfo:
        """What the driver needs to know about this block, whose rows have these ids."""
        return BlockInfo(row_ids, int(self.valid.sum()), self.nbytes)


@dataclass
class BlockInfo:
    """What the driver knows about a block.

    Attributes:
        rows: Ids of the rows among all rows of the iteration, `[n]`.
        states: Number of valid states.
        nbytes: Bytes of the block.
    """

    rows: np.ndarray
    states: int
    nbytes: int


@dataclass
class ReplayEntry:
    """A block's reference, what is known about it, and the index of the learner that uses it."""

    ref: ray.ObjectRef
    info: BlockInfo
    learner: int


class ReplayList:
    """The stored iterations of the current phase, each a list of `ReplayEntry`.

    Args:
        n_pi: N_pi, the number of iterations of a full phase.

    Attributes:
        iterations: The entries of each stored iteration.
        written: For each iteration, the checkpoint file that already holds it, or None
            (`checkpoint/replay_files.py`).
    """

    def __init__(self, n_pi: int):
        self.n_pi = n_pi
        self.iterations: list[list[ReplayEntry]] = []
        self.written: list[Any] = []

    def __len__(self) -> int:
        return len(self.iterations)

    @property
    def is_full(self) -> bool:
        """Whether N_pi iterations are stored, and it is time for the auxiliary phase."""
        return 0 < self.n_pi <= len(self.iterations)

    @property
    def states(self) -> int:
        """Number of stored states."""
        return sum(e.info.states for entries in self.iterations for e in entries)

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks, wherever they are."""
        return sum(e.info.nbytes for entries in self.iterations for e in entries)

    def append(self, entries: Sequence[ReplayEntry], written: Any = None) -> None:
        """Adds the blocks of one iteration."""
        self.iterations.append(list(entries))
        self.written.append(written)

    def clear(self) -> None:
        """Drops all references; Ray frees the states."""
        self.iterations.clear()
        self.written.clear()

    def rows_per_iteration(self) -> list[int]:
        """Number of rows of each stored iteration."""
        return [sum(len(e.info.rows) for e in entries) for entries in self.iterations]

    def of_learner(self, learner: int) -> list[tuple[ray.ObjectRef, int, BlockInfo]]:
        """(reference, iteration, info) of each block that `learner` trains on."""
        return [
            (e.ref, i, e.info)
            for i, entries in enumerate(self.iterations)
            for e in entries
            if e.learner == learner
        ]
