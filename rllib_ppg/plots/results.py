"""Reads what Tune wrote of a run: each trial's settings and its learning curve."""

from __future__ import annotations

import io
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import fs
from ray.tune.utils import flatten_dict, unflattened_lookup

from rllib_ppg.checkpoint.folder import resolve
from rllib_ppg.did_you_mean import did_you_mean
from rllib_ppg.experiments.result_names import instead_of
from rllib_ppg.experiments.settings import EPISODE_RETURN_MEAN
from rllib_ppg.plots.curves import Points


@dataclass(frozen=True)
class Trial:
    """One training run of one setting and seed.

    Attributes:
        run: Name of its experiment's folder; its path from where the runs' paths part if two have
            the same name.
        folder: Path of its folder.
        algo: Algorithm's name, such as "PPG".
        env: Environment's id, or the name of its class.
        given: Settings that the user gave; nested ones by path, "env_config/num_levels".
        config: All settings, nested ones by path.
        iterations: Numbers of the iterations that have a return, [n], n >= 1.
        env_steps: Env steps after each, [n], increasing.
        returns: The requested metric, [n].
        started: Start time in seconds since 1970.
    """

    run: str
    folder: str
    algo: str
    env: str
    given: Mapping[str, Any]
    config: Mapping[str, Any]
    iterations: np.ndarray
    env_steps: np.ndarray
    returns: np.ndarray
    started: float

    @property
    def curve(self) -> Points:
        """Its learning curve."""
        return Points(self.env_steps, self.returns)

    @property
    def seed(self) -> int | None:
        """The seed in its config."""
        return self.setting("seed")

    def setting(self, path: str) -> Any:
        """Returns a setting's value; None if there is no such setting."""
        return self.config.get(path, self.given.get(path))


@dataclass(frozen=True)
class _Folder:
    """A folder on any filesystem."""

    filesystem: fs.FileSystem
    path: str

    @classmethod
    def at(cls, place: str | Path, filesystem: fs.FileSystem | None) -> _Folder:
        filesystem, path = resolve(place, filesystem)
        if isinstance(filesystem, fs.LocalFileSystem):
            path = os.path.realpath(path)
        return cls(filesystem, path.rstrip("/"))

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def parent(self) -> _Folder:
        return replace(self, path=self.path.rpartition("/")[0])

    def subfolders(self) -> list[_Folder]:
        selector = fs.FileSelector(self.path, allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        paths = sorted(info.path for info in found if info.type == fs.FileType.Directory)
        return [_Folder.at(path, self.filesystem) for path in paths]

    def exists(self) -> bool:
        return self.filesystem.get_file_info(self.path).type == fs.FileType.Directory

    def lines(self, file: str) -> Iterator[str]:
        """Yields the lines of a file in the folder; none if there is no such file."""
        path = f"{self.path}/{file}"
        if self.filesystem.get_file_info(path).type == fs.FileType.File:
            with self.filesystem.open_input_stream(path) as stream:
                yield from io.TextIOWrapper(stream, encoding="utf-8", errors="replace")


def read_trials(
    runs: Sequence[str | Path],
    metric: str = EPISODE_RETURN_MEAN,
    filesystem: fs.FileSystem | None = None,
) -> list[Trial]:
    """Reads the trials of runs, in the order in which they started.

    Trials without a return are left out. Where a run resumed from an older checkpoint, the results
    after that checkpoint are left out. A trial that started from another trial's checkpoint, with
    the same settings, is joined with it.

    Args:
        runs: Paths or URIs of trials' folders, or of folders that hold some, however deep.
        metric: Path of the metric to read as returns, within a result.
        filesystem: Filesystem of the paths; None finds it from each path or URI.

    Raises:
        ValueError: If a folder has no results, or no result has the metric.
    """
    found = [folder for run in runs for folder in _trial_folders(_Folder.at(run, filesystem))]
    folders = {(folder.filesystem.type_name, folder.path): folder for folder in found}.values()
    names = _run_names({folder.parent.path for folder in folders})
    trials = []
    for folder in folders:
        trials.append(_read_trial(folder, names[folder.parent.path], metric))
    joined = _joined(sorted(trials, key=lambda trial: trial.started))
    with_returns = [_finite(trial) for trial in joined if np.isfinite(trial.returns).any()]
    if not with_returns:
        known = set().union(*(_metrics(folder) for folder in folders))
        raise ValueError(
            f"no result has a number for {metric}{instead_of(metric, known - {metric})}"
        )
    return with_returns


def _run_names(paths: Iterable[str]) -> dict[str, str]:
    """The last parts of paths; if two are the same, all that differs."""
    parts = {path: path.split("/") for path in paths}
    last = [names[-1] for names in parts.values()]
    if len(set(last)) == len(last):
        return {path: names[-1] for path, names in parts.items()}
    levels = zip(*parts.values(), strict=False)
    shared = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, levels))
    return {path: "/".join(names[shared:]) for path, names in parts.items()}


def _trial_folders(run: _Folder) -> list[_Folder]:
    """The trials' folders: the folder itself, or those in it, however deep."""
    if not run.exists():
        siblings = [folder.name for folder in run.parent.subfolders()]
        raise ValueError(f"there is no folder {run.path}{did_you_mean(run.name, siblings)}")
    found: list[_Folder] = []
    seen: set[str] = set()  # a link may lead back up
    left = [run]
    while left:
        folder = left.pop()
        if any(True for _ in _results(folder)):
            found.append(folder)
            continue
        seen.add(folder.path)
        below = [f for f in folder.subfolders() if not f.name.startswith((".", "checkpoint_"))]
        left += [f for f in reversed(below) if f.path not in seen]
    if not found:
        raise ValueError(
            f"there are no results in {run.path}: neither it nor a folder in it has a result.json"
        )
    return found


def _read_trial(folder: _Folder, run: str, metric: str) -> Trial:
    rows: list[tuple[float, float, float]] = []
    result: dict[str, Any] = {}
    started = math.inf
    for result in _results(folder):
        steps = result["num_env_steps_sampled_lifetime"]
        started = min(started, result.get("timestamp", math.inf))
        while rows and rows[-1][1] >= steps:  # the run resumed from a checkpoint before these
            rows.pop()
        value = unflattened_lookup(metric, result, default=None)
        is_number = isinstance(value, int | float)
        rows.append((result.get("training_iteration", 0), steps, value if is_number else math.nan))
    given = _settings(json.loads("".join(folder.lines("params.json")) or "{}"))
    config = _settings(result.get("config", {}))
    iterations, env_steps, returns = np.array(rows, float).T
    env = str(given.get("env", config.get("env")))
    return Trial(
        run=run,
        folder=folder.path,
        algo=_algorithm(folder.name, env),
        env=_class_name(env),
        given=given,
        config=config,
        iterations=iterations,
        env_steps=env_steps,
        returns=returns,
        started=started,
    )


def _results(folder: _Folder) -> Iterator[dict[str, Any]]:
    """Yields a trial's results; skips a line that a killed run left unfinished."""
    for line in folder.lines("result.json"):
        try:
            result = json.loads(line)
        except json.JSONDecodeError:
            continue
        if "num_env_steps_sampled_lifetime" in result:
            yield result


def _joined(trials: Sequence[Trial]) -> list[Trial]:
    joined: list[Trial] = []
    for trial in trials:
        for i, earlier in reversed(list(enumerate(joined))):
            same = (earlier.algo, earlier.given) == (trial.algo, trial.given)
            before = earlier.iterations < trial.iterations[0]
            if same and before.any() and earlier.iterations[before][-1] == trial.iterations[0] - 1:
                joined[i] = _continued(earlier, before, trial)
                break
        else:
            joined.append(trial)
    return joined


def _continued(earlier: Trial, before: np.ndarray, later: Trial) -> Trial:
    return replace(
        earlier,
        folder=later.folder,
        iterations=np.concatenate([earlier.iterations[before], later.iterations]),
        env_steps=np.concatenate([earlier.env_steps[before], later.env_steps]),
        returns=np.concatenate([earlier.returns[before], later.returns]),
    )


def _finite(trial: Trial) -> Trial:
    kept = np.isfinite(trial.returns)
    return replace(
        trial,
        iterations=trial.iterations[kept],
        env_steps=trial.env_steps[kept],
        returns=trial.returns[kept],
    )


def _algorithm(folder: str, env: str) -> str:
    """The algorithm's name, which Tune writes only into the name of the trial's folder."""
    name, _, rest = folder.partition(f"_{_class_name(env).replace('/', '_')}_")
    return name if rest else folder.split("_")[0]


def _class_name(env: str) -> str:
    """The name itself, or "MyEnv" for "<class 'my_envs.MyEnv'>"."""
    match = re.fullmatch(r"<(?:class|function) '?(?:[^' ]*\.)?([^' .]+)'?.*>", env)
    return match[1] if match else env


def _metrics(folder: _Folder) -> set[str]:
    *_, last = _results(folder)
    last.pop("config", None)
    return {path for path, value in _flat(last).items() if isinstance(value, int | float)}


def _flat(nested: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = flatten_dict(nested, delimiter="/")
    return flat


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """A config's settings by their paths, under the names that users give.

    RLlib stores some in attributes that begin with an underscore. A function's address differs
    between processes and is left out.
    """
    return {
        path.removeprefix("_"): re.sub(r" at 0x[0-9a-f]+", "", x) if isinstance(x, str) else x
        for path, x in _flat(config).items()
    }
