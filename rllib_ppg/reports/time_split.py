"""What a trial spent its time on."""

from __future__ import annotations

import numpy as np

from rllib_ppg.plots.results import Trial
from rllib_ppg.reports.curves import modules, was_evaluated

PARTS = ("sampling", "policy phase", "auxiliary phase", "broadcast", "evaluation", "other")
# RLlib's timers are exponential moving averages with this weight for a new time.
_WEIGHT = 0.01


def seconds(trial: Trial) -> np.ndarray:
    """Returns the seconds of each part in each iteration, [parts, n]; 0 where it has none.

    What an iteration spends on no other part counts as evaluation if it has one: RLlib's timer of
    evaluations is an iteration late.
    """
    phases = len(modules(trial)) or 1  # one after the other, on one timer
    parts = [
        _timed(trial, "env_runner_sampling_timer"),
        _timed(trial, "policy_phase", phases) + _timed(trial, "learner_update_timer"),
        _timed(trial, "auxiliary_phase", phases),
        _timed(trial, "synch_weights"),
    ]
    rest = np.maximum(np.nan_to_num(trial.column("time_this_iter_s")) - sum(parts), 0)
    evaluated = was_evaluated(trial)
    return np.array([*parts, rest * evaluated, rest * ~evaluated])


def _timed(trial: Trial, timer: str, times: int = 1) -> np.ndarray:
    """The seconds that a timer measured in each iteration, [n], from its moving average.

    Args:
        trial: The trial.
        timer: Name of the timer.
        times: How many times an iteration uses it.
    """
    average = np.nan_to_num(trial.column(f"timers/{timer}"))
    before = np.concatenate([[0.0], average[:-1]])
    measured = (average - (1 - _WEIGHT) ** times * before) / _WEIGHT
    # A restored run may begin a new average.
    is_new = (before == 0) | (measured < 0) | (measured > trial.column("time_this_iter_s"))
    return np.where(average == before, 0.0, np.where(is_new, times * average, measured))
