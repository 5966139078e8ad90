"""Scores of a trained policy, for `rllib evaluate`.

The number of episodes that count is fixed for each env in advance. Counting the episodes that end
first, over all envs, would favour short episodes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from rllib_ppg.envs.procgen_levels import (
    HELD_OUT,
    TRAINING,
    describe,
    held_out,
    normalized,
    procgen_game,
    which_levels,
)
from rllib_ppg.evaluation.players import OnProgress, Player, make_player
from rllib_ppg.evaluation.trained_policy import TrainedPolicy

# Number of envs. With more, steps are faster, but the wait for the last episode is longer.
NUM_ENVS = 16


class Played(NamedTuple):
    """An episode: its undiscounted return and its length in env steps."""

    episode_return: float
    length: int


class Mean(NamedTuple):
    """A mean and its standard error, which is None for a single value."""

    mean: float
    std_error: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """The mean of at least one value."""
        n = len(values)
        return cls(fmean(values), stdev(values) / math.sqrt(n) if n > 1 else None)

    def minus(self, other: Mean) -> Mean:
        """Difference of two independent means."""
        gap = self.mean - other.mean
        if self.std_error is None or other.std_error is None:
            return Mean(gap, None)
        return Mean(gap, math.hypot(self.std_error, other.std_error))


@dataclass(frozen=True)
class Score:
    """The episodes of a policy in one env.

    Attributes:
        env: The env.
        env_config: Its config.
        episodes: The episodes, ordered by the copy of the env that played them.
    """

    env: Any
    env_config: Mapping[str, Any]
    episodes: Sequence[Played]

    @property
    def means(self) -> dict[str, Mean]:
        """Means of "return", "length" and, for Procgen, "normalized_return"."""
        returns = [episode.episode_return for episode in self.episodes]
        means = {
            "return": Mean.of(returns),
            "length": Mean.of([episode.length for episode in self.episodes]),
        }
        scaled = normalized(self.env, self.env_config, np.array(returns))
        if scaled is not None:
            means["normalized_return"] = Mean.of(scaled.tolist())
        return means


def columns(policy: TrainedPolicy, config: AlgorithmConfig) -> dict[str, AlgorithmConfig]:
    """The configs to compare, by name: the columns of the table.

    Args:
        policy: The policy.
        config: Its config, perhaps with changes (see `TrainedPolicy.config_with`).

    Returns:
        For the Procgen game and levels of the training: the training levels and the held-out
        levels, if there are any. Otherwise the config as it is.
    """
    trained, env_config = policy.config, config.env_config
    if procgen_game(config.env) is None:
        return {config.env if isinstance(config.env, str) else config.env.__name__: config}
    others = held_out(env_config)
    same_levels = which_levels(env_config) == which_levels(trained.env_config)
    if config.env != trained.env or not same_levels or others is None:
        return {describe(env_config): config}
    unseen = config.copy(copy_frozen=False)
    unseen.env_config = others
    return {TRAINING: config, HELD_OUT: unseen}


def score(
    policy: TrainedPolicy,
    config: AlgorithmConfig,
    *,
    episodes: int,
    max_steps: int | None,
    seed: int,
    explore: bool,
    on_progress: OnProgress | None = None,
) -> Score:
    """Plays episodes of an env with a policy.

    Args:
        policy: The policy.
        config: Its config, with the env.
        episodes: Number of episodes.
        max_steps: Maximum number of env steps, or None.
        seed: Seed of the envs and the actions.
        explore: Whether to sample actions or to take the most probable ones.
        on_progress: See `OnProgress`.

    Raises:
        ValueError: The env can't be made, or no episode ended within `max_steps`.
    """
    player = make_player(
        policy, config, num_envs=min(episodes, NUM_ENVS), seed=seed, explore=explore
    )
    try:
        played = play_episodes(player, episodes, max_steps=max_steps, on_progress=on_progress)
    finally:
        player.close()
    return Score(config.env, config.env_config, played)


def play_episodes(
    player: Player,
    episodes: int,
    *,
    max_steps: int | None = None,
    on_progress: OnProgress | None = None,
) -> list[Played]:
    """Plays `episodes` episodes, or fewer if `max_steps` env steps are reached first.

    Raises:
        ValueError: No episode ended within `max_steps`.
    """
    N = player.num_envs
    shares = [(episodes + n) // N for n in range(N)]
    played: list[list[Played]] = [[] for _ in range(N)]
    returns, lengths = np.zeros(N), np.zeros(N, int)
    done = steps = 0
    while done < episodes and (max_steps is None or steps < max_steps):
        step = player.step()
        returns += step.rewards
        lengths += step.valid
        steps += int(step.valid.sum())
        for n in np.flatnonzero(step.ended):
            if len(played[n]) < shares[n]:
                played[n].append(Played(float(returns[n]), int(lengths[n])))
                done += 1
            returns[n] = lengths[n] = 0
        if on_progress:
            on_progress(done, steps)
    if not done:
        raise ValueError(f"no episode ended within {max_steps} env steps")
    return [episode for of_env in played for episode in of_env]
