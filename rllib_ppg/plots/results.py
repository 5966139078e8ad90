"""Reads back what Tune wrote of a run: each trial's settings and its learning curve."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ray.tune.utils import flatten_dict, unflattened_lookup

from rllib_ppg.did_you_mean import did_you_mean
from rllib_ppg.experiments.experiment import EPISODE_RETURN_MEAN


@dataclass(frozen=True)
class Trial:
    """One training.

    Attributes:
        run: The folder of its experiment, as short as still tells it from the others.
        algo: The algorithm's name, as in "PPG".
        env: The environment's id, or its class's name.
        given: The settings that its user gave; nested ones by their paths, "env_config/num_levels".
        config: All settings, nested ones by their paths.
        iterations: [n], the numbers of those that have a return, at least one.
        env_steps: [n], increasing.
        returns: [n], the metric that was asked for.
        started: When, in seconds since 1970.
    """

    run: str
    algo: str
    env: str
    given: Mapping[str, Any]
    config: Mapping[str, Any]
    iterations: np.ndarray
    env_steps: np.ndarray
    returns: np.ndarray
    started: float

    @property
    def seed(self) -> int | None:
        """The seed in its config."""
        return self.setting("seed")

    def setting(self, path: str) -> Any:
        """Returns a setting's value, None where there is no such setting."""
        return self.config.get(path, self.given.get(path))


def read_trials(runs: Sequence[str | Path], metric: str = EPISODE_RETURN_MEAN) -> list[Trial]:
    """Reads runs, in the order in which their trials started; those without returns are left out.

    Where a run went on from an older checkpoint, what it had done after that is left out. A trial
    that was started from another's checkpoint, with the same settings, is one with it.

    Args:
        runs: Folders of experiments, with trials' folders in them, or of single trials.
        metric: What to read as returns, by its path in a result.

    Raises:
        ValueError: If a folder has no results, or none of them has the metric.
    """
    folders: dict[Path, Path] = {}  # of trials, to those of their experiments
    for run in runs:
        folders.update(_trial_folders(Path(run).expanduser().resolve()))
    names = [experiment.name for experiment in set(folders.values())]
    trials = [
        _read_trial(
            folder,
            experiment.name if names.count(experiment.name) == 1 else str(experiment),
            metric,
        )
        for folder, experiment in folders.items()
    ]
    joined = _joined(sorted(trials, key=lambda trial: trial.started))
    with_returns = [_finite(trial) for trial in joined if np.isfinite(trial.returns).any()]
    if not with_returns:
        known = set().union(*(_metrics(folder) for folder in folders))
        raise ValueError(
            f"no result has a number for {metric}{did_you_mean(metric, known - {metric})}"
        )
    return with_returns


def _trial_folders(run: Path) -> dict[Path, Path]:
    """Returns the folders of trials with results, and those of their experiments."""
    if not run.is_dir():
        siblings = [path.name for path in run.parent.glob("*") if path.is_dir()]
        raise ValueError(f"there is no folder {run}{did_you_mean(run.name, siblings)}")
    folders = [run, *sorted(run.glob("*"))]
    found = {f: f.parent for f in folders if any(True for _ in _results(f / "result.json"))}
    if not found:
        raise ValueError(
            f"there are no results in {run}, neither in a result.json there nor in one of a folder "
            "below"
        )
    return found


def _read_trial(folder: Path, run: str, metric: str) -> Trial:
    rows: list[tuple[float, float, float]] = []
    result: dict[str, Any] = {}
    started = math.inf
    for result in _results(folder / "result.json"):
        steps = result["num_env_steps_sampled_lifetime"]
        started = min(started, result.get("timestamp", math.inf))
        while rows and rows[-1][1] >= steps:  # it went on from a checkpoint before these
            rows.pop()
        value = unflattened_lookup(metric, result, default=None)
        is_number = isinstance(value, int | float)
        rows.append((result.get("training_iteration", 0), steps, value if is_number else math.nan))
    params = folder / "params.json"
    given = _settings(json.loads(params.read_text())) if params.is_file() else {}
    config = _settings(result.get("config", {}))
    iterations, env_steps, returns = np.array(rows, float).T
    env = str(given.get("env", config.get("env")))
    return Trial(
        run=run,
        algo=_algorithm(folder.name, env),
        env=_class_name(env),
        given=given,
        config=config,
        iterations=iterations,
        env_steps=env_steps,
        returns=returns,
        started=started,
    )


def _results(file: Path) -> Iterator[dict[str, Any]]:
    """Yields a trial's results; a line that a killed run left unfinished is no result."""
    if not file.is_file():
        return
    with file.open(encoding="utf-8") as lines:
        for line in lines:
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
                joined[i] = _goes_on(earlier, before, trial)
                break
        else:
            joined.append(trial)
    return joined


def _goes_on(earlier: Trial, before: np.ndarray, later: Trial) -> Trial:
    return replace(
        earlier,
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
    """Returns the algorithm's name, which Tune writes into the folder's name alone."""
    name, _, rest = folder.partition(f"_{_class_name(env).replace('/', '_')}_")
    return name if rest else folder.split("_")[0]


def _class_name(env: str) -> str:
    """Returns "MyEnv" for "<class 'my_envs.MyEnv'>", and other names as they are."""
    match = re.fullmatch(r"<(?:class|function) '?(?:[^' ]*\.)?([^' .]+)'?.*>", env)
    return match[1] if match else env


def _metrics(folder: Path) -> set[str]:
    *_, last = _results(folder / "result.json")
    last.pop("config", None)
    return {path for path, value in _flat(last).items() if isinstance(value, int | float)}


def _flat(nested: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = flatten_dict(nested, delimiter="/")
    return flat


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """A config's, by their paths: by the names that users give, and functions without addresses.

    RLlib stores some in attributes that begin with an underscore; a function's address differs from
    process to process.
    """
    return {
        path.removeprefix("_"): re.sub(r" at 0x[0-9a-f]+", "", x) if isinstance(x, str) else x
        for path, x in _flat(config).items()
    }
