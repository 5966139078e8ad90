"""Episode metrics over the last episodes of all env runners, across iterations.

RLlib's metrics lose their window after every iteration, and average over env runners rather than
episodes. With long episodes that leaves a mean of a few episodes, or none. The driver keeps the
window instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EPISODE_DURATION_SEC_MEAN,
    EPISODE_LEN_MAX,
    EPISODE_LEN_MEAN,
    EPISODE_LEN_MIN,
    EPISODE_RETURN_MAX,
    EPISODE_RETURN_MEAN,
    EPISODE_RETURN_MIN,
)
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

# What the driver logs about episodes. An env runner's own metrics only cover its last calls.
EPISODE_METRICS = (
    EPISODE_RETURN_MEAN,
    EPISODE_RETURN_MIN,
    EPISODE_RETURN_MAX,
    EPISODE_LEN_MEAN,
    EPISODE_LEN_MIN,
    EPISODE_LEN_MAX,
    EPISODE_DURATION_SEC_MEAN,
)


class Episode(NamedTuple):
    """A finished episode: length in env steps, undiscounted raw return, wall time."""

    length: int
    ret: float
    seconds: float


class EpisodeWindow:
    """The last `size` episodes (RLlib's `metrics_num_episodes_for_smoothing`)."""

    def __init__(self, size: int):
        self.episodes: deque[Episode] = deque(maxlen=size)

    def add(self, episodes: Iterable[Episode]) -> None:
        """Adds episodes that have ended."""
        self.episodes.extend(episodes)

    def log(self, metrics: MetricsLogger) -> None:
        """Logs mean, minimum and maximum under RLlib's names, once an episode has ended."""
        if not self.episodes:
            return
        length, ret, seconds = np.array(self.episodes, np.float64).T
        values = [f() for x in (ret, length) for f in (x.mean, x.min, x.max)]
        for key, value in zip(EPISODE_METRICS, [*values, seconds.mean()], strict=True):
            metrics.log_value((ENV_RUNNER_RESULTS, key), float(value), window=1)
