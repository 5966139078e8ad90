"""The best trial of a sweep."""

from __future__ import annotations

from collections.abc import Iterable

from rllib_ppg.plots.final_table import in_short
from rllib_ppg.plots.panels import by_environment
from rllib_ppg.plots.results import Trial


def best_trials(trials: Iterable[Trial]) -> dict[str, Trial]:
    """Returns the trial with the highest final return on each environment, by its name.

    Returns on different environments can't be compared.
    """
    best: dict[str, Trial] = {}
    for trial in sorted(trials, key=lambda trial: trial.curve.final()):
        [panel] = by_environment([trial])
        best[panel.title] = trial
    return best


def in_words(trial: Trial) -> str:
    """Returns how good a trial is, as in "return 490.9 after 83.5k env steps"."""
    return f"return {trial.curve.final():.4g} after {in_short(trial.env_steps[-1])} env steps"
