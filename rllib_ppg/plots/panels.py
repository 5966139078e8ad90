"""Arranges trials for a picture or a table: a panel per environment, a curve per setting.

Trials that differ only in their seed form one curve. If two runs have the same settings and the
same seed, their folders tell the curves apart. A seed that was trained more than once in one run
counts once, with its latest trial.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rllib_ppg.did_you_mean import did_you_mean
from rllib_ppg.envs.procgen import OPTIONS, RETURN_RANGES, normalized_return
from rllib_ppg.envs.procgen_levels import procgen_game
from rllib_ppg.experiments.trial_names import settings_in_words
from rllib_ppg.plots import openai_curves
from rllib_ppg.plots.curves import Curve, Points, common_steps
from rllib_ppg.plots.results import Trial

# Path of the run's folder among the settings; labels show only its value.
_RUN = ""
_LONG_LABEL = 60
_MODE = "env_config/distribution_mode"
# Seeds are averaged over, and each environment has its own panel.
_NO_SETTINGS = {"seed", "env"}
# Options of Procgen that do not change the game.
_SAME_GAME = {"num_threads", "rand_seed"}


@dataclass(frozen=True)
class Panel:
    """Curves to compare: those of one environment, or means over games.

    Attributes:
        title: Name of the environment.
        curves: Curves of the trials, followed by OpenAI's.
        game: Procgen game; "" for other environments.
        mode: Procgen's distribution mode.
        as_published: Whether OpenAI's curves are of the same environment.
        normalized: Whether returns are normalised.
    """

    title: str
    curves: tuple[Curve, ...]
    game: str = ""
    mode: str = ""
    as_published: bool = False
    normalized: bool = False

    def last_step(self) -> float:
        """Returns the last step of the longest run."""
        return max(curve.last_step() for curve in self.curves)

    def equal_step(self) -> float | None:
        """Returns the step up to which returns can be compared; None if no run ended early."""
        end = self.last_step()
        if not any(curve.num_short_of(end) for curve in self.curves):
            return None
        return float(min(seed.env_steps[-1] for curve in self.curves for seed in curve.seeds))


def by_environment(trials: Iterable[Trial], against: str | None = None) -> list[Panel]:
    """Returns a panel per environment, sorted by name.

    Args:
        trials: Trials in the order in which they started.
        against: Path of the setting to plot against. It becomes each curve's `x` instead of a part
            of its label.
    """
    trials = list(trials)
    swept = {
        algo: _or_run(
            [trial for trial in trials if trial.algo == algo],
            [path for path in paths if path != against],
        )
        for algo, paths in swept_settings(trials).items()
    }
    environments: dict[tuple[str, str], list[Trial]] = defaultdict(list)
    for trial in trials:
        environments[trial.env, _mode(trial)].append(trial)
    return [
        Panel(
            title=f"{procgen_game(env)} ({mode})" if mode else env,
            curves=tuple(_curves(members, swept, against)),
            game=procgen_game(env) or "",
            mode=mode,
            as_published=any(_is_as_published(trial) for trial in members),
        )
        for (env, mode), members in sorted(environments.items())
    ]


def add_reference(
    panels: Iterable[Panel], experiments: Sequence[str], against: str | None = None
) -> list[Panel]:
    """Adds OpenAI's curves to panels of the same environment, up to the last step of its runs.

    Raises:
        ValueError: If OpenAI published no such experiment.
    """
    added = []
    for panel in panels:
        if panel.as_published:
            end = panel.last_step()
            theirs = [openai_curves.curve(e, panel.game, against).until(end) for e in experiments]
            curves = (*panel.curves, *(curve for curve in theirs if curve.seeds))
            panel = replace(panel, curves=curves)
        added.append(panel)
    return added


def mean_over_games(panels: Iterable[Panel]) -> list[Panel]:
    """Returns a panel with mean normalised returns, if all settings ran on several games.

    The first seeds of all games form the mean's first seed, and so on, while each game has one.
    """
    games = [panel for panel in panels if panel.mode in RETURN_RANGES.get(panel.game, ())]
    ours = {_key(curve) for panel in games for curve in panel.curves if not curve.reference}
    games = [panel for panel in games if ours <= {_key(curve) for curve in panel.curves}]
    if len(games) < 2:
        return []
    together: dict[Any, list[tuple[Panel, Curve]]] = defaultdict(list)
    for panel in games:
        for curve in panel.curves:
            together[_key(curve)].append((panel, curve))
    means = (_mean_curve(group) for group in together.values() if len(group) == len(games))
    curves = tuple(curve for curve in means if curve.seeds)
    if not curves:  # the games have no env step in common yet
        return []
    return [Panel(title=f"mean over {len(games)} games", curves=curves, normalized=True)]


def swept_settings(trials: Iterable[Trial]) -> dict[str, list[str]]:
    """Returns, for each algorithm, the paths of the settings in which its trials differ.

    Differences between environments do not count. A last path "" stands for the run's folder.
    """
    algorithms: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        algorithms[trial.algo].append(trial)
    swept = {}
    for algo, members in algorithms.items():
        values: dict[tuple[str, str, str], set[Any]] = defaultdict(set)
        given = {path for trial in members for path in trial.given} - _NO_SETTINGS
        for path in (path for path in given if not path.startswith("callbacks")):
            for trial in members:
                values[path, trial.env, _mode(trial)].add(_value(trial, path))
        paths = sorted({path for (path, *_), of_path in values.items() if len(of_path) > 1})
        swept[algo] = paths + [_RUN] * _same_seed_in_two_runs(members, paths)
    return swept


def find_setting(trials: Sequence[Trial], name: str) -> str:
    """Returns the path of a setting, given the path or its last part.

    Raises:
        ValueError: If there is no such setting, or it has one value in each environment.
    """
    known = sorted({path for trial in trials for path in (*trial.config, *trial.given)})
    matches = [p for p in known if p == name] or [p for p in known if p.split("/")[-1] == name]
    if len(matches) != 1:
        several = f"; it may be {' or '.join(matches)}" if matches else did_you_mean(name, known)
        raise ValueError(f"these runs have no setting {name!r}{several}")
    [path] = matches
    values: dict[tuple[str, str], set[Any]] = defaultdict(set)
    for trial in trials:
        if _has(trial, path):
            values[trial.env, _mode(trial)].add(_value(trial, path))
    if all(len(of_env) == 1 for of_env in values.values()):
        swept = {path for paths in swept_settings(trials).values() for path in paths} - {_RUN}
        others = f"; they differ in {', '.join(sorted(swept))}" if swept else ""
        raise ValueError(f"runs on one environment all have the same {name}{others}")
    return path


def _curves(
    trials: Sequence[Trial], swept: dict[str, list[str]], against: str | None
) -> Iterable[Curve]:
    groups: dict[tuple[Any, ...], list[Trial]] = defaultdict(list)
    for trial in trials:
        values = tuple(_value(trial, path) for path in swept[trial.algo])
        x = _value(trial, against) if against and _has(trial, against) else None
        groups[trial.algo, values, x].append(trial)
    for key in sorted(groups, key=_numbers_by_size):
        algo, values, x = key
        settings = _settings_in_words(swept[algo], values)
        label = f"{algo} ({settings})" if settings and len(swept) > 1 else settings or algo
        yield Curve(label, _seeds(groups[key]), algo, x)


def _seeds(trials: Sequence[Trial]) -> tuple[Points, ...]:
    latest: dict[Any, Trial] = {}
    for i, trial in enumerate(trials):
        # Trials without a seed are all different.
        latest[i if trial.seed is None else f"seed {trial.seed}"] = trial
    in_order = sorted(latest.values(), key=lambda trial: trial.seed or 0)
    return tuple(trial.curve for trial in in_order)


def _mean_curve(group: Sequence[tuple[Panel, Curve]]) -> Curve:
    games = [
        [
            Points(seed.env_steps, normalized_return(panel.game, panel.mode, seed.returns))
            for seed in curve.seeds
        ]
        for panel, curve in group
    ]
    means = []
    for seeds in zip(*games, strict=False):
        steps = common_steps(seeds)
        if len(steps):
            means.append(Points(steps, np.mean([seed.at(steps) for seed in seeds], axis=0)))
    return replace(group[0][1], seeds=tuple(means))


def _or_run(trials: Sequence[Trial], paths: list[str]) -> list[str]:
    """The settings that name curves; the run's folder alone if there are too many of them."""
    runs: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for trial in trials:
        runs[tuple(_value(trial, path) for path in paths)].add(trial.run)
    longest = max(len(_settings_in_words(paths, values)) for values in runs)
    is_same = all(len(names) == 1 for names in runs.values())
    is_same &= len(set().union(*runs.values())) == len(runs)
    return [_RUN] if is_same and longest > _LONG_LABEL else paths


def _same_seed_in_two_runs(trials: Iterable[Trial], paths: Iterable[str]) -> bool:
    runs: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for trial in trials:
        values = tuple(_value(trial, path) for path in paths)
        runs[trial.env, _mode(trial), trial.seed, values].add(trial.run)
    return any(len(names) > 1 for names in runs.values())


def _is_as_published(trial: Trial) -> bool:
    if not procgen_game(trial.env):
        return False
    options = {option: trial.setting(f"env_config/{option}") for option in OPTIONS}
    changed = {k for k, value in options.items() if value is not None and value != OPTIONS[k]}
    return changed <= _SAME_GAME


def _mode(trial: Trial) -> str:
    return _value(trial, _MODE) if procgen_game(trial.env) else ""


def _has(trial: Trial, path: str) -> bool:
    return path in trial.config or path in trial.given or _default(trial, path) is not None


def _default(trial: Trial, path: str) -> Any:
    """Procgen's default of an option; None for anything else."""
    return OPTIONS.get(path.removeprefix("env_config/")) if procgen_game(trial.env) else None


def _value(trial: Trial, path: str) -> Any:
    """A setting's value, with Procgen's defaults, as a number or text that can be compared."""
    if path == _RUN:
        return trial.run
    value = trial.setting(path)
    if value is None:
        value = _default(trial, path)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number else str(value)


def _settings_in_words(paths: Sequence[str], values: Sequence[Any]) -> str:
    return ", ".join(map(_in_words, paths, values))


def _in_words(path: str, value: Any) -> str:
    # matplotlib leaves labels that begin with an underscore out of the legend.
    return str(value).lstrip("_") if path == _RUN else settings_in_words({path: value})


def _key(curve: Curve) -> tuple[Any, ...]:
    return curve.label, curve.x, curve.reference


def _numbers_by_size(key: Any) -> Any:
    """Sort key of numbers, words and tuples of them; numbers come first."""
    if isinstance(key, tuple):
        return tuple(map(_numbers_by_size, key))
    return (0, key, "") if isinstance(key, int | float) else (1, 0, str(key))
