"""The replay list: references to the states and value targets of the current phase.

The driver holds this list, and no state. A learner returns the blocks that it will train on in
the auxiliary phase, so that the driver owns the objects, they outlive any actor, and they lie on
the node where they are used.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from pyarrow import fs

from rllib_ppg.compression import Compressed
from rllib_ppg.states import flat

# A block is as few rows as have these bytes. A minibatch takes its rows from random iterations,
# and what Ray has spilled comes back a block at a time: larger ones would bring what nobody asked
# for.
_BLOCK_BYTES = 2**18
# What a learner keeps open at once of the replay list. Blocks are views of the object store:
# those beyond this budget are let go, so that Ray may spill them, and are read again when needed.
OPEN_BYTES = 2**26
OPEN_BYTES_OF_PARTS = 2**30  # for minibatches that take parts of many rows


def rows_per_block(row_bytes: int) -> int:
    """Number of rows of a block, of so many bytes each."""
    return max(1, -(-_BLOCK_BYTES // max(row_bytes, 1)))


@dataclass
class ReplayBlock:
    """States and value targets of some rows of one iteration, as a learner returns them.

    Attributes:
        obs: `[n, T, ...]` in the env's dtype; an array, or `Compressed`.
        V_targ: `[n, T]` float32, from the policy phase; fixed.
        valid: `[n, T]` bool (see `Rollout.valid`).
    """

    obs: Any
    V_targ: np.ndarray
    valid: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes that the block is stored in."""
        return self.obs.nbytes + self.V_targ.nbytes + self.valid.nbytes

    def compressed(self) -> ReplayBlock:
        """This block with its observations under lz4."""
        return ReplayBlock(Compressed.of(self.obs), self.V_targ, self.valid)

    def opened(self) -> ReplayBlock:
        """This block with its observations as an array."""
        if isinstance(self.obs, np.ndarray):
            return self
        return ReplayBlock(self.obs.array(), self.V_targ, self.valid)

    def info(self, rows: np.ndarray) -> BlockInfo:
        """What the driver needs to know of this block, whose rows have these numbers."""
        return BlockInfo(rows, int(self.valid.sum()), self.nbytes)


@dataclass
class BlockInfo:
    """What the driver knows of a block.

    Attributes:
        rows: `[n]` the rows' numbers among all rows of the iteration, over all env runners.
        states: number of valid states.
        nbytes: bytes of the block.
    """

    rows: np.ndarray
    states: int
    nbytes: int


@dataclass
class ReplayEntry:
    """A block's reference, what is known of it, and the index of the learner that uses it."""

    ref: ray.ObjectRef
    info: BlockInfo
    learner: int


class ReplayList:
    """The iterations of the current phase, each a list of `ReplayEntry`."""

    def __init__(self, n_pi: int):
        self.n_pi = n_pi
        self.iterations: list[list[ReplayEntry]] = []

    def __len__(self) -> int:
        return len(self.iterations)

    @property
    def is_full(self) -> bool:
        """Whether N_pi iterations are stored, and it is time for the auxiliary phase."""
        return 0 < self.n_pi <= len(self.iterations)

    @property
    def states(self) -> int:
        """Number of states stored."""
        return sum(e.info.states for entries in self.iterations for e in entries)

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks, wherever they lie."""
        return sum(e.info.nbytes for entries in self.iterations for e in entries)

    def append(self, entries: Sequence[ReplayEntry]) -> None:
        """Adds one iteration's blocks."""
        self.iterations.append(list(entries))

    def clear(self) -> None:
        """Drops all references; Ray frees the states."""
        self.iterations.clear()

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

    def layout(self) -> list[list[tuple[int, list[int]]]]:
        """(learner, numbers of the rows) of each block of each iteration."""
        return [[(e.learner, e.info.rows.tolist()) for e in it] for it in self.iterations]

    def save(self, filesystem: fs.FileSystem, path: str) -> None:
        """Writes one file an iteration under `path`, one block in memory at a time."""
        filesystem.create_dir(path, recursive=True)
        for i, entries in enumerate(self.iterations):
            with filesystem.open_output_stream(f"{path}/{_file(i)}") as f:
                for entry in entries:
                    block = ray.get(entry.ref).opened()
                    for array in (block.obs, block.V_targ, block.valid):
                        np.save(f, array)

    def load(
        self,
        filesystem: fs.FileSystem,
        path: str,
        layout: Sequence[Sequence[tuple[int, Sequence[int]]]],
        num_learners: int,
        put: Callable[[ReplayBlock, int], ray.ObjectRef],
        compress: bool = False,
    ) -> None:
        """Reads what `save` wrote, for the learners there are now.

        With as many learners as then, each gets its blocks back; else the rows are dealt out
        among all of them.

        Args:
            filesystem: where `path` is.
            path: the directory.
            layout: `layout()` when it was saved.
            num_learners: number of learners, at least 1.
            put: stores a block for the learner of that index.
            compress: whether the blocks are to be compressed.
        """
        self.clear()
        then = {learner for blocks in layout for learner, _ in blocks}
        for i, blocks in enumerate(layout):
            num_rows = sum(len(numbers) for _, numbers in blocks)
            entries: list[ReplayEntry] = []
            with filesystem.open_input_file(f"{path}/{_file(i)}") as f:
                for learner, numbers in blocks:
                    rows, arrays = np.array(numbers), [np.load(f) for _ in range(3)]
                    owner = np.full(len(rows), learner)
                    if then != set(range(num_learners)):
                        owner = rows * num_learners // num_rows
                    for k in np.unique(owner):
                        block = ReplayBlock(*(array[owner == k] for array in arrays))
                        if compress:
                            block = block.compressed()
                        info = block.info(rows[owner == k])
                        entries.append(ReplayEntry(put(block, int(k)), info, int(k)))
            # Blocks on their way to learners are in this process's object store, too.
            refs = [entry.ref for entry in entries]
            ray.wait(refs, num_returns=len(refs), fetch_local=False)
            self.iterations.append(entries)


class BlockReader:
    """Opens blocks by reference, and keeps the last used ones open within a budget of bytes."""

    def __init__(self, refs: Sequence[Any], open_bytes: int):
        self._refs = refs
        self._budget = open_bytes
        self._open: OrderedDict[int, ReplayBlock] = OrderedDict()
        self._open_bytes = 0

    def __len__(self) -> int:
        return len(self._refs)

    def __getitem__(self, k: int) -> ReplayBlock:
        """Block `k`; its arrays are read-only views of the object store, if not compressed."""
        if k not in self._open:
            self._open[k] = ray.get(self._refs[k]).opened()
            self._open_bytes += self._open[k].nbytes
            while len(self._open) > 1 and self._open_bytes > self._budget:
                _, closed = self._open.popitem(last=False)
                self._open_bytes -= closed.nbytes
        self._open.move_to_end(k)
        return self._open[k]


class Observations:
    """Every block's observations as states, `[n * T, ...]`; a block is opened when asked for."""

    def __init__(self, blocks: BlockReader):
        self._blocks = blocks

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, k: int) -> np.ndarray:
        return flat(self._blocks[k].obs)


def _file(iteration: int) -> str:
    return f"{iteration:04d}.npy"
