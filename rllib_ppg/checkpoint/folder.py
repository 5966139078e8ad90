"""Checkpoints as folders: where they are, whether they are whole, and how they are written.

What `PPG` writes, beside RLlib's own files:

    ppg_checkpoint.json     the manifest: format, versions, shapes of the networks' parameters,
                            and each file's size and SHA-256
    replay/0000.npy ...     one file for each iteration of the phase (`replay.py`)
    exact/*.npz             where env runners and random numbers are (`plain_data.py`)

A folder is written under another name and gets its own when all of it is there. In a bucket,
where folders can't be renamed, the manifest comes last.
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
# To be raised when an older version of this package could not read a checkpoint any more.
FORMAT = 1


def check_checkpoint(
    path: str | pathlib.Path, filesystem: fs.FileSystem | None = None, *, replay: bool = True
) -> None:
    """Checks that there is a whole checkpoint at `path`, of PPG or of another RLlib algorithm.

    Files are compared by size; `PPG.restore_from_path` compares what is in them.

    Args:
        path: folder or URI.
        filesystem: where `path` is, if it is no URI.
        replay: whether the replay list is asked for, too; to evaluate, it is not needed.

    Raises:
        ValueError: In one sentence.
    """
    filesystem, root = resolve(path, filesystem)
    marker = Algorithm.METADATA_FILE_NAME
    if filesystem.get_file_info(f"{root}/{marker}").type != fs.FileType.File:
        aside = _aside(root, "before")
        kept = f"; the one that was there before is {aside}" if os.path.isdir(aside) else ""
        raise ValueError(
            f"{path} is not a checkpoint: it has no {marker} (a run names its checkpoint when it "
            f"ends: a folder like checkpoint_000000){kept}"
        )
    if filesystem.get_file_info(f"{root}/{MANIFEST}").type == fs.FileType.File:
        _check_sizes(filesystem, root, read_manifest(filesystem, root), replay)


def read_manifest(filesystem: fs.FileSystem, root: str) -> dict[str, Any]:
    """The manifest of a checkpoint of PPG.

    Raises:
        ValueError: There is none, it is damaged, or it was written by a newer version.
    """
    try:
        with filesystem.open_input_stream(f"{root}/{MANIFEST}") as f:
            manifest = json.loads(f.read())
        newer = manifest["format"] > FORMAT
        written_by = manifest["versions"]["rllib-ppg"]
        complete = {"files", "replay", "networks"} <= manifest.keys()
    except FileNotFoundError:
        raise ValueError(
            f"{root} is not a checkpoint that PPG can go on from: it has no {MANIFEST} (it is of "
            "another algorithm, of a save that was cut off, or of an earlier version of rllib_ppg)"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"the checkpoint {root} is damaged: {MANIFEST} can't be read") from e
    if newer:
        raise ValueError(
            f"the checkpoint {root} was written by rllib_ppg {written_by}, which is newer than "
            f"this one, {versions()['rllib-ppg']}: upgrade to read it"
        )
    if not complete:
        raise ValueError(f"the checkpoint {root} is damaged: {MANIFEST} is incomplete")
    return dict(manifest)


def check_contents(filesystem: fs.FileSystem, root: str, *, replay: bool) -> dict[str, Any]:
    """`check_checkpoint`, and compares what is in the files with the manifest, which is returned.

    The replay list's are compared by size; `ReplayList.load` looks into them as it reads them.

    Raises:
        ValueError: It is no checkpoint of PPG, or not what was written.
    """
    check_checkpoint(root, filesystem, replay=replay)
    manifest = read_manifest(filesystem, root)
    for name, (_, digest) in manifest["files"].items():
        if not name.startswith(f"{REPLAY}/"):
            with filesystem.open_input_stream(f"{root}/{name}") as f:
                if hashlib.sha256(f.read()).hexdigest() != digest:
                    raise damaged(root, f"{name} is not what was written")
    return manifest


def check_networks(root: str, there: dict[str, list[int]], here: dict[str, list[int]]) -> None:
    """Compares the shapes of all parameters, those of a checkpoint and those of an algorithm.

    Raises:
        ValueError: They are not of the same networks.
    """
    for name in sorted(there.keys() | here.keys()):
        shapes = there.get(name), here.get(name)
        if shapes[0] != shapes[1]:
            saved, mine = (f"{tuple(x)}" if x is not None else "not there" for x in shapes)
            raise ValueError(
                f"the checkpoint {root} is of other networks: {name} is {saved} in it, and {mine} "
                "by this config's rl_module and spaces"
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
    """The error for a checkpoint that is not what was written."""
    return ValueError(f"the checkpoint {root} is damaged: {how}")


@dataclass
class Written:
    """A file that has been written.

    Attributes:
        filesystem: where it is.
        path: its path there.
        nbytes: its size.
        digest: its SHA-256.
        mtime_ns: when; by that it is told from another file that has taken its place since.
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
        """The file at `path`, which is about to be moved to `to_be`, if that is given."""
        mtime_ns = filesystem.get_file_info(path).mtime_ns
        return cls(filesystem, to_be or path, nbytes, digest, mtime_ns)

    def is_there(self) -> bool:
        """Whether it is still what is at its path."""
        info = self.filesystem.get_file_info(self.path)
        return (info.size, info.mtime_ns) == (self.nbytes, self.mtime_ns)


class HashedStream:
    """A binary file, and the number and SHA-256 of the bytes that have gone through it."""

    def __init__(self, file: Any):
        self._file = file
        self._hash = hashlib.sha256()
        self.nbytes = 0

    def write(self, data: Any) -> int:
        """Writes."""
        self._file.write(data)
        return self._count(data)

    def read(self, size: int = -1) -> bytes:
        """Reads."""
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
        """Of all bytes so far."""
        return self._hash.hexdigest()


class Draft:
    """A checkpoint that is being written.

    Attributes:
        folder: a folder on this machine; what is in it at the end belongs to the checkpoint.
    """

    def __init__(self, filesystem: fs.FileSystem, root: str, place: str, folder: pathlib.Path):
        self.folder = folder
        self._filesystem, self._root, self._place = filesystem, root, place
        self._streamed: dict[str, tuple[int, str]] = {}

    def stream(self, name: str, write: Callable[[HashedStream], None]) -> Written:
        """Writes a file that need not fit into memory or onto this machine.

        Args:
            name: of the file, from the checkpoint's folder.
            write: writes its contents.
        """
        self._make_folder(name)
        with self._filesystem.open_output_stream(f"{self._place}/{name}") as f:
            hashed = HashedStream(f)
            write(hashed)
        return self._added(name, hashed.nbytes, hashed.digest)

    def link(self, name: str, earlier: Written) -> Written | None:
        """Takes over a file of an earlier checkpoint without writing it again; None if it can't.

        On this machine's file systems as a hard link: the file stays until the last checkpoint
        with it is deleted. A bucket copies it on its own side.
        """
        if not earlier.filesystem.equals(self._filesystem) or not earlier.is_there():
            return None
        self._make_folder(name)
        try:
            if isinstance(self._filesystem, fs.LocalFileSystem):
                os.link(earlier.path, f"{self._place}/{name}")
            else:
                self._filesystem.copy_file(earlier.path, f"{self._place}/{name}")
        except OSError:  # it is on another disk
            return None
        return self._added(name, earlier.nbytes, earlier.digest)

    def _added(self, name: str, nbytes: int, digest: str) -> Written:
        self._streamed[name] = (nbytes, digest)
        path, to_be = f"{self._place}/{name}", f"{self._root}/{name}"
        return Written.at(self._filesystem, path, nbytes, digest, to_be=to_be)

    def finish(self, **described: Any) -> None:
        """Writes the manifest, with what `described` says of the rest."""
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
    """A draft of a checkpoint, which becomes the one at `root` when the context ends.

    If it ends by an exception, or the process dies in it, what was at `root` is still there.
    """
    if not isinstance(filesystem, fs.LocalFileSystem):
        if filesystem.get_file_info(f"{root}/{MANIFEST}").type == fs.FileType.File:
            filesystem.delete_file(f"{root}/{MANIFEST}")
        with tempfile.TemporaryDirectory() as folder:
            yield Draft(filesystem, root, root, pathlib.Path(folder))
        return
    place = pathlib.Path(_aside(root, "unfinished"))
    shutil.rmtree(place, ignore_errors=True)  # of a process that was killed
    place.mkdir(parents=True)
    try:
        yield Draft(filesystem, root, str(place), place)
        _flush(place)
        _rename(place, pathlib.Path(root))
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _aside(root: str, what: str) -> str:
    folder, _, name = root.rstrip("/").rpartition("/")
    return f"{folder}/.{name}.{what}"


def _flush(folder: pathlib.Path) -> None:
    """Has the disk write what it still holds back, so that a rename does not outrun it."""
    for path in (*folder.rglob("*"), folder):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _rename(place: pathlib.Path, root: pathlib.Path) -> None:
    before = pathlib.Path(_aside(str(root), "before"))
    shutil.rmtree(before, ignore_errors=True)
    if root.exists():
        root.rename(before)
    place.rename(root)
    if before.exists():
        for other in before.iterdir():  # what somebody else keeps in this folder
            if other.name not in (REPLAY, EXACT) and not (root / other.name).exists():
                other.rename(root / other.name)
        shutil.rmtree(before, ignore_errors=True)


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
