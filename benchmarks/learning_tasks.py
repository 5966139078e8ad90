"""What `learning.py` trains: tasks, seeds, settings, and how a result is read. Fixed beforehand.

Settings are from the literature and the same for all tasks of a suite; none was tuned on them.

A run's result is the mean of its logged returns over the last tenth of its env steps, each of
which is the mean of the last 100 episodes. A suite's table has, for each task and arm, mean and
standard deviation over the seeds; its score is a result divided by the mean of the arm `ppo` on
that task, and the scores of all tasks and seeds are summed up by their interquartile mean (IQM)
with a 95 % stratified bootstrap interval (Agarwal et al. 2021, arXiv 2108.13264).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.env_to_module import MeanStdFilter
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.tune.registry import register_env

from rllib_ppg import PPGConfig

# Of the last 100 episodes of an RLlib algorithm, whose env runner is in this process.
RETURNS: deque[float] = deque(maxlen=100)


@dataclass(frozen=True)
class Suite:
    """Tasks that are trained and reported together.

    Attributes:
        envs: gymnasium ids.
        env_steps: of each run.
        seeds: of each task and arm.
        arms: a config for an env's id, by the arm's name.
    """

    envs: tuple[str, ...]
    env_steps: int
    seeds: tuple[int, ...]
    arms: Mapping[str, Callable[[str], AlgorithmConfig]]


# -- MuJoCo ------------------------------------------------------------------------------------
#
# PPO's settings for MuJoCo, of Schulman et al. 2017 (arXiv 1707.06347, table 3) with what Huang et
# al. 2022 ("The 37 implementation details of PPO") found to matter: two layers of 64 tanh units for
# each network, a log std that does not depend on the state, normalised observations and rewards,
# learning rates that fall to 0, clipped gradients. One thing differs: 16 envs of 128 steps make the
# 2,048 steps of an iteration, not one env of 2,048, in all arms. What is PPG's beside that is the
# paper's (Cobbe et al. 2020, appendix A) but for N_pi = 16, which makes 30 phases of the budget.

MUJOCO_STEPS = 1_000_000
MUJOCO_LR = [[0, 3e-4], [MUJOCO_STEPS, 0.0]]


def mujoco_ppg(env: str, **training: Any) -> PPGConfig:
    """PPG with PPO's settings in its policy phase."""
    phases = {"n_pi": 16, "e_aux": 6, "num_aux_minibatches": 16, "beta_clone": 1.0}
    return (
        PPGConfig()
        .environment(env)
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=16,
            rollout_fragment_length=128,
            observation_filter="MeanStdFilter",
        )
        .rl_module(
            model_config={
                "fcnet_hiddens": [64, 64],
                "fcnet_activation": "tanh",
                "free_log_std": True,
            }
        )
        .training(
            **{
                "e_pi": 10,
                "e_v": 10,
                "num_minibatches": 32,
                "segment_length": 1,
                "lr": MUJOCO_LR,
                "aux_lr": MUJOCO_LR,
                "gamma": 0.99,
                "lambda_": 0.95,
                "clip_param": 0.2,
                "entropy_coeff": 0.0,
                "grad_clip": 0.5,
                **phases,
                **training,
            }
        )
    )


def mujoco_ppo(env: str) -> PPOConfig:
    """RLlib's PPO; rewards are normalised by gymnasium's wrapper, returns are those of the env."""
    register_env("with normalised rewards", lambda _: with_normalised_rewards(env))
    return (
        PPOConfig()
        .environment("with normalised rewards")
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=16,
            rollout_fragment_length=128,
            env_to_module_connector=lambda env, spaces, device: MeanStdFilter(),
        )
        .callbacks(on_episode_end=note_return_of_the_env)
        .rl_module(
            model_config=DefaultModelConfig(
                fcnet_hiddens=[64, 64],
                fcnet_activation="tanh",
                free_log_std=True,
                vf_share_layers=False,
            )
        )
        .training(
            train_batch_size_per_learner=2048,
            minibatch_size=64,
            num_epochs=10,
            lr=MUJOCO_LR,
            gamma=0.99,
            lambda_=0.95,
            clip_param=0.2,
            entropy_coeff=0.0,
            use_kl_loss=False,
            vf_loss_coeff=0.25,  # of the squared error: that is 1/2 of L_value
            vf_clip_param=float("inf"),
            grad_clip=0.5,
            grad_clip_by="global_norm",
        )
    )


def with_normalised_rewards(env: str) -> gym.Env:
    """The env, its actions clipped and its rewards normalised; infos have the true return."""
    made = gym.wrappers.RecordEpisodeStatistics(gym.make(env))
    return gym.wrappers.NormalizeReward(gym.wrappers.ClipAction(made), gamma=0.99)


def note_return_of_the_env(*, episode: Any, **kwargs: Any) -> None:
    """RLlib's own metric is of the rewards that it learns from, and of one iteration's episodes."""
    RETURNS.append(float(episode.get_infos(-1)["episode"]["r"]))


SUITES = {
    "mujoco": Suite(
        envs=("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"),
        env_steps=MUJOCO_STEPS,
        seeds=(0, 1, 2, 3, 4),
        arms={
            "ppg": mujoco_ppg,
            "ppo": mujoco_ppo,
            # Our own PPO: what the auxiliary phase adds, all else being equal.
            "ppg_without_aux": lambda env: mujoco_ppg(env, n_pi=0),
        },
    ),
}
