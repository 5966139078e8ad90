"""Returns of a trained policy: the numbers of `rllib evaluate`.

Every env plays a number of episodes that is fixed beforehand, and what it plays after these does
not count. The first episodes to end, of all envs, would be the short ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
from rllib_ppg.evaluation.players import Player, make_player
from rllib_ppg.evaluation.trained_policy import TrainedPolicy

# Envs at a time. More would step faster, and wait longer for the last of them.
NUM_ENVS = 16

# Called after each step with the episodes and env steps so far.
OnProgress = Callable[[int, int], None]


class Played(NamedTuple):
    """An episode: its undiscounted return and its length in env steps."""

    episode_return: float
    length: int


class Mean(NamedTuple):
    """A mean and its standard error; that of a single episode is not known, and None."""

    mean: float
    std_error: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """The mean of at least one value."""
        n = len(values)
        return cls(fmean(values), stdev(values) / math.sqrt(n) if n > 1 else None)

    def minus(self, other: Mean) -> Mean:
        """The difference of two independent means."""
        gap = self.mean - other.mean
        if self.std_error is None or other.std_error is None:
            return Mean(gap, None)
        return Mean(gap, math.hypot(self.std_error, other.std_error))


@dataclass(frozen=True)
class Score:
    """What a policy's episodes in one env came to.

    Attributes:
        env: the env.
        env_config: its config.
        episodes: in the order of the copies of the env that played them.
    """

    env: Any
    env_config: Mapping[str, Any]
    episodes: Sequence[Played]

    @property
    def means(self) -> dict[str, Mean]:
        """Of "return", "length" and, where there is one, "normalized_return"."""
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
    """The envs to compare, by name.

    Args:
        policy: the policy.
        config: its config, perhaps with changes (see `TrainedPolicy.config_with`).

    Returns:
        For the Procgen game and levels of the training, these and those held out, if there are
        any; otherwise the env as it is.
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
    """Has a policy play an env.

    Args:
        policy: the policy.
        config: its config, with the env.
        episodes: how many.
        max_steps: env steps after which no more are played, or None.
        seed: of the envs and actions.
        explore: whether to sample actions, or take the most probable ones.
        on_progress: see `OnProgress`.

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
    """Plays `episodes` episodes, fewer if `max_steps` end first.

    Raises:
        ValueError: None of them ended within `max_steps`.
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
