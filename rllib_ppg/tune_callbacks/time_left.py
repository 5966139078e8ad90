"""How long a trial still takes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME as ENV_STEPS


class TimeLeft:
    """Estimates the time that a trial still takes, from its results so far.

    An iteration that ends in an auxiliary phase takes many times as long as one that doesn't. The
    two are timed separately, and the estimate counts how many of each are to come.

    Args:
        stop: Trial's stop criteria.

    Attributes:
        result: Latest result; empty before the first one.
        n_pi: Policy iterations per phase; 0 for an algorithm without phases.
        aux_phases: Number of auxiliary phases so far; None if unknown.
        ended_aux_phase: Whether the latest iteration ended in an auxiliary phase.
        env_steps: Env steps of the latest iteration.
    """

    def __init__(self, stop: Mapping[str, float]) -> None:
        # RLlib repeats its counters under env_runners/; either name works.
        self.stop = {key.split("/")[-1]: value for key, value in stop.items()}
        self.result: Mapping[str, Any] = {}
        self.n_pi = 0
        self.aux_phases: int | None = None
        self.ended_aux_phase = False
        self.env_steps = 0.0
        self._policy_seconds: deque[float] = deque(maxlen=8)
        self._aux_seconds: deque[float] = deque(maxlen=4)

    def update(self, result: Mapping[str, Any]) -> None:
        """Takes the result of the next iteration."""
        steps = result.get(ENV_STEPS, 0)
        before = self.result.get(ENV_STEPS)
        if before is None:  # first result of a new or a restored run
            before = steps * (1 - 1 / result["training_iteration"])
        self.env_steps = steps - before
        self.result = result
        config = result.get("config", {})
        self.n_pi = int(config.get("n_pi", 0)) if config.get("e_aux") else 0
        self._count_aux_phases()
        times = self._aux_seconds if self.ended_aux_phase else self._policy_seconds
        times.append(result["time_this_iter_s"])

    @property
    def iteration(self) -> int:
        """Number of the latest iteration; 0 before the first one."""
        return self.result.get("training_iteration", 0)

    @property
    def policy_iteration(self) -> int:
        """How many of the phase's policy iterations are done; 0 after its last one."""
        return int(get(self.result, "ppg/policy_iteration") or 0) % max(self.n_pi, 1)

    @property
    def is_lower_bound(self) -> bool:
        """Whether no auxiliary phase has been timed yet."""
        return self.n_pi > 0 and not self._aux_seconds

    def seconds(self) -> float | None:
        """Returns the time until the first stop criterion is met; None if it is unknown."""
        iterations = []
        if "training_iteration" in self.stop:
            iterations.append(self.stop["training_iteration"] - self.iteration)
        if ENV_STEPS in self.stop and self.env_steps:
            steps_left = self.stop[ENV_STEPS] - self.result.get(ENV_STEPS, 0)
            iterations.append(math.ceil(steps_left / self.env_steps))
        seconds = [self._seconds_for(max(int(n), 0)) for n in iterations]
        if "time_total_s" in self.stop:
            seconds.append(self.stop["time_total_s"] - self.result.get("time_total_s", 0))
        return min(seconds) if seconds else None

    def _seconds_for(self, iterations: int) -> float:
        has_phases = self.n_pi > 0 and self.aux_phases is not None
        aux = (self.policy_iteration + iterations) // self.n_pi if has_phases else 0
        policy_mean = _mean(self._policy_seconds or self._aux_seconds)
        aux_mean = _mean(self._aux_seconds or self._policy_seconds)
        return (iterations - aux) * policy_mean + aux * aux_mean

    def _count_aux_phases(self) -> None:
        phases = get(self.result, "ppg/num_aux_phases_lifetime")
        if phases is None or not self.n_pi:
            self.ended_aux_phase = False
            return
        if self.aux_phases is None:  # first result of a new or a restored run
            self.ended_aux_phase = phases > 0 and self.policy_iteration == 0
        else:
            self.ended_aux_phase = phases > self.aux_phases
        self.aux_phases = int(phases)


def get(result: Mapping[str, Any], path: str) -> float | None:
    """Returns a nested result by its path with slashes; None if it is missing or NaN."""
    value: Any = result
    for key in path.split("/"):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return None if value is None or math.isnan(value) else float(value)


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values) if values else 0.0
