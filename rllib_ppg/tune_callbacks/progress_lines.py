"""A trial's progress as lines of text: where it is, how fast it is, and how long it still takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME as ENV_STEPS

from rllib_ppg.tune_callbacks.time_left import TimeLeft, get


class ProgressLines:
    """Describes one trial, result by result.

    Args:
        stop: Trial's stop criteria.
    """

    def __init__(self, stop: Mapping[str, float]) -> None:
        self._time_left = TimeLeft(stop)
        self._aux_epoch = ""

    def update(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the lines about an iteration.

        There is one line, and one more each for an auxiliary phase and an evaluation.

        Args:
            result: RLlib's result of the iteration.
        """
        self._aux_epoch = ""
        self._time_left.update(result)
        aux_line = self._aux_line() if self._time_left.ended_aux_phase else ""
        return [line for line in (self._line(), aux_line, self._evaluation_line()) if line]

    def aux_epoch(self, epoch: int, num_epochs: int) -> str:
        """Returns the line about an auxiliary epoch that has ended; 0 is the phase's start."""
        self._aux_epoch = f"auxiliary {epoch}/{num_epochs}"
        return _join([self._iteration(self._time_left.iteration + 1), self._aux_epoch])

    def now(self, seconds: float) -> str:
        """Returns the line about the iteration in progress.

        Args:
            seconds: Time since it started.
        """
        time_left = self._time_left
        if not time_left.result:
            return f"starting   {duration(seconds)}"
        left = time_left.seconds()
        parts = [
            self._iteration(time_left.iteration + 1),
            self._aux_epoch or self._policy_iteration(time_left.policy_iteration + 1),
            duration(seconds),
            self._left(None if left is None else max(left - seconds, 0)),
        ]
        return _join(parts)

    def _line(self) -> str:
        time_left = self._time_left
        speed = time_left.env_steps / max(time_left.result["time_this_iter_s"], 1e-9)
        episode_return = get(time_left.result, "env_runners/episode_return_mean")
        parts = [
            self._iteration(time_left.iteration),
            f"{time_left.result.get(ENV_STEPS, 0):,.0f} steps",
            f"{speed:,.0f} steps/s",
            "return " + ("-" if episode_return is None else f"{episode_return:.2f}"),
            self._policy_iteration(time_left.policy_iteration or time_left.n_pi),
            self._missing_env_runners(),
            self._left(time_left.seconds()),
        ]
        return _join(parts)

    def _iteration(self, number: int) -> str:
        last = self._time_left.stop.get("training_iteration")
        return f"iteration {number}/{last:g}" if last else f"iteration {number}"

    def _policy_iteration(self, number: int) -> str:
        n_pi = self._time_left.n_pi
        return f"policy {number}/{n_pi}" if n_pi else ""

    def _missing_env_runners(self) -> str:
        """How many env runners the iteration had, if some were missing."""
        result = self._time_left.result
        present = get(result, "ppg/num_rollouts")
        total = max(result.get("config", {}).get("num_env_runners", 0), 1)
        missing = present is not None and present < total
        return f"{present:.0f} of {total} env runners" if missing else ""

    def _left(self, seconds: float | None) -> str:
        if not seconds:
            return ""
        return f"{'more than ' if self._time_left.is_lower_bound else '~'}{duration(seconds)} left"

    def _aux_line(self) -> str:
        result = self._time_left.result
        metrics = "learners/default_policy/aux"
        numbers = {
            "explained variance": get(result, f"{metrics}/vf_aux_explained_var"),
            "clone KL": get(result, f"{metrics}/clone_kl"),
        }
        parts = [
            f"  auxiliary phase {self._time_left.aux_phases}",
            f"{get(result, 'ppg/replay_states') or 0:,.0f} states",
            *(f"{name} {value:.4g}" for name, value in numbers.items() if value is not None),
        ]
        return _join(parts)

    def _evaluation_line(self) -> str:
        result = self._time_left.result
        episode_return = get(result, "evaluation/env_runners/episode_return_mean")
        if episode_return is None:
            return ""
        gap = get(result, "evaluation/generalization_gap")
        parts = ["  evaluation", f"return {episode_return:.2f}"]
        return _join([*parts, "" if gap is None else f"generalization gap {gap:.3f}"])


def duration(seconds: float) -> str:
    """Returns a time span in its two largest units, for example "2m10s"."""
    minutes, s = divmod(math.ceil(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d{h:02d}h"
    if hours:
        return f"{h}h{m:02d}m"
    return f"{m}m{s:02d}s" if minutes else f"{s}s"


def _join(parts: Iterable[str]) -> str:
    return "   ".join(part for part in parts if part)
