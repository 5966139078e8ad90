"""RLlib's PPO, the arm that PPG is compared with.

What it gets that PPG has by itself: rewards over the running standard deviation of the discounted
return of all its envs, clipped to +-10, and heads whose weights are small at the start, which is
among the details that matter to PPO. What differs: RLlib does not shuffle the first epoch of an
iteration.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers.utils import RunningMeanStd
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.tune.registry import register_env
from torch import nn

from rllib_ppg.networks.impala_cnn import norm_init

# PPO's env runner is in this process, and its checkpoints have neither of these: the returns of the
# last 100 episodes, and the statistics that rewards are normalised by.
RETURNS: deque[float] = deque(maxlen=100)
REWARDS = RunningMeanStd()


def ppo_with_normalised_rewards(make: Callable[[], gym.Env]) -> PPOConfig:
    """PPO on envs with normalised rewards, with what is the same in all suites."""
    register_env("with normalised rewards", lambda _: with_normalised_rewards(make()))
    return (
        PPOConfig()
        .environment("with normalised rewards")
        .env_runners(num_env_runners=0, rollout_fragment_length=128)
        .callbacks(on_episode_end=note_return_of_the_env)
        .training(
            lambda_=0.95,
            clip_param=0.2,
            use_kl_loss=False,
            vf_clip_param=float("inf"),
            grad_clip_by="global_norm",
        )
    )


def with_normalised_rewards(env: gym.Env) -> gym.Env:
    """The env with normalised rewards; its infos have the true return."""
    normalised = gym.wrappers.NormalizeReward(gym.wrappers.RecordEpisodeStatistics(env), gamma=0.99)
    normalised.return_rms = REWARDS
    return gym.wrappers.TransformReward(normalised, lambda r: float(np.clip(r, -10.0, 10.0)))


def two_networks(**model_config: Any) -> RLModuleSpec:
    """RLlib's default networks for PPO, policy and value function apart."""
    return RLModuleSpec(
        module_class=WithSmallHeads,
        model_config=DefaultModelConfig(**model_config, vf_share_layers=False),
    )


class WithSmallHeads(DefaultPPOTorchRLModule):
    """Starts with heads as small as PPG's."""

    def setup(self) -> None:
        """See the class."""
        super().setup()
        for head in (self.pi, self.vf):
            norm_init([m for m in head.modules() if isinstance(m, nn.Linear)][-1], 0.1)


def note_return_of_the_env(*, episode: Any, **kwargs: Any) -> None:
    """RLlib's own metric is of the rewards that it learns from, and of one iteration's episodes."""
    RETURNS.append(float(episode.get_infos(-1)["episode"]["r"]))
