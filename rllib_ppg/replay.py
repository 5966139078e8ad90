"""The replay list: references to the states and value targets of the current phase.

The driver holds this list, and no state. A learner returns the blocks that it will train on in
the auxiliary phase, so that the driver owns the objects, they outlive any actor, and they lie on
the node where they are used.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from pyarrow import fs

from rllib_ppg.rollout import row_ranges
from rllib_ppg.states import flat

# What a learner keeps open at once of the replay list. Blocks are views of the object store:
# those beyond this budget are let go, so that Ray may spill them, and are read again when needed.
OPEN_BYTES = 2**30


@dataclass
class ReplayBlock:
    """States and value targets of some rows of one iteration, as a learner returns them.

    Attributes:
        obs: `[n, T, ...]` in the env's dtype.
        V_targ: `[n, T]` float32, from the policy phase; fixed.
        valid: `[n, T]` bool (see `Rollout.valid`).
    """

    obs: np.ndarray
    V_targ: np.ndarray
    valid: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.obs.nbytes + self.V_targ.nbytes + self.valid.nbytes

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

    def learners(self) -> list[list[int]]:
        """The learner of each block of each iteration."""
        return [[e.learner for e in entries] for entries in self.iterations]

    def save(self, filesystem: fs.FileSystem, path: str) -> None:
        """Writes one file a block under `path`, one block in memory at a time."""
        filesystem.create_dir(path, recursive=True)
        for i, entries in enumerate(self.iterations):
            for k, entry in enumerate(entries):
                block: ReplayBlock = ray.get(entry.ref)
                with filesystem.open_output_stream(f"{path}/{_file(i, k)}") as f:
                    for array in (entry.info.rows, block.obs, block.V_targ, block.valid):
                        np.save(f, array)

    def load(
        self,
        filesystem: fs.FileSystem,
        path: str,
        saved: Sequence[Sequence[int]],
        num_learners: int,
    ) -> None:
        """Reads what `save` wrote, for the learners there are now.

        With as many learners as then, each gets its blocks back; else every block's rows are
        dealt out among all of them.

        Args:
            filesystem: where `path` is.
            path: the directory.
            saved: `learners()` when it was saved.
            num_learners: number of learners, at least 1.
        """
        self.clear()
        as_then = {k for learners in saved for k in learners} == set(range(num_learners))
        for i, learners in enumerate(saved):
            entries: list[ReplayEntry] = []
            for b, learner in enumerate(learners):
                with filesystem.open_input_file(f"{path}/{_file(i, b)}") as f:
                    rows, *arrays = (np.load(f) for _ in range(4))
                parts = [(learner, slice(None))]
                if not as_then:
                    ranges = row_ranges(len(rows), num_learners)
                    parts = [((k + b) % num_learners, slice(*r)) for k, r in enumerate(ranges)]
                for k, part in parts:
                    block = ReplayBlock(*(array[part] for array in arrays))
                    entries.append(ReplayEntry(ray.put(block), block.info(rows[part]), k))
            self.iterations.append(entries)


class BlockReader:
    """Opens blocks by reference, and keeps the last used ones open within a budget of bytes."""

    def __init__(self, refs: Sequence[Any], open_bytes: int = OPEN_BYTES):
        self._refs = refs
        self._budget = open_bytes
        self._open: OrderedDict[int, ReplayBlock] = OrderedDict()

    def __iter__(self) -> Iterator[ReplayBlock]:
        return (self[k] for k in range(len(self._refs)))

    def __getitem__(self, k: int) -> ReplayBlock:
        """Block `k`; its arrays are read-only views of the object store."""
        if k not in self._open:
            self._open[k] = ray.get(self._refs[k])
            while len(self._open) > 1 and self._open_bytes() > self._budget:
                self._open.popitem(last=False)
        self._open.move_to_end(k)
        return self._open[k]

    def _open_bytes(self) -> int:
        return sum(block.nbytes for block in self._open.values())


class Observations:
    """Every block's observations as states, `[n * T, ...]`; a block is opened when asked for."""

    def __init__(self, blocks: BlockReader):
        self._blocks = blocks

    def __getitem__(self, k: int) -> np.ndarray:
        return flat(self._blocks[k].obs)


def _file(iteration: int, block: int) -> str:
    return f"{iteration:04d}_{block:04d}.npy"
