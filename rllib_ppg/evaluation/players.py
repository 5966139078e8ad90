"""Players: a trained policy plays an env, step by step, whichever algorithm trained it.

PPG's policies play the same vector env as in training. Policies of RLlib's other algorithms play in
RLlib's own env runner, with their connectors.

Shapes: N envs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.connectors.env_to_module.mean_std_filter import MeanStdFilter
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils.annotations import override
from ray.rllib.utils.spaces.space_utils import get_original_space

from rllib_ppg import ray_private
from rllib_ppg.config import PPGConfig
from rllib_ppg.config_checks import custom_connector
from rllib_ppg.envs.env_creator import env_creator
from rllib_ppg.envs.packed_observations import packing_of
from rllib_ppg.envs.procgen_levels import procgen_game
from rllib_ppg.envs.vector_env import (
    NATIVE,
    autoreset_mode,
    check_env_exists,
    make_vector_env,
    vectorize_mode,
)
from rllib_ppg.evaluation.pictures import latest_frame
from rllib_ppg.evaluation.trained_policy import TrainedPolicy
from rllib_ppg.sampling.evaluation_env_runner import (
    EvaluationEnvRunner,
    MultiAgentEvaluationEnvRunner,
)

# Called after each step with the numbers of episodes and env steps so far.
OnProgress = Callable[[int, int], None]

# Number of steps that a connector can look back, for example to stack frames.
_LOOKBACK = 32


class Step(NamedTuple):
    """The results of a step of all envs, arrays `[N]`.

    Attributes:
        rewards: The rewards.
        ended: Whether the step was the last of its episode.
        valid: False where an env spent the step on its reset. Then the reward is 0 and no episode
            ended.
    """

    rewards: np.ndarray
    ended: np.ndarray
    valid: np.ndarray


class Player(Protocol):
    """N envs that a policy plays. At first all are at the start of an episode.

    Attributes:
        num_envs: N.
        shows_next_episode: Whether the picture after the last step of an episode is the first of
            the next episode.
        fps: Steps per second at which the env wants to be shown; None if it does not say.
    """

    num_envs: int
    shows_next_episode: bool
    fps: float | None

    def step(self) -> Step:
        """Steps every env once."""

    def pictures(self) -> Sequence[np.ndarray] | None:
        """A picture of each env, as the env renders or shows it; None if it has no pictures."""

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
    """Makes a player of `num_envs` copies of an env.

    Args:
        policy: The policy.
        config: The env and how it is played (see `TrainedPolicy.config_with`).
        num_envs: N.
        seed: Seed of the envs and the actions.
        explore: Whether to sample actions or to take the most probable ones.
        render: Whether the envs should render pictures.

    Raises:
        ValueError: The env can't be made, or the policy does not fit its spaces.
    """
    config = config.copy(copy_frozen=False)
    config.num_envs_per_env_runner = num_envs
    config.seed = seed
    make: type[BatchedPlayer | RLlibPlayer] = RLlibPlayer
    if config.is_multi_agent:
        make = MultiAgentPlayer
    elif isinstance(config, PPGConfig) and not custom_connector(config):
        make = BatchedPlayer
    if not config.is_multi_agent:
        check_env_exists(config)
    try:
        if not render:
            return make(policy, config, explore)
        plain_env_config = config.env_config
        config.env_config = {**plain_env_config, "render_mode": "rgb_array"}
        try:
            return make(policy, config, explore)
        except TypeError:  # an env without render_mode, such as ALE's vector env
            config.env_config = plain_env_config
            return make(policy, config, explore)
    except ValueError:
        raise
    except Exception as e:
        raise ValueError(f"env {config.env!r} can't be made: {' '.join(str(e).split())}") from e


class BatchedPlayer(Player):
    """Plays the vector env that PPG's env runners step."""

    def __init__(self, policy: TrainedPolicy, config: AlgorithmConfig, explore: bool):
        self._env = make_vector_env(config)
        self._trained = policy
        self._policy, self._explore = policy.policy_for(config, config.seed), explore
        observations, actions = self._env.single_observation_space, self._env.single_action_space
        _check_spaces(policy.module, observations, actions, config.env)
        torch.manual_seed(config.seed)  # for Tuple and Dict actions
        self.num_envs = self._env.num_envs
        self.shows_next_episode = autoreset_mode(self._env) == AutoresetMode.SAME_STEP
        self.fps = self._env.metadata.get("render_fps")
        self._obs, _ = self._env.reset(seed=config.seed)
        self._resetting = np.zeros(self.num_envs, bool)
        self._first = np.ones(self.num_envs, bool)
        self._initial_state = self._policy.initial_state
        self._states = np.tile(self._initial_state, (self.num_envs, 1))

    @override(Player)
    def step(self) -> Step:
        self._trained.check_masks(self._obs[~self._resetting])
        self._states[self._first] = self._initial_state
        actions, _, self._states = self._policy.act(self._obs, self._states, self._explore)
        to_env = self._policy.for_env(actions)
        self._obs, rewards, terminated, truncated, _ = self._env.step(to_env)
        valid = ~self._resetting
        ended = (terminated | truncated) & valid
        if self.shows_next_episode:
            self._first = ended
        else:
            self._first, self._resetting = self._resetting, ended
        return Step(np.where(valid, rewards, 0.0), ended, valid)

    @override(Player)
    def pictures(self) -> Sequence[np.ndarray] | None:
        if self._env.render_mode == "rgb_array":
            return self._env.render()
        # Observations take the place of pictures if they are images.
        if (packing := packing_of(self._env.single_observation_space)) is not None:
            picture = packing.picture(self._obs)
            return None if picture is None else list(picture)
        if self._obs.ndim != 4 or self._obs.dtype != np.uint8:
            return None
        return [latest_frame(obs) for obs in self._obs]

    @override(Player)
    def close(self) -> None:
        self._env.close()


class RLlibPlayer(Player):
    """Plays in RLlib's env runner, one step at a time."""

    env_runner_cls: type = EvaluationEnvRunner

    def __init__(self, policy: TrainedPolicy, config: AlgorithmConfig, explore: bool):
        is_id = env_creator(config) is None
        if vectorize_mode(config) == NATIVE and (is_id or config.is_multi_agent):
            # RLlib's env runner treats every vector env as one with NEXT_STEP autoreset.
            config.gym_env_vectorize_mode = "sync"
        config.episode_lookback_horizon = max(config.episode_lookback_horizon, _LOOKBACK)
        seen: list[tuple[int, float, bool]] = []
        config.callbacks(
            RLlibCallback,
            on_episode_step=lambda *, episode, env_index, **_: seen.append(
                # Each step is a part of the episode: `step` samples one at a time.
                (env_index, episode.get_return(), episode.is_done)
            ),
        )
        self._seen, self._explore = seen, explore
        config.env_runner_cls = None  # PPG's would keep what modules get, to train on it
        self._runner = self.env_runner_cls(config=config)
        networks = self._networks(policy, config)
        filesystem, path = policy.env_runner_state
        self._runner.restore_from_path(path, filesystem=filesystem)
        self._runner.module = networks
        for connector in ray_private.env_to_module(self._runner):
            if isinstance(connector, MeanStdFilter):
                ray_private.freeze_statistics(connector)
        self.num_envs = self._runner.num_envs
        # Procgen's engine resets at once. RLlib resets other envs in the next step.
        self.shows_next_episode = procgen_game(config.env) is not None
        self.fps = self._runner.env.metadata.get("render_fps")
        ray_private.reset_envs(self._runner, explore)  # to have pictures of the start

    def _networks(self, policy: TrainedPolicy, config: AlgorithmConfig) -> Any:
        observations, actions = self._runner.get_spaces()[DEFAULT_MODULE_ID]
        _check_spaces(policy.module, observations, actions, config.env)
        return policy.module

    @override(Player)
    def step(self) -> Step:
        self._seen.clear()
        self._runner.sample(num_timesteps=1, explore=self._explore)
        ray_private.drop_episodes(self._runner)
        rewards = np.zeros(self.num_envs)
        ended, valid = np.zeros((2, self.num_envs), bool)
        for n, reward, is_done in self._seen:
            rewards[n], ended[n], valid[n] = reward, is_done, True
        return Step(rewards, ended, valid)

    @override(Player)
    def pictures(self) -> Sequence[np.ndarray] | None:
        env = self._runner.env
        return env.render() if getattr(env, "render_mode", None) == "rgb_array" else None

    @override(Player)
    def close(self) -> None:
        self._runner.stop()


class MultiAgentPlayer(RLlibPlayer):
    """All policies of a multi-agent run play; the reward of a step is the sum of the agents'."""

    env_runner_cls = MultiAgentEvaluationEnvRunner

    @override(RLlibPlayer)
    def _networks(self, policy: TrainedPolicy, config: AlgorithmConfig) -> Any:
        return policy.all_modules()

    @override(RLlibPlayer)
    def step(self) -> Step:
        step = super().step()
        ray_private.keep_last_observations(self._runner)
        return step


def _check_spaces(module: RLModule, observations: Any, actions: Any, env: Any) -> None:
    for what, of_policy, of_env in (
        ("observations", module.observation_space, observations),
        ("actions", module.action_space, actions),
    ):
        of_policy, of_env = get_original_space(of_policy), get_original_space(of_env)
        if of_policy != of_env:
            raise ValueError(f"the policy's {what} are {of_policy}, and those of {env}, {of_env}")
