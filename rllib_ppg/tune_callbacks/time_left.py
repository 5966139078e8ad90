"""One run's progress in words: where it is, how fast it goes, and how long it has to go."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any


class RunClock:
    """Follows one trial through its results.

    An iteration that ends in an auxiliary phase takes many times as long as one that doesn't, so
    the two are timed apart, and the time left is that of the ones and of the others to come.

    Args:
        stop: The trial's stop criteria.
    """

    def __init__(self, stop: Mapping[str, float]) -> None:
        # RLlib repeats its counters below env_runners/, and either name will do.
        self._stop = {key.split("/")[-1]: value for key, value in stop.items()}
        self._n_pi = 0  # stays so for an algorithm without phases
        self._result: Mapping[str, Any] = {}
        self._steps_this_iteration = 0.0
        self._in_aux_phase = ""
        self._aux_phases: int | None = None
        self._policy_seconds: deque[float] = deque(maxlen=8)
        self._aux_seconds: deque[float] = deque(maxlen=4)

    def update(self, result: Mapping[str, Any]) -> list[str]:
        """Takes in an iteration's result.

        Args:
            result: RLlib's result of one iteration.

        Returns:
            The lines that tell of it: one, and one more for an auxiliary phase and for an
            evaluation that ended with it.
        """
        steps = result.get("num_env_steps_sampled_lifetime", 0)
        before = self._result.get("num_env_steps_sampled_lifetime")
        if before is None:  # the first result, of a new or a restored run
            before = steps * (1 - 1 / result["training_iteration"])
        self._steps_this_iteration = steps - before
        self._result = result
        self._in_aux_phase = ""
        self._n_pi = _policy_iterations_per_phase(result.get("config", {}))

        had_aux_phase = self._had_aux_phase()
        times = self._aux_seconds if had_aux_phase else self._policy_seconds
        times.append(result["time_this_iter_s"])
        lines = [self._line(), self._aux_line() if had_aux_phase else "", self._evaluation_line()]
        return [line for line in lines if line]

    def aux_epoch(self, epoch: int, num_epochs: int) -> str:
        """Takes in an auxiliary epoch, 0 as the phase begins, and returns the words for it."""
        self._in_aux_phase = f"auxiliary {epoch}/{num_epochs}"
        return f"{self._iteration(self._number + 1)}   {self._in_aux_phase}"

    def now(self, seconds: float) -> str:
        """Returns the words for the iteration in progress.

        Args:
            seconds: How long it has been going on.
        """
        if not self._result:
            return f"starting   {duration(seconds)}"
        phase = self._in_aux_phase or self._policy_phase(self._place + 1)
        left = self.seconds_left()
        parts = [
            self._iteration(self._number + 1),
            phase,
            duration(seconds),
            self._left_in_words(None if left is None else max(left - seconds, 0)),
        ]
        return _joined(parts)

    def seconds_left(self) -> float | None:
        """Returns the time to the nearest stop criterion, None if none says."""
        number, steps = self._number, self._result.get("num_env_steps_sampled_lifetime", 0)
        iterations = []
        if "training_iteration" in self._stop:
            iterations.append(self._stop["training_iteration"] - number)
        if "num_env_steps_sampled_lifetime" in self._stop and self._steps_this_iteration:
            steps_left = self._stop["num_env_steps_sampled_lifetime"] - steps
            iterations.append(math.ceil(steps_left / self._steps_this_iteration))
        seconds = [self._seconds_for(max(int(n), 0)) for n in iterations]
        if "time_total_s" in self._stop:
            seconds.append(self._stop["time_total_s"] - self._result.get("time_total_s", 0))
        return min(seconds) if seconds else None

    def _seconds_for(self, iterations: int) -> float:
        aux = self._aux_phases_in(iterations)
        policy_mean = _mean(self._policy_seconds or self._aux_seconds)
        aux_mean = _mean(self._aux_seconds or self._policy_seconds)
        return (iterations - aux) * policy_mean + aux * aux_mean

    def _aux_phases_in(self, iterations: int) -> int:
        has_phases = self._n_pi > 0 and self._aux_phases is not None
        return (self._place + iterations) // self._n_pi if has_phases else 0

    def _had_aux_phase(self) -> bool:
        phases = get(self._result, "ppg/num_aux_phases_lifetime")
        if phases is None or not self._n_pi:
            return False
        known, self._aux_phases = self._aux_phases, int(phases)
        return phases > known if known is not None else phases > 0 and self._place == 0

    @property
    def _number(self) -> int:
        return self._result.get("training_iteration", 0)

    @property
    def _place(self) -> int:
        """How many of the phase's policy iterations are done; 0 after its last."""
        return int(get(self._result, "ppg/policy_iteration") or 0) % max(self._n_pi, 1)

    def _iteration(self, number: int) -> str:
        of = self._stop.get("training_iteration")
        return f"iteration {number}/{of:g}" if of else f"iteration {number}"

    def _policy_phase(self, iteration: int) -> str:
        return f"policy {iteration}/{self._n_pi}" if self._n_pi else ""

    def _line(self) -> str:
        steps = self._result.get("num_env_steps_sampled_lifetime", 0)
        speed = self._steps_this_iteration / max(self._result["time_this_iter_s"], 1e-9)
        episode_return = get(self._result, "env_runners/episode_return_mean")
        parts = [
            self._iteration(self._number),
            f"{steps:,.0f} steps",
            f"{speed:,.0f} steps/s",
            "return " + ("-" if episode_return is None else f"{episode_return:.2f}"),
            self._policy_phase(self._place or self._n_pi),
            self._missing(),
            self._left_in_words(self.seconds_left()),
        ]
        return _joined(parts)

    def _missing(self) -> str:
        """Returns how many env runners the iteration had, if not all: some may have died."""
        there = get(self._result, "ppg/num_rollouts")
        in_all = max(self._result.get("config", {}).get("num_env_runners", 0), 1)
        missing = there is not None and there < in_all
        return f"{there:.0f} of {in_all} env runners" if missing else ""

    def _left_in_words(self, seconds: float | None) -> str:
        if not seconds:
            return ""
        # Before the first auxiliary phase nobody knows how long one takes.
        unknown = self._n_pi and not self._aux_seconds
        return f"{'more than ' if unknown else '~'}{duration(seconds)} left"

    def _aux_line(self) -> str:
        metrics = "learners/default_policy/aux"
        parts = [
            f"  auxiliary phase {self._aux_phases}",
            f"{get(self._result, 'ppg/replay_states') or 0:,.0f} states",
            *(
                f"{name} {value:.4g}"
                for name, value in (
                    ("explained variance", get(self._result, f"{metrics}/vf_aux_explained_var")),
                    ("clone KL", get(self._result, f"{metrics}/clone_kl")),
                )
                if value is not None
            ),
        ]
        return _joined(parts)

    def _evaluation_line(self) -> str:
        episode_return = get(self._result, "evaluation/env_runners/episode_return_mean")
        if episode_return is None:
            return ""
        gap = get(self._result, "evaluation/generalization_gap")
        parts = ["  evaluation", f"return {episode_return:.2f}"]
        return _joined([*parts, "" if gap is None else f"generalization gap {gap:.3f}"])


def get(result: Mapping[str, Any], path: str) -> float | None:
    """Returns a nested result by its path with slashes; None if it is missing or NaN."""
    value: Any = result
    for key in path.split("/"):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return None if value is None or math.isnan(value) else float(value)


def duration(seconds: float) -> str:
    """Returns a time span in its two largest units, as in "2m10s"."""
    minutes, s = divmod(math.ceil(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d{h:02d}h"
    if hours:
        return f"{h}h{m:02d}m"
    return f"{m}m{s:02d}s" if minutes else f"{s}s"


def _policy_iterations_per_phase(config: Mapping[str, Any]) -> int:
    return int(config.get("n_pi", 0)) if config.get("e_aux") else 0


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def _joined(parts: Iterable[str]) -> str:
    return "   ".join(part for part in parts if part)
