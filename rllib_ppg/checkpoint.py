"""Where a checkpoint is, and whether it is one."""

from __future__ import annotations

import pathlib

from pyarrow import fs
from ray.rllib.algorithms.algorithm import Algorithm


def check_checkpoint(path: str | pathlib.Path, filesystem: fs.FileSystem | None = None) -> None:
    """Raises ValueError unless there is a checkpoint of an RLlib algorithm at `path`."""
    filesystem, root = resolve(path, filesystem)
    marker = Algorithm.METADATA_FILE_NAME
    if filesystem.get_file_info(f"{root}/{marker}").type != fs.FileType.File:
        raise ValueError(
            f"{path} is not a checkpoint: it has no {marker} (a run names its checkpoint when it "
            "ends: a folder like checkpoint_000000)"
        )


def resolve(
    path: str | pathlib.Path, filesystem: fs.FileSystem | None = None
) -> tuple[fs.FileSystem, str]:
    """The file system of a local path or URI, and the path within it."""
    if filesystem is not None:
        return filesystem, str(path)
    text = str(path)
    if "://" not in text:
        text = str(pathlib.Path(text).expanduser().absolute())
    return fs.FileSystem.from_uri(text)
