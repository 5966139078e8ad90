"""The folder of a run: a name has one run, and a run has one process at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from pyarrow import fs

from rllib_ppg.checkpoint.folder import resolve
from rllib_ppg.experiments.settings import absolute

if TYPE_CHECKING:
    from rllib_ppg.experiments.experiment import Experiment

_LOCK = ".lock"
_TUNER = "tuner.pkl"


class FolderTakenError(ValueError):
    """Another run has the folder."""


class RunFolder(AbstractContextManager["RunFolder"]):
    """The folder of a run, which no other run of this package uses until the context ends.

    A local folder is locked, on NFS for other machines, too. The kernel releases the lock when the
    process ends, however it ends. Buckets and some file systems have no locks.

    Args:
        folder: Path or URI.
        lock: Whether to lock it. A dry run only reads.

    Attributes:
        place: The path or URI.

    Raises:
        FolderTakenError: Another process has the folder.
        ValueError: The folder can't be written.
    """

    def __init__(self, folder: str, *, lock: bool = True) -> None:
        self.place = folder
        filesystem, self._path = resolve(folder)
        self._lock: TextIO | None = None
        if lock and isinstance(filesystem, fs.LocalFileSystem):
            try:
                self._lock = _locked(Path(self._path, _LOCK))
            except OSError as error:
                raise ValueError(
                    f"the results can't be written to {folder} ({error.strerror}): choose another "
                    "place with --storage-path"
                ) from error

    @property
    def name(self) -> str:
        """Its last part, which is the name of the run."""
        return self._path.rpartition("/")[2]

    def __exit__(self, *_: object) -> None:
        if self._lock is None:
            return
        with suppress(OSError):  # somebody may have moved the folder
            if os.listdir(self._path) == [_LOCK]:  # the run has not begun
                os.remove(self._lock.name)
                os.rmdir(self._path)
        self._lock.close()


def claim(experiment: Experiment, *, may_number: bool) -> RunFolder:
    """The folder of a new run.

    Args:
        experiment: The experiment; without a name it gets one of algorithm and date.
        may_number: Whether a run whose name is taken gets a number: name_2, name_3, ...

    Raises:
        FolderTakenError: Another run is using the folder, or left results there.
        ValueError: The folder can't be written.
    """
    storage = storage_path(experiment)
    name = run_name(experiment)
    may_number |= experiment.name is None
    while True:
        try:
            return _claim(f"{storage}/{name}")
        except FolderTakenError:
            if not may_number:
                raise
        name = unused_name(f"{storage}/{experiment.name or name}")


def check_run_name(name: str | None) -> None:
    """Raises ValueError for a name that is not that of one folder; None: it is made later."""
    if name is not None and (name in ("", ".", "..") or "/" in name):
        raise ValueError(
            f"the name of a run must be the name of a folder, without /, not {name!r} "
            "(--storage-path says where the folder is)"
        )


def run_name(experiment: Experiment) -> str:
    """The name of a new run of an experiment: its own, or one of algorithm and date."""
    return experiment.name or f"{experiment.run}_{datetime.now():%Y-%m-%d_%H-%M-%S}"


def storage_path(experiment: Experiment) -> str:
    """Absolute path or URI of the folder of an experiment's runs."""
    from ray.train.constants import DEFAULT_STORAGE_PATH

    return absolute(experiment.storage_path or DEFAULT_STORAGE_PATH)


def runs_in(storage: str, filesystem: fs.FileSystem | None = None) -> list[str]:
    """The names of the runs in a folder or at a URI.

    Args:
        storage: Path or URI.
        filesystem: Filesystem of the path; None finds it from the path or URI.
    """
    filesystem, path = resolve(storage, filesystem)
    folders = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    files = filesystem.get_file_info([f"{folder.path}/{_TUNER}" for folder in folders])
    return sorted(file.path.split("/")[-2] for file in files if file.type == fs.FileType.File)


def numbered_runs(folder: str) -> list[str]:
    """Which of name_2, name_3, ... are runs, next to a folder or URI of that name."""
    storage, _, name = folder.rpartition("/")
    return [run for run in runs_in(storage) if re.fullmatch(rf"{re.escape(name)}_\d+", run)]


def unused_name(folder: str, filesystem: fs.FileSystem | None = None) -> str:
    """The first of name_2, name_3, ... that no folder has, next to a folder of that name.

    Args:
        folder: Path or URI.
        filesystem: Filesystem of the path; None finds it from the path or URI.
    """
    filesystem, path = resolve(folder, filesystem)
    numbered = (f"{path}_{n}" for n in count(2))
    unused = (p for p in numbered if filesystem.get_file_info(p).type == fs.FileType.NotFound)
    return next(unused).rpartition("/")[2]


def has_results(folder: str) -> bool:
    """Whether a trial in a run's folder has results or checkpoints.

    Args:
        folder: Path or URI.
    """
    filesystem, path = resolve(folder)
    return any(
        file.base_name.startswith("checkpoint_") or (file.base_name == "result.json" and file.size)
        for trial in filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
        if trial.type == fs.FileType.Directory
        for file in filesystem.get_file_info(fs.FileSelector(trial.path))
    )


def _claim(folder: str) -> RunFolder:
    claimed = RunFolder(folder)
    if has_results(folder):
        claimed.__exit__()
        raise FolderTakenError(
            f"{folder} has the results of an earlier run: resume it with --resume, or give this "
            f"run another name, as in -n {unused_name(folder)}"
        )
    return claimed


def _flock(file: TextIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise  # else it is a file system without locks


def _locked(path: Path) -> TextIO:
    """Creates a file and locks it.

    Raises:
        FolderTakenError: Another process has locked it.
        OSError: It can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    try:
        _flock(file)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
    except BlockingIOError:
        file.seek(0)
        owner = file.read()
        file.close()
        raise FolderTakenError(
            f"another run is using {path.parent} ({owner}): wait until it ends, or give this run "
            f"another name, as in -n {unused_name(str(path.parent))}"
        ) from None
    except OSError:
        file.close()
        raise
    return file
