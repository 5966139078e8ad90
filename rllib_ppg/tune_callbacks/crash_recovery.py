"""Resumes a run that was killed (SIGKILL, a power cut) from the newest checkpoint on disk.

Tune writes results and its own state to a folder in /tmp and copies them to the run's folder every
ten seconds or more. After a kill, the last copy may name checkpoints that have been deleted since,
and miss newer ones.
"""

from __future__ import annotations

import csv
import io
import json
import pickle
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow import fs
from ray import tune
from ray.rllib.utils.annotations import override
from ray.tune.result import EXPR_PROGRESS_FILE, EXPR_RESULT_FILE, TRAINING_ITERATION

from rllib_ppg.checkpoint.folder import check_checkpoint, resolve
from rllib_ppg.ray_private import set_checkpoints

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

_BACKUP_DIR = ".spare"
_STATE_FILES = "*state*"


class StoreResults(tune.Callback):
    """Stores a trial's results, and a backup of Tune's state, with each checkpoint.

    A run that resumes from the checkpoint then has all results before it. The backup has its own
    folder, so that a kill cuts off only one of the two copies.
    """

    @override(tune.Callback)
    def setup(self, **info: Any) -> None:
        self._saving: set[str] = set()

    @override(tune.Callback)
    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        # Tune calls this several times a second, also while a trial saves.
        saving = {trial.trial_id for trial in trials if trial.is_saving}
        for trial in trials:
            if trial.trial_id in saving - self._saving:
                with suppress(OSError):  # the save itself reports a full disk
                    _store_results(trial)
        self._saving = saving


class ResumeFromLatestCheckpoint(tune.Callback):
    """Resumes each trial of a run from the newest complete checkpoint in its folder.

    Later results are removed from `result.json` and `progress.csv`.
    """

    @override(tune.Callback)
    def setup(self, **info: Any) -> None:
        self._done = False

    @override(tune.Callback)
    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if self._done:  # Tune's first call comes before any trial starts
            return
        self._done = True
        for trial in trials:
            if trial.status == "PENDING":
                print(f"{trial}: {_resume_from_latest(trial)}", flush=True)


@dataclass(frozen=True)
class SavedTrial:
    """A trial of an earlier run.

    Attributes:
        algorithm: Name of its algorithm.
        is_finished: Whether it has ended without an error.
        iterations: Iterations that it need not train again.
    """

    algorithm: str
    is_finished: bool
    iterations: int


def read_saved_trials(folder: str) -> list[SavedTrial]:
    """The trials in Tune's state in a run's folder; none if the state can't be read.

    Files that are damaged are first replaced by their backups.

    Args:
        folder: Path or URI of the experiment's folder.
    """
    filesystem, path = resolve(folder)
    for name in _list(filesystem, f"{path}/{_BACKUP_DIR}", fs.FileType.File):
        if not _is_readable(filesystem, f"{path}/{name}"):
            backup = _read(filesystem, f"{path}/{_BACKUP_DIR}/{name}")
            _write(filesystem, f"{path}/{name}", backup)
    files = _list(filesystem, path, fs.FileType.File)
    states = [name for name in files if re.fullmatch("experiment_state-.*.json", name)]
    newest = f"{path}/{max(states, default='')}"
    if not states or not _is_readable(filesystem, newest):
        return []
    trials = json.loads(_read(filesystem, newest))["trial_data"]
    return [_saved_trial(filesystem, path, *map(json.loads, state)) for state in trials]


def iteration_of(checkpoint: str) -> int:
    """The iteration after which a checkpoint was saved; 0 if it does not say.

    Args:
        checkpoint: Path or URI.
    """
    filesystem, path = resolve(checkpoint)
    return _iteration(filesystem, path, check=False) or 0


def _saved_trial(
    filesystem: fs.FileSystem, folder: str, state: Mapping[str, Any], progress: Mapping[str, Any]
) -> SavedTrial:
    is_finished = state["status"] == "TERMINATED"
    if is_finished:
        done = (progress["last_result"] or {}).get(TRAINING_ITERATION)
    else:
        trials = _list(filesystem, folder, fs.FileType.Directory)
        own = [name for name in trials if f"_{state['trial_id']}_" in name]
        _, done = _complete_checkpoints(filesystem, f"{folder}/{own[0]}") if own else ([], None)
    return SavedTrial(state["trainable_name"], is_finished, done or 0)


def _store_results(trial: Trial) -> None:
    filesystem = trial.storage.storage_filesystem
    for name in (EXPR_RESULT_FILE, EXPR_PROGRESS_FILE):
        file = Path(trial.local_path, name)
        if file.exists():
            _write(filesystem, f"{trial.path}/{name}", file.read_bytes())
    backup = f"{trial.storage.experiment_fs_path}/{_BACKUP_DIR}"
    filesystem.create_dir(backup, recursive=True)
    for file in Path(trial.storage.experiment_driver_staging_path).glob(_STATE_FILES):
        _write(filesystem, f"{backup}/{file.name}", file.read_bytes())


def _resume_from_latest(trial: Trial) -> str:
    """Replaces a trial's checkpoints in Tune's state by those on disk; returns a report."""
    filesystem, folder = trial.storage.storage_filesystem, trial.path
    results = _read_results(filesystem, f"{folder}/{EXPR_RESULT_FILE}")
    before = trial.run_metadata.checkpoint_manager
    known = {
        Path(result.checkpoint.path).name: result.metrics
        for result in (*before.best_checkpoint_results, before.latest_checkpoint_result)
        if result is not None
    }
    found, latest = _complete_checkpoints(filesystem, folder)
    checkpoints = []
    for name in found:
        path = f"{folder}/{name}"
        number = latest if name == found[-1] else _iteration(filesystem, path, check=False)
        metrics = results.get(number or 0) or known.get(name) or {TRAINING_ITERATION: number or 0}
        checkpoints.append((path, filesystem, metrics))
    set_checkpoints(trial, checkpoints)
    trial.storage.current_checkpoint_index = int(found[-1].split("_")[1]) if found else -1

    for name, truncate in ((EXPR_RESULT_FILE, _truncate_json), (EXPR_PROGRESS_FILE, _truncate_csv)):
        _rewrite(filesystem, f"{folder}/{name}", truncate, latest or 0)
        _rewrite(fs.LocalFileSystem(), f"{trial.local_path}/{name}", truncate, latest or 0)
    if found:
        return f"resumes from {found[-1]}, of iteration {latest}"
    if trial.checkpoint is not None:
        return f"starts again from {trial.checkpoint.path}"
    return "nothing was saved, so it starts from the beginning"


def _complete_checkpoints(filesystem: fs.FileSystem, folder: str) -> tuple[list[str], int | None]:
    """A trial's checkpoints up to the newest complete one, and that one's iteration."""
    folders = sorted(_list(filesystem, folder, fs.FileType.Directory))
    found = [name for name in folders if re.fullmatch(r"checkpoint_\d+", name)]
    latest = None
    while found and (latest := _iteration(filesystem, f"{folder}/{found[-1]}")) is None:
        found.pop()  # damaged; the next save overwrites it
    return found, latest


def _iteration(filesystem: fs.FileSystem, path: str, check: bool = True) -> int | None:
    """The iteration after which a checkpoint was saved; None if it is incomplete."""
    try:
        if check:
            check_checkpoint(path, filesystem)
        return int(
            pickle.loads(_read(filesystem, f"{path}/algorithm_state.pkl"))[TRAINING_ITERATION]
        )
    except Exception:  # pickle raises anything
        return None


def _read_results(filesystem: fs.FileSystem, path: str) -> dict[int, Mapping[str, Any]]:
    """A trial's results by iteration."""
    results = {}
    for line in _read_text(filesystem, path).splitlines():
        with suppress(ValueError, KeyError):
            result = json.loads(line)
            results[result[TRAINING_ITERATION]] = result
    return results


def _rewrite(
    filesystem: fs.FileSystem, path: str, truncate: Callable[[str, int], str], last: int
) -> None:
    text = _read_text(filesystem, path)
    shorter = truncate(text, last)
    if shorter != text:
        _write(filesystem, path, shorter.encode())


def _truncate_json(text: str, last: int) -> str:
    """Removes results after iteration `last`, and a line that a kill cut off."""
    kept = []
    for line in text.splitlines():
        with suppress(ValueError, KeyError):
            if json.loads(line)[TRAINING_ITERATION] <= last:
                kept.append(f"{line}\n")
    return "".join(kept)


def _truncate_csv(text: str, last: int) -> str:
    """`_truncate_json` for `progress.csv`."""
    head, *rows = [*csv.reader(io.StringIO(text, newline=""))] or [[]]
    if TRAINING_ITERATION not in head:
        return ""
    column = head.index(TRAINING_ITERATION)
    kept = [row for row in rows if len(row) == len(head) and int(row[column]) <= last]
    out = io.StringIO(newline="")
    csv.writer(out).writerows([head, *kept])
    return out.getvalue()


def _list(filesystem: fs.FileSystem, path: str, kind: fs.FileType) -> list[str]:
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return [info.base_name for info in found if info.type == kind]


def _is_readable(filesystem: fs.FileSystem, path: str) -> bool:
    try:
        data = _read(filesystem, path)
        # Some of Tune's .json files are pickles.
        pickle.loads(data) if data[:1] == b"\x80" else json.loads(data)
    except Exception:  # pickle raises anything
        return False
    return True


def _read(filesystem: fs.FileSystem, path: str) -> bytes:
    with filesystem.open_input_stream(path) as file:
        return bytes(file.read())


def _read_text(filesystem: fs.FileSystem, path: str) -> str:
    try:
        return _read(filesystem, path).decode(errors="replace")
    except FileNotFoundError:
        return ""


def _write(filesystem: fs.FileSystem, path: str, data: bytes) -> None:
    """Writes a file so that a kill leaves the old one or the new one."""
    if not isinstance(filesystem, fs.LocalFileSystem):  # a bucket's writes are atomic
        with filesystem.open_output_stream(path) as file:
            file.write(data)
        return
    draft = Path(path).with_name(f".{Path(path).name}.unfinished")
    draft.write_bytes(data)
    draft.replace(path)
