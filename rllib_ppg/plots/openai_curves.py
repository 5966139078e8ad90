"""OpenAI's published learning curves on Procgen; see `data/README.md`."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np

from rllib_ppg.did_you_mean import did_you_mean
from rllib_ppg.plots.curves import Curve, Points

DEFAULT = ("ppg", "ppo")
_FILE = Path(__file__).parent / "data" / "openai_curves.csv.gz"
_LABELS = {
    "ppg": "PPG",
    "ppo": "PPO",
    "ppg_single": "PPG, one network",
    "ppgkl": "PPG, KL penalty",
}
# Not e_pi: their sweep of it varied E_V too.
_SWEPT = ("n_pi", "e_aux")


def curve(experiment: str, game: str, against: str | None = None) -> Curve:
    """Returns an experiment's runs on a game, in hard mode with all levels.

    Args:
        experiment: "ppg", "ppo", "ppg_single", "ppgkl", or one of a sweep, for example "n_pi=8".
        game: Procgen's name of the game.
        against: Setting that is plotted against; the experiments of its sweep share a label.

    Raises:
        ValueError: If there is no such experiment.
    """
    check_experiment(experiment)
    setting, _, value = experiment.partition("=")
    label = f"OpenAI {_LABELS.get(experiment, f'PPG, {experiment}')}"
    x = None
    if against and setting == against:
        label, x = "OpenAI's sweep", int(value)
    algo = "PPO" if experiment == "ppo" else "PPG"
    return Curve(label, _read()[experiment, game], algo, x, reference=experiment)


def sweep(setting: str) -> list[str]:
    """Returns the experiments of OpenAI's sweep of a setting; empty if there is no such sweep."""
    names = [e for e in experiments() if setting in _SWEPT and e.startswith(f"{setting}=")]
    return sorted(names, key=lambda name: int(name.split("=")[1]))


def experiments() -> list[str]:
    """Returns the names of all experiments."""
    return list({experiment: None for experiment, _ in _read()})


def check_experiment(name: str) -> None:
    """Raises a ValueError if there is no such experiment."""
    if name not in experiments():
        raise ValueError(
            f"OpenAI published no experiment {name!r}, but {', '.join(experiments())}"
            f"{did_you_mean(name, experiments())}"
        )


@cache
def _read() -> Mapping[tuple[str, str], tuple[Points, ...]]:
    curves: dict[tuple[str, str], tuple[Points, ...]] = {}
    with gzip.open(_FILE, "rt", encoding="utf-8") as file:
        rows = csv.reader(file)
        steps = np.array(next(rows)[3:], float)
        for experiment, game, _, *returns in rows:
            run = Points(steps, np.array(returns, float))
            curves[experiment, game] = (*curves.get((experiment, game), ()), run)
    return curves
