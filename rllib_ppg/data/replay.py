"""The replay list: references to the states and value targets of the current phase.

The driver holds this list, and no state. A learner returns the blocks that it will train on in
the auxiliary phase, so that the driver owns the objects, they outlive any actor, and they lie on
the node where they are used.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import ray
from numpy.lib import format as npy
from pyarrow import fs
from ray.exceptions import GetTimeoutError

from rllib_ppg.checkpoint.folder import REPLAY, Draft, HashedStream, Written, damaged
from rllib_ppg.data.compression import Compressed
from rllib_ppg.learning.batches import flat

# A block is as few rows as have these bytes. A minibatch takes its rows from random iterations,
# and what Ray has spilled comes back a block at a time: larger ones would bring what nobody asked
# for.
_BLOCK_BYTES = 2**18
# What a learner keeps open at once of the replay list. Blocks are views of the object store:
# those beyond this budget are let go, so that Ray may spill them, and are read again when needed.
BLOCK_CACHE_BYTES = 2**26
SEGMENT_CACHE_BYTES = 2**30  # for minibatches that take parts of many rows


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
        if isinstance(self.obs, Compressed):
            return self
        return ReplayBlock(Compressed.of(self.obs), self.V_targ, self.valid)

    def decompressed(self) -> ReplayBlock:
        """This block with its observations as an array."""
        if isinstance(self.obs, np.ndarray):
            return self
        return ReplayBlock(self.obs.array(), self.V_targ, self.valid)

    def select_rows(self, rows: np.ndarray) -> ReplayBlock:
        """Some of its rows, by a mask or index."""
        block = self.decompressed()
        return ReplayBlock(block.obs[rows], block.V_targ[rows], block.valid[rows])

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
        # Where each iteration has been written last.
        self._written: list[Written | None] = []

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
        self._written.append(None)

    def clear(self) -> None:
        """Drops all references; Ray frees the states."""
        self.iterations.clear()
        self._written.clear()

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

    def save(self, draft: Draft) -> list[dict[str, Any]]:
        """Writes one file an iteration, one block in memory at a time.

        What an iteration holds never changes: if an earlier checkpoint of this phase is still
        there, its file is taken over.

        Returns:
            For each iteration its file and its blocks: learner and numbers of the rows.
        """
        described = []
        for i, entries in enumerate(self.iterations):
            name = f"{REPLAY}/{i:04d}.npy"
            earlier = self._written[i]
            written = draft.link(name, earlier) if earlier else None
            self._written[i] = written or draft.stream(name, partial(_write, entries))
            blocks = [(e.learner, e.info.rows.tolist()) for e in entries]
            described.append({"file": name, "blocks": blocks})
        return described

    def load(
        self,
        filesystem: fs.FileSystem,
        path: str,
        manifest: dict[str, Any],
        num_learners: int,
        put: Callable[[ReplayBlock, int], ray.ObjectRef],
        compress: bool = False,
    ) -> None:
        """Reads what `save` wrote, for the learners there are now.

        With as many learners as then, each gets its blocks back; else the rows are dealt out
        among all of them.

        Args:
            filesystem: where `path` is.
            path: the checkpoint's folder.
            manifest: the checkpoint's.
            num_learners: number of learners, at least 1.
            put: stores a block for the learner of that index.
            compress: whether the blocks are to be compressed.

        Raises:
            ValueError: A file is not what was written; the list is as it was.
        """
        described = manifest["replay"]
        then = {learner for it in described for learner, _ in it["blocks"]}
        same = then == set(range(num_learners))
        iterations, written = [], []
        for it in described:
            name = it["file"]
            nbytes, digest = manifest["files"][name]
            entries: list[ReplayEntry] = []
            with filesystem.open_input_stream(f"{path}/{name}") as f:
                hashed = HashedStream(f)
                try:
                    blocks = _read(hashed, it["blocks"])
                    num_rows = sum(len(numbers) for _, numbers in it["blocks"])
                    for block, learner, rows in blocks:
                        owner = np.full(len(rows), learner)
                        if not same:
                            owner = rows * num_learners // num_rows
                        for k in np.unique(owner):
                            mine = block if same else block.select_rows(owner == k)
                            mine = mine.compressed() if compress else mine.decompressed()
                            info = mine.info(rows[owner == k])
                            entries.append(ReplayEntry(put(mine, int(k)), info, int(k)))
                except (ValueError, EOFError, KeyError, RuntimeError) as e:
                    raise damaged(path, f"{name} can't be read ({e})") from e
            if (hashed.nbytes, hashed.digest) != (nbytes, digest):
                raise damaged(path, f"{name} is not what was written")
            # Blocks on their way to learners are in this process's object store, too.
            refs = [entry.ref for entry in entries]
            ray.wait(refs, num_returns=len(refs), fetch_local=False)
            iterations.append(entries)
            # Other learners have other blocks, and the file would not be what the list holds.
            file = Written.at(filesystem, f"{path}/{name}", nbytes, digest)
            written.append(file if same else None)
        self.iterations, self._written = iterations, written


def _write(entries: Sequence[ReplayEntry], f: HashedStream) -> None:
    for entry in entries:
        block = ray.get(entry.ref)
        obs = block.obs
        header = {}
        if isinstance(obs, Compressed):  # as it is stored
            header = {"shape": obs.shape, "dtype": obs.dtype.str}
            obs = obs.data
        for array in (np.array(json.dumps(header)), obs, block.V_targ, block.valid):
            npy.write_array(f, array, allow_pickle=False)


def _read(
    f: HashedStream, blocks: Sequence[tuple[int, Sequence[int]]]
) -> Iterator[tuple[ReplayBlock, int, np.ndarray]]:
    """Each block of a file, the learner that it was of, and the numbers of its rows."""
    for learner, numbers in blocks:
        # Not `np.load`, which wants a file to seek in.
        header, obs, V_targ, valid = (npy.read_array(f, allow_pickle=False) for _ in range(4))
        header = json.loads(header.item())
        if header:
            obs = Compressed(obs, tuple(header["shape"]), np.dtype(header["dtype"]))
        yield ReplayBlock(obs, V_targ, valid), learner, np.array(numbers)


class BlockReader:
    """Opens blocks by reference, and keeps the last used ones open within a budget of bytes.

    Args:
        refs: references to the blocks.
        open_bytes: the budget.
        timeout_s: how long a block may take to come.
    """

    def __init__(self, refs: Sequence[Any], open_bytes: int, timeout_s: float):
        self._refs = refs
        self._timeout_s = timeout_s
        self._budget = open_bytes
        self._open: OrderedDict[int, ReplayBlock] = OrderedDict()
        self._open_bytes = 0

    def __len__(self) -> int:
        return len(self._refs)

    def __getitem__(self, k: int) -> ReplayBlock:
        """Block `k`; its arrays are read-only views of the object store, if not compressed.

        Raises:
            RuntimeError: It does not come in time: Ray waits without end for a file that is gone.
        """
        if k not in self._open:
            try:
                self._open[k] = ray.get(self._refs[k], timeout=self._timeout_s).decompressed()
            except GetTimeoutError as e:
                raise RuntimeError(
                    f"a block of the replay list did not come within {self._timeout_s:g} s "
                    "(collective_timeout_s): Ray may have spilled it to a file that is gone"
                ) from e
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
