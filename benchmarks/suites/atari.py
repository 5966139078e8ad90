"""Atari 100k with a small encoder.

PPO's settings for Atari, of Schulman et al. 2017 (table 5) as Huang et al. 2022 have them: 8 envs
of 128 steps, 4 minibatches, 4 epochs, clip .1, a learning rate that falls to 0, one network for
PPO. The budget is the one of Kaiser et al. 2020 (arXiv 1903.00374), 100,000 env steps of four
frames, with N_pi = 4 as the rule in docs/results.md says. Two things differ, in both arms: rewards
are normalised, not clipped to their signs, and the encoder is Procgen's small one.
"""

from __future__ import annotations

import gymnasium as gym
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from benchmarks.suites.procgen import SMALL_ENCODER
from benchmarks.suites.rllib_ppo import ppo_with_normalised_rewards
from benchmarks.suites.suite import Suite
from rllib_ppg import PPGConfig
from rllib_ppg.networks.ppo_rl_module import ImpalaPPOModule

ATARI_STEPS = 100_000
ATARI_ENV = {"reward_clipping": False, "num_threads": 1}
ATARI_LR = [[0, 2.5e-4], [ATARI_STEPS, 0.0]]


def atari_ppg(env: str) -> PPGConfig:
    """PPG with PPO's settings in its policy phase, and the paper's, its defaults, elsewhere."""
    return (
        PPGConfig()
        .environment(env, env_config=ATARI_ENV)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=8, rollout_fragment_length=128)
        .rl_module(model_config=SMALL_ENCODER)
        .training(
            e_pi=4,
            e_v=4,
            num_minibatches=4,
            segment_length=1,
            lr=ATARI_LR,
            aux_lr=ATARI_LR,
            gamma=0.99,
            clip_param=0.1,
            vf_loss_coeff=0.5,
            grad_clip=0.5,
            n_pi=4,
        )
    )


def atari_ppo(env: str) -> PPOConfig:
    """RLlib's PPO."""
    return (
        ppo_with_normalised_rewards(lambda: gym.make(env, **ATARI_ENV))
        .env_runners(num_envs_per_env_runner=8)
        .rl_module(
            rl_module_spec=RLModuleSpec(module_class=ImpalaPPOModule, model_config=SMALL_ENCODER)
        )
        .training(
            train_batch_size_per_learner=1024,
            minibatch_size=256,
            num_epochs=4,
            lr=ATARI_LR,
            gamma=0.99,
            clip_param=0.1,
            entropy_coeff=0.01,
            vf_loss_coeff=0.25,  # of the squared error: that is 1/2 of L_value
            grad_clip=0.5,
        )
    )


SUITES = {
    "atari": Suite(
        envs=("atari-breakout-v5", "atari-boxing-v5"),
        env_steps=ATARI_STEPS,
        seeds=(0, 1, 2),
        arms={"ppg": atari_ppg, "ppo": atari_ppo},
    ),
}
