"""Checkpoint folders: how they are found, checked and written.

In addition to RLlib's files, `PPG` writes:

    ppg_checkpoint.json     the manifest: format, versions, shapes of the networks' parameters,
                            size and SHA-256 of each file
    replay/*/0000.npy ...   a file for each iteration of the phase (`replay_files.py`)
    exact/*.npz             state of env runners and random generators (`plain_data.py`)

A folder is written under a temporary name and renamed when it is complete. In a bucket, where
folders can't be renamed, the manifest is written last.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyarrow import fs
from ray.rllib.algorithms.algorithm import Algorithm

from rllib_ppg._version import versions

MANIFEST = "ppg_checkpoint.json"
REPLAY, EXACT = "replay", "exact"
# Raise it when the layout changes, a pickled class moves, or a policy would act differently. Other
# formats are refused.
FORMAT = 5


def check_format(path: str | pathlib.Path, filesystem: fs.FileSystem | None = None) -> None:
    """Checks, without unpickling anything, that this version can read a checkpoint.

    Args:
        path: Folder or URI. A folder without a manifest passes: other algorithms write none.
        filesystem: File system of `path`, if `path` is not a URI.

    Raises:
        ValueError: The checkpoint has another format, or its manifest is damaged.
    """
    filesystem, root = resolve(path, filesystem)
    if filesystem.get_file_info(f"{root}/{MANIFEST}").type == fs.FileType.File:
        read_manifest(filesystem, root)


def check_checkpoint(
    path: str | pathlib.Path, filesystem: fs.FileSystem | None = None, *, replay: bool = True
) -> None:
    """Checks that there is a complete checkpoint at `path`, of PPG or another RLlib algorithm.

    Only the sizes of files are compared. `PPG.restore_from_path` compares their contents.

    Args:
        path: Folder or URI.
        filesystem: File system of `path`, if `path` is not a URI.
        replay: Whether the replay list must be there; an evaluation does not need it.

    Raises:
        ValueError: There is no checkpoint, it is incomplete, or it has another format.
    """
    filesystem, root = resolve(path, filesystem)
    marker = Algorithm.METADATA_FILE_NAME
    if filesystem.get_file_info(f"{root}/{marker}").type != fs.FileType.File:
        previous = _sibling(root, "before")
        hint = f"; the previous one is in {previous}" if os.path.isdir(previous) else ""
        raise ValueError(
            f"{path} is not a checkpoint: it has no {marker} (a run prints its checkpoint when it "
            f"ends: a folder like checkpoint_000000){hint}"
        )
    if filesystem.get_file_info(f"{root}/{MANIFEST}").type == fs.FileType.File:
        manifest = read_manifest(filesystem, root)
        if replay:
            _check_resumable(root, manifest)
        _check_sizes(filesystem, root, manifest, replay)


def read_manifest(filesystem: fs.FileSystem, root: str) -> dict[str, Any]:
    """The manifest of a checkpoint of PPG.

    Raises:
        ValueError: There is no manifest, it is damaged, or the checkpoint has another format.
    """
    try:
        with filesystem.open_input_stream(f"{root}/{MANIFEST}") as f:
            manifest = json.loads(f.read())
        format_ = int(manifest["format"])
        written_by = manifest["versions"]["rllib-ppg"]
    except FileNotFoundError:
        raise ValueError(
            f"{root} is not a checkpoint that PPG can resume from: it has no {MANIFEST} (another "
            "algorithm wrote it, or saving was cut off)"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"the checkpoint {root} is damaged: {MANIFEST} can't be read") from e
    if format_ != FORMAT:
        age = "an older" if format_ < FORMAT else "a newer"
        raise ValueError(
            f"the checkpoint {root} was written by {age} version of rllib_ppg, {written_by} "
            f"(format {format_}), and this one, {versions()['rllib-ppg']}, reads format {FORMAT} "
            "only: use the version that wrote it"
        )
    if not {"files", "replay", "networks"} <= manifest.keys():
        raise ValueError(f"the checkpoint {root} is damaged: {MANIFEST} is incomplete")
    return dict(manifest)


def versions_of(path: str | pathlib.Path) -> dict[str, str]:
    """The versions of the packages that wrote a checkpoint; none without a manifest."""
    filesystem, root = resolve(path)
    if filesystem.get_file_info(f"{root}/{MANIFEST}").type != fs.FileType.File:
        return {}
    return dict(read_manifest(filesystem, root)["versions"])


def check_contents(filesystem: fs.FileSystem, root: str, *, replay: bool) -> dict[str, Any]:
    """Checks a checkpoint of PPG like `check_checkpoint`, and the contents of its files.

    Files of the replay list are compared by size here; `load_replay` checks what it reads.

    Returns:
        The manifest.

    Raises:
        ValueError: It is not a checkpoint of PPG, or a file has changed.
    """
    check_checkpoint(root, filesystem, replay=replay)
    manifest = read_manifest(filesystem, root)
    _check_resumable(root, manifest)
    for name, (_, digest) in manifest["files"].items():
        if not name.startswith(f"{REPLAY}/"):
            with filesystem.open_input_stream(f"{root}/{name}") as f:
                if hashlib.sha256(f.read()).hexdigest() != digest:
                    raise damaged(root, f"{name} is not what was written")
    return manifest


def check_networks(root: str, there: dict[str, list[int]], here: dict[str, list[int]]) -> None:
    """Checks that a checkpoint holds the networks of an algorithm.

    Args:
        root: Path of the checkpoint, for the error.
        there: Shape of each parameter in the checkpoint.
        here: Shape of each parameter of the algorithm.

    Raises:
        ValueError: A shape differs.
    """
    for name in sorted(there.keys() | here.keys()):
        shapes = there.get(name), here.get(name)
        if shapes[0] != shapes[1]:
            saved, mine = (f"{tuple(x)}" if x is not None else "not there" for x in shapes)
            raise ValueError(
                f"the checkpoint {root} holds other networks: {name} is {saved} in it, and {mine} "
                "by this config's rl_module, aux_losses and spaces"
            )


def _check_resumable(root: str, manifest: dict[str, Any]) -> None:
    if manifest.get("policy_only"):
        raise ValueError(
            f"the checkpoint {root} holds a policy without its training, which can't resume: give "
            "the checkpoint that it was exported from"
        )


def _check_sizes(
    filesystem: fs.FileSystem, root: str, manifest: dict[str, Any], replay: bool
) -> None:
    for name, (size, _) in manifest["files"].items():
        if not replay and name.startswith(f"{REPLAY}/"):
            continue
        info = filesystem.get_file_info(f"{root}/{name}")
        if info.type != fs.FileType.File:
            raise damaged(root, f"it has no {name}")
        if info.size != size:
            raise damaged(root, f"{name} has {info.size:,} bytes of {size:,}")


def damaged(root: str, how: str) -> ValueError:
    """The error for a checkpoint that differs from what was written."""
    return ValueError(f"the checkpoint {root} is damaged: {how}")


@dataclass
class Written:
    """A written file of a checkpoint.

    Attributes:
        filesystem: File system of the file.
        path: Path in it.
        nbytes: Size.
        digest: SHA-256.
        mtime_ns: Time of the last change, which shows whether another file has replaced it.
    """

    filesystem: fs.FileSystem
    path: str
    nbytes: int
    digest: str
    mtime_ns: int | None

    @classmethod
    def at(
        cls, filesystem: fs.FileSystem, path: str, nbytes: int, digest: str, *, to_be: str = ""
    ) -> Written:
        """The file at `path`, which will be moved to `to_be` if that is given."""
        mtime_ns = filesystem.get_file_info(path).mtime_ns
        return cls(filesystem, to_be or path, nbytes, digest, mtime_ns)

    def is_there(self) -> bool:
        """Whether the file is still at its path, unchanged."""
        info = self.filesystem.get_file_info(self.path)
        return (info.size, info.mtime_ns) == (self.nbytes, self.mtime_ns)


class HashedStream:
    """A binary file that counts and hashes the bytes written to it or read from it."""

    def __init__(self, file: Any):
        self._file = file
        self._hash = hashlib.sha256()
        self.nbytes = 0

    def write(self, data: Any) -> int:
        """Writes bytes to the file."""
        self._file.write(data)
        return self._count(data)

    def read(self, size: int = -1) -> bytes:
        """Reads at most `size` bytes; all of them by default."""
        data: bytes = self._file.read(size)
        self._count(data)
        return data

    def _count(self, data: Any) -> int:
        self._hash.update(data)
        n = memoryview(data).nbytes
        self.nbytes += n
        return n

    @property
    def digest(self) -> str:
        """SHA-256 of all bytes so far."""
        return self._hash.hexdigest()


class Draft:
    """A checkpoint that is being written.

    Attributes:
        folder: Local folder; all files in it become part of the checkpoint.
    """

    def __init__(self, filesystem: fs.FileSystem, root: str, place: str, folder: pathlib.Path):
        self.folder = folder
        self._filesystem, self._root, self._place = filesystem, root, place
        self._streamed: dict[str, tuple[int, str]] = {}

    def stream(self, name: str, write: Callable[[HashedStream], None]) -> Written:
        """Writes a file in pieces, straight to where the checkpoint is.

        Args:
            name: Path of the file in the checkpoint.
            write: Function that writes the contents.
        """
        self._make_folder(name)
        with self._filesystem.open_output_stream(f"{self._place}/{name}") as f:
            hashed = HashedStream(f)
            write(hashed)
        return self._added(name, hashed.nbytes, hashed.digest)

    def link(self, name: str, earlier: Written) -> Written | None:
        """Adds a file of an earlier checkpoint without writing it again; None if that fails.

        On a local disk this is a hard link: the file exists until the last checkpoint that has it
        is deleted. A bucket copies the file without downloading it.
        """
        if not earlier.filesystem.equals(self._filesystem) or not earlier.is_there():
            return None
        self._make_folder(name)
        try:
            if isinstance(self._filesystem, fs.LocalFileSystem):
                os.link(earlier.path, f"{self._place}/{name}")
            else:
                self._filesystem.copy_file(earlier.path, f"{self._place}/{name}")
        except OSError:  # another disk, for example
            return None
        return self._added(name, earlier.nbytes, earlier.digest)

    def _added(self, name: str, nbytes: int, digest: str) -> Written:
        self._streamed[name] = (nbytes, digest)
        path, to_be = f"{self._place}/{name}", f"{self._root}/{name}"
        return Written.at(self._filesystem, path, nbytes, digest, to_be=to_be)

    def finish(self, **described: Any) -> None:
        """Writes the manifest, with the entries of `described` added."""
        if self._place != str(self.folder):
            fs.copy_files(str(self.folder), self._place, None, self._filesystem)
        files = dict(self._streamed)
        for file in sorted(self.folder.rglob("*")):
            name = file.relative_to(self.folder).as_posix()
            if file.is_file() and name not in files:
                data = file.read_bytes()
                files[name] = (len(data), hashlib.sha256(data).hexdigest())
        manifest = {
            "format": FORMAT,
            "versions": versions("ray"),
            "files": files,
            **described,
        }
        with self._filesystem.open_output_stream(f"{self._place}/{MANIFEST}") as f:
            f.write(json.dumps(manifest).encode())

    def _make_folder(self, name: str) -> None:
        self._filesystem.create_dir(f"{self._place}/{name}".rpartition("/")[0], recursive=True)


@contextmanager
def draft(filesystem: fs.FileSystem, root: str) -> Iterator[Draft]:
    """A draft that becomes the checkpoint at `root` when the context ends.

    After an exception, or if the process dies, what was at `root` before is still there.
    """
    if not isinstance(filesystem, fs.LocalFileSystem):
        if filesystem.get_file_info(f"{root}/{MANIFEST}").type == fs.FileType.File:
            filesystem.delete_file(f"{root}/{MANIFEST}")
        with tempfile.TemporaryDirectory() as folder:
            yield Draft(filesystem, root, root, pathlib.Path(folder))
        return
    place = pathlib.Path(_sibling(root, "unfinished"))
    shutil.rmtree(place, ignore_errors=True)  # of a process that was killed
    place.mkdir(parents=True)
    try:
        yield Draft(filesystem, root, str(place), place)
        _flush(place)
        _rename(place, pathlib.Path(root))
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _sibling(root: str, suffix: str) -> str:
    folder, _, name = root.rstrip("/").rpartition("/")
    return f"{folder}/.{name}.{suffix}"


def _flush(folder: pathlib.Path) -> None:
    """Flushes a folder to disk, so that the rename can't become visible before its files."""
    for path in (*folder.rglob("*"), folder):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _rename(place: pathlib.Path, root: pathlib.Path) -> None:
    before = pathlib.Path(_sibling(str(root), "before"))
    shutil.rmtree(before, ignore_errors=True)
    if root.exists():
        root.rename(before)
    place.rename(root)
    if before.exists():
        for other in before.iterdir():  # files that are not ours
            if other.name not in (REPLAY, EXACT) and not (root / other.name).exists():
                other.rename(root / other.name)
        shutil.rmtree(before, ignore_errors=True)


def resolve(
    path: str | pathlib.Path, filesystem: fs.FileSystem | None = None
) -> tuple[fs.FileSystem, str]:
    """The file system of a local path or URI, and the path in it."""
    if filesystem is not None:
        return filesystem, str(path)
    text = str(path)
    if "://" not in text:
        text = str(pathlib.Path(text).expanduser().absolute())
    return fs.FileSystem.from_uri(text)


@contextmanager
def local_copy(filesystem: fs.FileSystem, root: str, without: str) -> Iterator[str]:
    """A local folder with a checkpoint: the folder itself, or a copy while the context lasts.

    RLlib sends a checkpoint to learners on other nodes, but reads it from a local path.

    Args:
        filesystem: File system of the checkpoint.
        root: Path in it.
        without: Folder to leave out of a copy.
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
