"""Reads what Tune wrote of a run: each trial's settings and its learning curve."""

from __future__ import annotations

import bisect
import json
import math
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import fs
from ray.tune.utils import flatten_dict

from rllib_ppg.did_you_mean import did_you_mean
from rllib_ppg.experiments.result_names import instead_of
from rllib_ppg.experiments.settings import EPISODE_RETURN_MEAN
from rllib_ppg.plots.curves import Points
from rllib_ppg.plots.folder import Folder, distinct


@dataclass(frozen=True)
class Trial:
    """One training run of one setting and seed.

    Attributes:
        run: Name of its experiment's folder; its path from where the runs' paths part if two have
            the same name.
        files: Its folder.
        algo: Algorithm's name, such as "PPG".
        env: Environment's id, or the name of its class.
        given: Settings that the user gave; nested ones by path, "env_config/num_levels".
        config: All settings, nested ones by path.
        iterations: Numbers of its iterations, [n], n >= 1.
        env_steps: Env steps after each, [n], increasing.
        metric: Path of the metric that is its return.
        columns: The metrics that were read, by path, each [n]; NaN where a result has none.
        started: Start time in seconds since 1970.
        is_done: Whether Tune has ended it.
    """

    run: str
    files: Folder
    algo: str
    env: str
    given: Mapping[str, Any]
    config: Mapping[str, Any]
    iterations: np.ndarray
    env_steps: np.ndarray
    metric: str
    columns: Mapping[str, np.ndarray]
    started: float
    is_done: bool

    @property
    def folder(self) -> str:
        """Path of its folder."""
        return self.files.path

    @property
    def returns(self) -> np.ndarray:
        """Its return after each iteration, [n]."""
        return self.column(self.metric)

    @property
    def curve(self) -> Points:
        """Its learning curve."""
        return self.points(self.metric)

    def column(self, path: str) -> np.ndarray:
        """Returns a metric after each iteration, [n]; NaN where there is none."""
        return self.columns.get(path, np.full(len(self.env_steps), np.nan))

    def points(self, path: str) -> Points:
        """Returns the curve of a metric, where it is finite."""
        values = self.column(path)
        kept = np.isfinite(values)
        return Points(self.env_steps[kept], values[kept])

    @property
    def seed(self) -> int | None:
        """The seed in its config."""
        return self.setting("seed")

    def setting(self, path: str) -> Any:
        """Returns a setting's value; None if there is no such setting."""
        return self.config.get(path, self.given.get(path))


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
    trials = read_results(runs, lambda path: path == metric, filesystem)
    trials = [replace(trial, metric=metric) for trial in trials]
    with_returns = [_finite(trial) for trial in trials if np.isfinite(trial.returns).any()]
    if not with_returns:
        known = set().union(*(_metrics(trial.files) for trial in trials))
        raise ValueError(
            f"no result has a number for {metric}{instead_of(metric, known - {metric})}"
        )
    return with_returns


def read_results(
    runs: Sequence[str | Path],
    wanted: Callable[[str], bool],
    filesystem: fs.FileSystem | None = None,
) -> list[Trial]:
    """Reads metrics of trials, as `read_trials` does, but with all iterations of all trials.

    Args:
        runs: Paths or URIs of trials' folders, or of folders that hold some, however deep.
        wanted: Whether to read the metric of a path.
        filesystem: Filesystem of the paths; None finds it from each path or URI.

    Raises:
        ValueError: If a folder has no results.
    """
    folders = distinct(
        folder for run in runs for folder in _trial_folders(Folder.at(run, filesystem))
    )
    names = _run_names({folder.parent.path for folder in folders})
    trials = [_read_trial(folder, names[folder.parent.path], wanted) for folder in folders]
    return _joined(sorted(trials, key=lambda trial: trial.started))


def _run_names(paths: Iterable[str]) -> dict[str, str]:
    """The last parts of paths; if two are the same, all that differs."""
    parts = {path: path.split("/") for path in paths}
    last = [names[-1] for names in parts.values()]
    if len(set(last)) == len(last):
        return {path: names[-1] for path, names in parts.items()}
    levels = zip(*parts.values(), strict=False)
    shared = sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, levels))
    return {path: "/".join(names[shared:]) for path, names in parts.items()}


def _trial_folders(run: Folder) -> list[Folder]:
    """The trials' folders: the folder itself, or those in it, however deep."""
    if not run.exists():
        siblings = [folder.name for folder in run.parent.subfolders()]
        raise ValueError(f"there is no folder {run.path}{did_you_mean(run.name, siblings)}")
    found: list[Folder] = []
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


def _read_trial(folder: Folder, run: str, wanted: Callable[[str], bool]) -> Trial:
    iterations, env_steps = array("d"), array("d")
    columns: dict[str, array[float]] = {}
    result: dict[str, Any] = {}
    started = math.inf
    for result in _results(folder):
        steps = result["num_env_steps_sampled_lifetime"]
        started = min(started, result.get("timestamp", math.inf))
        n = bisect.bisect_left(env_steps, steps)
        for column in (iterations, env_steps, *columns.values()):
            del column[n:]  # the run resumed from a checkpoint before these
        iterations.append(result.get("training_iteration", 0))
        env_steps.append(steps)
        for path, value in _numbers(result):
            if wanted(path):
                column = columns.setdefault(path, array("d"))
                _pad(column, n)
                column.append(value)
    for column in columns.values():
        _pad(column, len(env_steps))
    given = settings_by_path(json.loads(folder.text("params.json") or "{}"))
    config = settings_by_path(result.get("config", {}))
    env = str(given.get("env", config.get("env")))
    return Trial(
        run=run,
        files=folder,
        algo=_algorithm(folder.name, env),
        env=_class_name(env),
        given=given,
        config=config,
        iterations=np.array(iterations),
        env_steps=np.array(env_steps),
        metric=EPISODE_RETURN_MEAN,
        columns={path: np.array(column) for path, column in columns.items()},
        started=started,
        is_done=bool(result.get("done")),
    )


def _pad(column: array[float], n: int) -> None:
    column.extend([math.nan] * (n - len(column)))


def _results(folder: Folder) -> Iterator[dict[str, Any]]:
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
    paths = {**earlier.columns, **later.columns}
    return replace(
        earlier,
        files=later.files,
        iterations=np.concatenate([earlier.iterations[before], later.iterations]),
        env_steps=np.concatenate([earlier.env_steps[before], later.env_steps]),
        columns={
            path: np.concatenate([earlier.column(path)[before], later.column(path)])
            for path in paths
        },
        is_done=later.is_done,
    )


def _finite(trial: Trial) -> Trial:
    kept = np.isfinite(trial.returns)
    return replace(
        trial,
        iterations=trial.iterations[kept],
        env_steps=trial.env_steps[kept],
        columns={path: column[kept] for path, column in trial.columns.items()},
    )


def _algorithm(folder: str, env: str) -> str:
    """The algorithm's name, which Tune writes only into the name of the trial's folder."""
    name, _, rest = folder.partition(f"_{_class_name(env).replace('/', '_')}_")
    return name if rest else folder.split("_")[0]


def _class_name(env: str) -> str:
    """The name itself, or "MyEnv" for "<class 'my_envs.MyEnv'>"."""
    match = re.fullmatch(r"<(?:class|function) '?(?:[^' ]*\.)?([^' .]+)'?.*>", env)
    return match[1] if match else env


def _metrics(folder: Folder) -> set[str]:
    *_, last = _results(folder)
    return {path for path, _ in _numbers(last)}


def _numbers(result: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yields a result's numbers by their paths, without those among the settings."""
    for key, value in result.items():
        if isinstance(value, dict):
            if key != "config":
                yield from _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            yield prefix + key, value


def _flat(nested: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = flatten_dict(nested, delimiter="/")
    return flat


def settings_by_path(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a config's settings by their paths, under the names that users give.

    RLlib stores some in attributes that begin with an underscore. A function's address differs
    between processes and is left out.
    """
    return {
        path.removeprefix("_"): re.sub(r" at 0x[0-9a-f]+", "", x) if isinstance(x, str) else x
        for path, x in _flat(config).items()
    }
