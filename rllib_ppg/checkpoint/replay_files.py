"""A replay list as files of a checkpoint, one for each iteration; one block is in memory at a time.

A block is a JSON header followed by its arrays in numpy's format: the observations as they are
stored, `valid`, and the columns that the header names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import ray
from numpy.lib import format as npy
from pyarrow import fs

from rllib_ppg.checkpoint.folder import REPLAY, Draft, HashedStream, Written, damaged
from rllib_ppg.data.compression import Compressed
from rllib_ppg.data.replay import ReplayBlock, ReplayEntry, ReplayList


def save_replay(replay: ReplayList, draft: Draft, name: str) -> list[dict[str, Any]]:
    """Writes a replay list into a checkpoint.

    An iteration's contents never change, so a file of an earlier checkpoint of this phase is linked
    if it is still there.

    Args:
        replay: The list.
        draft: The checkpoint.
        name: Folder of the list's files within the checkpoint's replay folder.

    Returns:
        What the manifest says about each iteration: its file, and the learner and row ids of each
        block.
    """
    described = []
    for i, entries in enumerate(replay.iterations):
        file = f"{REPLAY}/{name}/{i:04d}.npy"
        earlier = replay.written[i]
        written = draft.link(file, earlier) if earlier else None
        replay.written[i] = written or draft.stream(file, partial(_write, entries))
        blocks = [(e.learner, e.info.rows.tolist()) for e in entries]
        described.append({"file": file, "blocks": blocks})
    return described


def load_replay(
    replay: ReplayList,
    described: Sequence[dict[str, Any]],
    filesystem: fs.FileSystem,
    path: str,
    files: dict[str, Any],
    num_learners: int,
    put: Callable[[ReplayBlock, int], ray.ObjectRef],
    compress: bool = False,
) -> None:
    """Fills an empty replay list from what `save_replay` wrote.

    With the same number of learners each gets its blocks back; otherwise the rows are dealt out
    among all of them.

    Args:
        replay: The list to fill.
        described: What `save_replay` returned.
        filesystem: File system of `path`.
        path: The checkpoint's folder.
        files: Size and digest of each file, from the manifest.
        num_learners: Number of learners, at least 1.
        put: Stores a block for the learner with that index.
        compress: Whether to compress the blocks.

    Raises:
        ValueError: A file is not what was written.
    """
    then = {learner for it in described for learner, _ in it["blocks"]}
    same = then == set(range(num_learners))
    for it in described:
        name = it["file"]
        nbytes, digest = files[name]
        entries: list[ReplayEntry] = []
        with filesystem.open_input_stream(f"{path}/{name}") as f:
            hashed = HashedStream(f)
            try:
                num_rows = sum(len(row_ids) for _, row_ids in it["blocks"])
                for block, learner, rows in _read(hashed, it["blocks"]):
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
        # Blocks on their way to learners are also in this process's object store.
        refs = [entry.ref for entry in entries]
        ray.wait(refs, num_returns=len(refs), fetch_local=False)
        # For other learners the blocks differ, and the file would not be what the list holds.
        file = Written.at(filesystem, f"{path}/{name}", nbytes, digest)
        replay.append(entries, written=file if same else None)


def _write(entries: Sequence[ReplayEntry], f: HashedStream) -> None:
    for entry in entries:
        block = ray.get(entry.ref)
        obs = block.obs
        header: dict[str, Any] = {"columns": [*block.columns]}
        if isinstance(obs, Compressed):  # written as it is stored
            header["compressed"] = {"shape": obs.shape, "dtype": obs.dtype.str}
            obs = obs.data
        arrays = (np.array(json.dumps(header)), obs, block.valid, *block.columns.values())
        for array in arrays:
            npy.write_array(f, array, allow_pickle=False)


def _read(
    f: HashedStream, blocks: Sequence[tuple[int, Sequence[int]]]
) -> Iterator[tuple[ReplayBlock, int, np.ndarray]]:
    """Each block of a file, the learner that had it, and the ids of its rows."""

    def array() -> np.ndarray:
        # `np.load` would need a file that can seek.
        return npy.read_array(f, allow_pickle=False)

    for learner, row_ids in blocks:
        header = json.loads(array().item())
        obs: Any = array()
        if how := header.get("compressed"):
            obs = Compressed(obs, tuple(how["shape"]), np.dtype(how["dtype"]))
        valid = array()
        columns = {name: array() for name in header["columns"]}
        yield ReplayBlock(obs, valid, columns), learner, np.array(row_ids)
