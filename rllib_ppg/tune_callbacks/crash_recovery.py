"""A run that is killed (SIGKILL, a power cut) goes on from the newest checkpoint on disk.

Tune writes results and its own state to a folder of Ray's in /tmp and copies them to the run's
every ten seconds or more. After a kill what it copied last may name checkpoints that have been
deleted since, and miss those that have been saved since.
"""

from __future__ import annotations

import csv
import io
import json
import pickle
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow import fs
from ray import tune
from ray.train._internal.checkpoint_manager import _CheckpointManager
from ray.train._internal.session import _TrainingResult
from ray.tune.result import EXPR_PROGRESS_FILE, EXPR_RESULT_FILE, TRAINING_ITERATION

from rllib_ppg.checkpoint.folder import check_checkpoint, resolve

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

_BACKUP_DIR = ".spare"
_STATE_FILES = "*state*"


class StoreResults(tune.Callback):
    """Stores a trial's results, and Tune's state, while a checkpoint is written.

    A run that goes on from that checkpoint has all results before it. Tune's state is stored under
    another name than Tune's: what a kill cuts off is only one of the two.
    """

    def setup(self, **info: Any) -> None:
        """Is called by Tune before the first trial starts."""
        self._saving: set[str] = set()

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Is called by Tune several times a second, also between a save's begin and its end."""
        saving = {trial.trial_id for trial in trials if trial.is_saving}
        for trial in trials:
            if trial.trial_id in saving - self._saving:
                with suppress(OSError):  # a full disk, say: the save itself tells of that
                    _store(trial)
        self._saving = saving


class ResumeFromLatestCheckpoint(tune.Callback):
    """Has each trial of a resumed run go on from the newest whole checkpoint in its folder.

    Results that come after it are removed from `result.json` and `progress.csv`.
    """

    def setup(self, **info: Any) -> None:
        """Is called by Tune before the first trial starts."""
        self._done = False

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Is called by Tune several times a second, and first before any trial starts."""
        if self._done:
            return
        self._done = True
        for trial in trials:
            if trial.status == "PENDING":
                print(f"{trial}: {_go_on(trial)}", flush=True)


def has_saved_trials(folder: str) -> bool:
    """Whether Tune's state in a run's folder can be read and has trials; mends what can be mended.

    Args:
        folder: The experiment's folder or URI.
    """
    filesystem, path = resolve(folder)
    for name in _names(filesystem, f"{path}/{_BACKUP_DIR}"):
        if not _is_whole(filesystem, f"{path}/{name}"):
            with filesystem.open_input_stream(f"{path}/{_BACKUP_DIR}/{name}") as file:
                _write(filesystem, f"{path}/{name}", file.read())
    states = [
        name for name in _names(filesystem, path) if re.fullmatch("experiment_state-.*.json", name)
    ]
    newest = f"{path}/{max(states, default='')}"
    if not states or not _is_whole(filesystem, newest):
        return False
    with filesystem.open_input_stream(newest) as file:
        return bool(json.loads(file.read())["trial_data"])


def _store(trial: Trial) -> None:
    storage = trial.storage
    for name in (EXPR_RESULT_FILE, EXPR_PROGRESS_FILE):
        file = Path(trial.local_path, name)
        if file.exists():
            _copy(file, storage.storage_filesystem, f"{trial.path}/{name}")
    for file in Path(storage.experiment_driver_staging_path).glob(_STATE_FILES):
        target = f"{storage.experiment_fs_path}/{_BACKUP_DIR}/{file.name}"
        _copy(file, storage.storage_filesystem, target)


def _go_on(trial: Trial) -> str:
    """Changes what Tune's state says of a trial's checkpoints; returns it in words."""
    filesystem, folder = trial.storage.storage_filesystem, trial.path
    results = _results(filesystem, f"{folder}/{EXPR_RESULT_FILE}")
    before = trial.run_metadata.checkpoint_manager
    known = {
        Path(one.checkpoint.path).name: one.metrics
        for one in (*before.best_checkpoint_results, before.latest_checkpoint_result)
        if one is not None
    }
    found = sorted(
        name for name in _folders(filesystem, folder) if re.fullmatch(r"checkpoint_\d+", name)
    )
    after = None
    while found and (after := _iteration(filesystem, f"{folder}/{found[-1]}")) is None:
        found.pop()  # the next save takes its place

    manager = _CheckpointManager(before.checkpoint_config)
    for name in found:
        path = f"{folder}/{name}"
        number = after if name == found[-1] else _iteration(filesystem, path, check=False)
        metrics = results.get(number or 0) or known.get(name) or {TRAINING_ITERATION: number or 0}
        checkpoint = tune.Checkpoint(path, filesystem)
        manager.register_checkpoint(_TrainingResult(checkpoint, dict(metrics)))
    trial.run_metadata.checkpoint_manager = manager
    trial.run_metadata.invalidate_cache()
    trial.storage.current_checkpoint_index = int(found[-1].split("_")[1]) if found else -1
    trial.invalidate_json_state()

    keep = after or 0
    for name, cut in ((EXPR_RESULT_FILE, _cut_json), (EXPR_PROGRESS_FILE, _cut_csv)):
        _cut(filesystem, f"{folder}/{name}", cut, keep)
        _cut(fs.LocalFileSystem(), f"{trial.local_path}/{name}", cut, keep)
    if found:
        return f"goes on from {found[-1]}, of iteration {after}"
    if trial.checkpoint is not None:
        return f"begins anew, from {trial.checkpoint.path}"
    return "nothing was saved, it begins anew"


def _iteration(filesystem: fs.FileSystem, path: str, check: bool = True) -> int | None:
    """The iteration that a checkpoint was saved after; None if it is not whole."""
    try:
        if check:
            check_checkpoint(path, filesystem)
        with filesystem.open_input_stream(f"{path}/algorithm_state.pkl") as file:
            return int(pickle.loads(file.read())[TRAINING_ITERATION])
    except Exception:  # pickle raises anything
        return None


def _results(filesystem: fs.FileSystem, path: str) -> dict[int, Mapping[str, Any]]:
    """Results by their iteration."""
    results = {}
    for line in _read(filesystem, path).splitlines():
        with suppress(ValueError, KeyError):
            result = json.loads(line)
            results[result[TRAINING_ITERATION]] = result
    return results


def _cut(filesystem: fs.FileSystem, path: str, cut: Callable[[str, int], str], keep: int) -> None:
    text = _read(filesystem, path)
    shorter = cut(text, keep)
    if shorter != text:
        _write(filesystem, path, shorter.encode())


def _cut_json(text: str, keep: int) -> str:
    """Leaves out results after an iteration, and what a kill has cut off."""
    kept = []
    for line in text.splitlines():
        with suppress(ValueError, KeyError):
            if json.loads(line)[TRAINING_ITERATION] <= keep:
                kept.append(f"{line}\n")
    return "".join(kept)


def _cut_csv(text: str, keep: int) -> str:
    """The same for `progress.csv`."""
    head, *rows = [*csv.reader(io.StringIO(text, newline=""))] or [[]]
    if TRAINING_ITERATION not in head:
        return ""
    column = head.index(TRAINING_ITERATION)
    kept = [row for row in rows if len(row) == len(head) and int(row[column]) <= keep]
    out = io.StringIO(newline="")
    csv.writer(out).writerows([head, *kept])
    return out.getvalue()


def _names(filesystem: fs.FileSystem, path: str) -> list[str]:
    return _of_type(filesystem, path, fs.FileType.File)


def _folders(filesystem: fs.FileSystem, path: str) -> list[str]:
    return _of_type(filesystem, path, fs.FileType.Directory)


def _of_type(filesystem: fs.FileSystem, path: str, kind: fs.FileType) -> list[str]:
    found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return [info.base_name for info in found if info.type == kind]


def _is_whole(filesystem: fs.FileSystem, path: str) -> bool:
    try:
        with filesystem.open_input_stream(path) as file:
            data = file.read()
        # A .json of Tune's may be pickle.
        pickle.loads(data) if data[:1] == b"\x80" else json.loads(data)
    except Exception:  # pickle raises anything
        return False
    return True


def _read(filesystem: fs.FileSystem, path: str) -> str:
    try:
        with filesystem.open_input_stream(path) as file:
            return bytes(file.read()).decode(errors="replace")
    except FileNotFoundError:
        return ""


def _copy(file: Path, filesystem: fs.FileSystem, target: str) -> None:
    if not isinstance(filesystem, fs.LocalFileSystem):
        fs.copy_files(str(file), target, destination_filesystem=filesystem)
        return
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    draft = Path(target).with_name(f".{Path(target).name}.unfinished")
    shutil.copyfile(file, draft)
    draft.replace(target)


def _write(filesystem: fs.FileSystem, path: str, data: bytes) -> None:
    """Writes a file so that a kill leaves the old one or the new one."""
    if not isinstance(filesystem, fs.LocalFileSystem):  # a bucket does so by itself
        with filesystem.open_output_stream(path) as file:
            file.write(data)
        return
    draft = Path(path).with_name(f".{Path(path).name}.unfinished")
    draft.write_bytes(data)
    draft.replace(path)
