"""Arranges trials for a picture or a table: a panel an environment, a curve a setting.

Trials that differ in nothing but their seed are one curve. The folder they are in tells them apart
only where nothing else does: the same settings with the same seed in two runs. A seed that was
trained more than once in one run counts once, with its latest trial.
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
from rllib_ppg.plots import openai_curves
from rllib_ppg.plots.curves import Curve, Points, common_steps
from rllib_ppg.plots.results import Trial

# The run's folder among the settings; it is named by its value alone.
_RUN = ""
_MODE = "env_config/distribution_mode"
# Seeds are averaged over, environments have panels of their own, callbacks only look on.
_NO_SETTINGS = {"seed", "env"}
# Options of Procgen that change no game.
_SAME_GAME = {"num_threads", "rand_seed"}


@dataclass(frozen=True)
class Panel:
    """Curves to be compared: those of one environment, or means over games.

    Attributes:
        title: The environment.
        curves: Those of the trials, and after them OpenAI's.
        game: Procgen's game, "" if it is none.
        mode: Its mode.
        as_published: Whether OpenAI's curves are of the same environment.
        normalized: Whether returns are normalised ones.
    """

    title: str
    curves: tuple[Curve, ...]
    game: str = ""
    mode: str = ""
    as_published: bool = False
    normalized: bool = False


def by_environment(trials: Iterable[Trial], against: str | None = None) -> list[Panel]:
    """Returns a panel an environment, sorted by name.

    Args:
        trials: In the order in which they started.
        against: The path of the setting to plot against: not in the labels, but each curve's `x`.
    """
    trials = list(trials)
    swept = {
        algo: [path for path in paths if path != against]
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
    """Adds OpenAI's curves, as far as the panel's own go, where they are of the same environment.

    Raises:
        ValueError: If they published no such experiment.
    """
    added = []
    for panel in panels:
        if panel.as_published:
            end = max(curve.last_step() for curve in panel.curves)
            theirs = [openai_curves.curve(e, panel.game, against).until(end) for e in experiments]
            curves = (*panel.curves, *(curve for curve in theirs if curve.seeds))
            panel = replace(panel, curves=curves)
        added.append(panel)
    return added


def mean_over_games(panels: Iterable[Panel]) -> list[Panel]:
    """Returns a panel with mean normalised returns, if there are several games that all share.

    The first seeds of all games make the first seed of the mean, and so on, as far as each has one.
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
    curves = [_mean_curve(group) for group in together.values() if len(group) == len(games)]
    return [
        Panel(
            title=f"mean over {len(games)} games",
            curves=tuple(curve for curve in curves if curve.seeds),
            normalized=True,
        )
    ]


def swept_settings(trials: Iterable[Trial]) -> dict[str, list[str]]:
    """Returns, for each algorithm, the paths of the settings in which its trials differ.

    A difference between environments alone is none. A last path "" stands for the run's folder.
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
    """Returns the path of a setting that is given by its path or the end of it.

    Raises:
        ValueError: If there is no such setting, or trials in one environment all have the same.
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
        settings = ", ".join(map(_in_words, swept[algo], values))
        label = f"{algo} ({settings})" if settings and len(swept) > 1 else settings or algo
        yield Curve(label, _seeds(groups[key]), algo, x)


def _seeds(trials: Sequence[Trial]) -> tuple[Points, ...]:
    latest: dict[Any, Trial] = {}
    for i, trial in enumerate(trials):
        # Without a seed every trial is another one.
        latest[i if trial.seed is None else f"seed {trial.seed}"] = trial
    in_order = sorted(latest.values(), key=lambda trial: trial.seed or 0)
    return tuple(Points(trial.env_steps, trial.returns) for trial in in_order)


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
    """Procgen's, of an option; None of anything else."""
    return OPTIONS.get(path.removeprefix("env_config/")) if procgen_game(trial.env) else None


def _value(trial: Trial, path: str) -> Any:
    """Returns what a setting is, Procgen's defaults included, as something to compare by."""
    if path == _RUN:
        return trial.run
    value = trial.setting(path)
    if value is None:
        value = _default(trial, path)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number else str(value)


def _in_words(path: str, value: Any) -> str:
    # Of a label that begins with an underscore matplotlib makes no legend.
    return str(value).lstrip("_") if path == _RUN else f"{path.split('/')[-1]}={value}"


def _key(curve: Curve) -> tuple[Any, ...]:
    return curve.label, curve.x, curve.reference


def _numbers_by_size(key: Any) -> Any:
    """Makes numbers, words and tuples of them sortable, numbers first."""
    if isinstance(key, tuple):
        return tuple(map(_numbers_by_size, key))
    return (0, key, "") if isinstance(key, int | float) else (1, 0, str(key))
