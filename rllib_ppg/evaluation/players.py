"""A trained policy plays: the same steps, whichever algorithm trained it.

PPG's policies step the vector env that they were trained on. Those of RLlib's other algorithms
play in RLlib's own env runner, with their connectors.

Shapes: N envs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.connectors.env_to_module.mean_std_filter import MeanStdFilter
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from rllib_ppg.config import PPGConfig
from rllib_ppg.envs.procgen_levels import procgen_game
from rllib_ppg.envs.spaces import Actions
from rllib_ppg.envs.vector_env import (
    NATIVE,
    autoreset_mode,
    check_env_id,
    is_tune_registered,
    make_vector_env,
    vectorize_mode,
)
from rllib_ppg.evaluation.trained_policy import TrainedPolicy
from rllib_ppg.inference.action_sampling import draw

# How far a connector can look back, as those do that stack frames.
_LOOKBACK = 32


class Step(NamedTuple):
    """What a step of all envs brought, all `[N]`.

    Attributes:
        rewards: the env's own.
        ended: whether the step was its episode's last.
        valid: False where an env spent the step on its reset; it then earns and ends nothing.
    """

    rewards: np.ndarray
    ended: np.ndarray
    valid: np.ndarray


class Player(Protocol):
    """N envs that the policy plays; all are at the start of an episode.

    Attributes:
        num_envs: N.
        shows_next_episode: whether the picture after an episode's last step is the next one's
            first.
        fps: steps that the env wants shown a second; None if it does not say.
    """

    num_envs: int
    shows_next_episode: bool
    fps: float | None

    def step(self) -> Step:
        """Steps every env once."""

    def pictures(self) -> Sequence[np.ndarray] | None:
        """A picture of each env, as the env gives it; None if it has none."""

    def close(self) -> None:
        """Closes the envs."""


def make_player(
    policy: TrainedPolicy,
    config: AlgorithmConfig,
    *,
    num_envs: int,
    seed: int,
    explore: bool,
    render: bool = False,
) -> Player:
    """Has a policy play `num_envs` copies of an env.

    Args:
        policy: the policy.
        config: the env and how it is played (see `TrainedPolicy.config_with`).
        num_envs: N.
        seed: all that happens follows from it.
        explore: whether to sample actions, or take the most probable ones.
        render: whether pictures are wanted.

    Raises:
        ValueError: The env can't be made, or is not one for this policy.
    """
    config = config.copy(copy_frozen=False)
    config.num_envs_per_env_runner = num_envs
    config.seed = seed
    make = BatchedPlayer if isinstance(config, PPGConfig) else RLlibPlayer
    check_env_id(config.env)
    try:
        if not render:
            return make(policy, config, explore)
        plain_env_config = config.env_config
        config.env_config = {**plain_env_config, "render_mode": "rgb_array"}
        try:
            return make(policy, config, explore)
        except TypeError:  # an env that has no render_mode, such as ALE's vector env
            config.env_config = plain_env_config
            return make(policy, config, explore)
    except ValueError:
        raise
    except Exception as e:
        raise ValueError(f"env {config.env!r} can't be made: {' '.join(str(e).split())}") from e


class BatchedPlayer:
    """Steps the vector env of PPG's env runners."""

    def __init__(self, policy: TrainedPolicy, config: AlgorithmConfig, explore: bool):
        self._env = make_vector_env(config)
        self._module, self._config, self._explore = policy.module, config, explore
        observations, actions = self._env.single_observation_space, self._env.single_action_space
        _check_spaces(policy.module, observations, actions, config.env)
        self._actions = Actions(actions)
        self._rng = np.random.default_rng(config.seed) if explore else None
        torch.manual_seed(config.seed)  # which composite actions are drawn with
        self.num_envs = self._env.num_envs
        self.shows_next_episode = autoreset_mode(self._env) == AutoresetMode.SAME_STEP
        self.fps = self._env.metadata.get("render_fps")
        self._obs, _ = self._env.reset(seed=config.seed)
        self._resetting = np.zeros(self.num_envs, bool)

    @torch.no_grad()
    def step(self) -> Step:
        """Steps every env once."""
        module, batch = self._module, {Columns.OBS: torch.from_numpy(self._obs)}
        if self._explore:
            out = module.forward_exploration(batch)
            dist_cls = module.get_exploration_action_dist_cls()
        else:
            out = module.forward_inference(batch)
            dist_cls = module.get_inference_action_dist_cls()
        actions, _ = draw(dist_cls, out[Columns.ACTION_DIST_INPUTS], self._rng)
        to_env = self._actions.for_env(
            actions, normalized=self._config.normalize_actions, clip=self._config.clip_actions
        )
        self._obs, rewards, terminated, truncated, _ = self._env.step(to_env)
        valid = ~self._resetting
        ended = (terminated | truncated) & valid
        if not self.shows_next_episode:
            self._resetting = ended
        return Step(np.where(valid, rewards, 0.0), ended, valid)

    def pictures(self) -> Sequence[np.ndarray] | None:
        """What the env renders, or else its observations if these are images."""
        if self._env.render_mode == "rgb_array":
            return self._env.render()
        return self._obs if self._obs.ndim == 4 and self._obs.dtype == np.uint8 else None

    def close(self) -> None:
        """Closes the envs."""
        self._env.close()


class RLlibPlayer:
    """Samples from RLlib's env runner, a step at a time."""

    def __init__(self, policy: TrainedPolicy, config: AlgorithmConfig, explore: bool):
        env = config.env
        is_id = isinstance(env, str) and not is_tune_registered(env)
        if vectorize_mode(config) == NATIVE and is_id:
            # RLlib's runner takes every vector env for one with NEXT_STEP autoreset.
            config.gym_env_vectorize_mode = "sync"
        config.episode_lookback_horizon = max(config.episode_lookback_horizon, _LOOKBACK)
        seen: list[tuple[int, float, bool]] = []
        config.callbacks(
            RLlibCallback,
            on_episode_step=lambda *, episode, env_index, **_: seen.append(
                (env_index, episode.get_rewards(-1), episode.is_done)
            ),
        )
        self._seen, self._explore = seen, explore
        self._runner = SingleAgentEnvRunner(config=config)
        observations, actions = self._runner.get_spaces()[DEFAULT_MODULE_ID]
        _check_spaces(policy.module, observations, actions, config.env)
        filesystem, path = policy.env_runner_state
        self._runner.restore_from_path(path, filesystem=filesystem)
        self._runner.module = policy.module
        for connector in self._runner._env_to_module:
            if isinstance(connector, MeanStdFilter):  # there is no other way to say so afterwards
                connector._update_stats = False
        self.num_envs = self._runner.num_envs
        # Procgen's engine knows no other way; RLlib has envs reset in the step after.
        self.shows_next_episode = procgen_game(config.env) is not None
        self.fps = self._runner.env.metadata.get("render_fps")
        self._runner._reset_envs_and_episodes(explore)  # so that there are pictures of the start

    def step(self) -> Step:
        """Steps every env once, but for those that start an episode."""
        self._seen.clear()
        self._runner.sample(num_timesteps=1, explore=self._explore)
        # Else it keeps what it has sampled, for metrics that nobody asks for: 400 kB an image.
        self._runner._ongoing_episodes_for_metrics.clear()
        self._runner._done_episodes_for_metrics.clear()
        rewards = np.zeros(self.num_envs)
        ended, valid = np.zeros((2, self.num_envs), bool)
        for n, reward, is_done in self._seen:
            rewards[n], ended[n], valid[n] = reward, is_done, True
        return Step(rewards, ended, valid)

    def pictures(self) -> Sequence[np.ndarray] | None:
        """What the env renders."""
        env = self._runner.env
        return env.render() if env.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Closes the envs."""
        self._runner.stop()


def _check_spaces(module: RLModule, observations: Any, actions: Any, env: Any) -> None:
    for what, of_policy, of_env in (
        ("observations", module.observation_space, observations),
        ("actions", module.action_space, actions),
    ):
        if of_policy != of_env:
            raise ValueError(f"the policy's {what} are {of_policy}, and those of {env}, {of_env}")
