"""Where a checkpoint is, and whether it is one."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def local_copy(filesystem: fs.FileSystem, root: str, without: str) -> Iterator[str]:
    """A checkpoint's folder on this machine: itself, or a copy for as long as the context lasts.

    RLlib brings a checkpoint to learners on other nodes, but takes its path for a local one.

    Args:
        filesystem: where the checkpoint is.
        root: its path there.
        without: a folder in it that a copy does not need.
    """
    if isinstance(filesystem, fs.LocalFileSystem):
        yield root
        return
    with tempfile.TemporaryDirectory() as folder:
        for info in filesystem.get_file_info(fs.FileSelector(root, recursive=True)):
            name = pathlib.PurePosixPath(info.path).relative_to(root)
            if info.type != fs.FileType.File or name.parts[0] == without:
                continue
            file = pathlib.Path(folder, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            with filesystem.open_input_stream(info.path) as stream:
                file.write_bytes(stream.read())
        yield folder
