"""A report's curves: what is drawn of them, and where auxiliary phases ended."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from rllib_ppg.plots.curves import Points
from rllib_ppg.plots.results import Trial

MAX_POINTS = 800
_MAX_MARKS = 50
# Differs between any two evaluations.
EVALUATED = "evaluation/env_runners/episode_duration_sec_mean"


def modules(trial: Trial) -> list[str]:
    """Returns the modules that a trial has trained, by name."""
    found = (re.match(r"learners/([^/]+)/", path) for path in trial.columns)
    return sorted({match[1] for match in found if match} - {"__all_modules__"})


def curve(trial: Trial, path: str) -> Points:
    """Returns the curve of a metric, thinned to `MAX_POINTS`.

    RLlib repeats an evaluation in all results until the next one. It counts once.
    """
    values = trial.column(path)
    if path.startswith("evaluation/"):
        values = np.where(was_evaluated(trial), values, np.nan)
    kept = np.isfinite(values)
    return _thinned(Points(trial.env_steps[kept], values[kept]))


def was_evaluated(trial: Trial) -> np.ndarray:
    """Returns after which iterations a trial was evaluated, [n]."""
    return np.diff(np.nan_to_num(trial.column(EVALUATED)), prepend=0) != 0


def ended_aux_phase(trial: Trial) -> np.ndarray:
    """Returns which iterations ended in an auxiliary phase, [n]."""
    ended = np.zeros(len(trial.env_steps), bool)
    for path, column in trial.columns.items():
        if re.fullmatch(r"learners/[^/]+/aux/[^/]+", path):
            ended |= np.isfinite(column)
    return ended


def mark_every(trial: Trial) -> int:
    """Returns k, if every k-th auxiliary phase is marked; 0 if there is none."""
    return -(-int(ended_aux_phase(trial).sum()) // _MAX_MARKS)


def marks(trial: Trial, drawn: Points) -> Points:
    """Returns the points on a drawn curve at which auxiliary phases ended."""
    k = mark_every(trial) or 1
    steps = trial.env_steps[ended_aux_phase(trial)][k - 1 :: k]
    steps = steps[(drawn.env_steps[0] <= steps) & (steps <= drawn.env_steps[-1])]
    return Points(steps, drawn.at(steps))


def aux_epochs(trial: Trial, module: str, name: str) -> Points:
    """Returns a metric over a trial's auxiliary phases and their epochs.

    Epoch e of E of the n-th phase is at n - 1 + e/E, and NaN separates phases. If there are too
    many of them, they are thinned. Results without single epochs have the last one only.
    """
    prefix = f"learners/{module}/aux/"
    of_epochs: list[np.ndarray] = []
    while (column := trial.columns.get(f"{prefix}epoch_{len(of_epochs) + 1}/{name}")) is not None:
        of_epochs.append(column)
    values = np.stack(of_epochs or [trial.column(prefix + name)])[:, ended_aux_phase(trial)]
    E, n = values.shape
    at = np.arange(n) + np.arange(1, E + 1)[:, None] / E
    k = max(1, -(-n * (E + 1) // MAX_POINTS))
    gap = np.full((1, n), np.nan)
    at, values = (np.concatenate([x, gap])[:, k - 1 :: k].T.ravel() for x in (at, values))
    return Points(at, values)


def aux_metrics(trial: Trial, module: str) -> Iterator[str]:
    """Yields the names of the metrics of a module's auxiliary phases."""
    for path in trial.columns:
        if match := re.fullmatch(rf"learners/{re.escape(module)}/aux/([^/]+)", path):
            yield match[1]


def _thinned(points: Points) -> Points:
    """At most `MAX_POINTS` points, each the mean of as many successive ones as it takes."""
    k = -(-len(points.env_steps) // MAX_POINTS)
    if k < 2:
        return points
    starts = np.arange(0, len(points.env_steps), k)
    sizes = np.diff(starts, append=len(points.env_steps))
    means = (np.add.reduceat(x, starts) / sizes for x in (points.env_steps, points.returns))
    return Points(*means)
