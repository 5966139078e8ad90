"""`python -m rllib_ppg.cli.pack FOLDER`: a run's results as text, for a job's log to carry them.

The job server is all of a cluster that its users can count on reaching, and logs are all that it
sends. Replay lists stay behind, and checkpoints with them if they are large.
"""

from __future__ import annotations

import io
import sys
import tarfile
from base64 import encodebytes
from collections.abc import Mapping
from pathlib import PurePosixPath

from pyarrow import fs

from rllib_ppg.checkpoint.folder import resolve

BEGIN, END = "-----BEGIN RESULTS-----", "-----END RESULTS-----"
_MAX_BYTES = 64 * 2**20


def pack(folder: str) -> tuple[str, bytes]:
    """Packs the files of a folder.

    Args:
        folder: A path or URI.

    Returns:
        What is in the archive, in words, and the archive: a tar.xz.

    Raises:
        ValueError: There is no such folder, or it is too large even without checkpoints.
    """
    filesystem, root = resolve(folder)
    if filesystem.get_file_info(root).type != fs.FileType.Directory:
        raise ValueError("there is no such folder, or it lies on another node")
    files = {
        PurePosixPath(info.path).relative_to(root): info
        for info in filesystem.get_file_info(fs.FileSelector(root, recursive=True))
        if info.type == fs.FileType.File
    }
    files = {name: info for name, info in files.items() if "replay" not in name.parts}
    left = ""
    if _size(files) > _MAX_BYTES:
        files = {
            name: info
            for name, info in files.items()
            if not any(part.startswith("checkpoint_") for part in name.parts)
        }
        left = f", but for the checkpoints: they stay in {folder}"
    if _size(files) > _MAX_BYTES:
        raise ValueError(f"it has {_size(files) / 1e6:.0f} MB, which is too much for a log")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz") as tar:
        for name, info in files.items():
            with filesystem.open_input_stream(info.path) as stream:
                content = stream.read()
            member = tarfile.TarInfo(str(name))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return f"{len(files)} files, {_size(files) / 1e6:.1f} MB{left}", out.getvalue()


def _size(files: Mapping[PurePosixPath, fs.FileInfo]) -> int:
    return sum(info.size for info in files.values())


if __name__ == "__main__":
    try:
        words, archive = pack(sys.argv[1])
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    print(BEGIN, words, encodebytes(archive).decode(), END, sep="\n")
