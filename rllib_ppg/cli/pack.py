"""`python -m rllib_ppg.cli.pack FOLDER`: a run's results as text, for a job's log to carry them.

The job server is all of a cluster that its users can count on reaching, and logs are all that it
sends. Replay lists stay behind, and checkpoints with them if they are large.
"""

from __future__ import annotations

import io
import sys
import tarfile
from base64 import encodebytes

from pyarrow import fs

from rllib_ppg.checkpoint import resolve

BEGIN, END = "-----BEGIN RESULTS-----", "-----END RESULTS-----"
_MAX_BYTES = 64 * 2**20


def pack(folder: str) -> tuple[str, bytes]:
    """Packs the files of a folder.

    Args:
        folder: A path or URI.

    Returns:
        What is in the archive, in words, and the archive: a tar.xz.

    Raises:
        ValueError: There is no such folder.
    """
    filesystem, root = resolve(folder)
    if filesystem.get_file_info(root).type != fs.FileType.Directory:
        raise ValueError("there is no such folder, or it lies on another node")
    files = [
        info
        for info in filesystem.get_file_info(fs.FileSelector(root, recursive=True))
        if info.type == fs.FileType.File and "/replay/" not in info.path
    ]
    left = ""
    if sum(info.size for info in files) > _MAX_BYTES:
        files = [info for info in files if "/checkpoint_" not in info.path]
        left = f", but for the checkpoints: they stay in {folder}"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz") as tar:
        for info in files:
            with filesystem.open_input_stream(info.path) as stream:
                content = stream.read()
            member = tarfile.TarInfo(info.path.removeprefix(root).lstrip("/"))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    size = sum(info.size for info in files)
    return f"{len(files)} files, {size / 1e6:.1f} MB{left}", out.getvalue()


if __name__ == "__main__":
    try:
        words, archive = pack(sys.argv[1])
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    print(BEGIN, words, encodebytes(archive).decode(), END, sep="\n")
