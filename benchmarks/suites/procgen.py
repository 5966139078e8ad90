"""Procgen, with a small encoder and with the paper's network.

**With a small encoder.** The paper's settings for PPG and for PPO, with 64 envs (a quarter of the
batch: half the learning rate, as tuned_examples/procgen_64_envs.yaml explains) and N_pi = 2, as the
rule in docs/results.md says for this budget. Two cores have no time for the paper's network: the
channels are (4, 8, 8).

**With the paper's network.** The paper's experiment to the last setting, as far as two cores get
with it: 1M of its 100M env steps. They are less than half of the first phase, so that there is a
policy phase and nothing else; without auxiliary phases it is the same, and takes no memory for the
states. The game is one whose return rises surely in OpenAI's first 1M steps, by the spread of their
runs, and from where a random policy's is. Their log is the mean over 4 workers' last 100 episodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from benchmarks.suites.rllib_ppo import ppo_with_normalised_rewards
from benchmarks.suites.suite import Suite
from rllib_ppg import PPGConfig
from rllib_ppg.networks.ppo_rl_module import ImpalaPPOModule

PROCGEN_STEPS = 500_000
PROCGEN_ENV = {"distribution_mode": "easy", "num_levels": 0}
PROCGEN_LR = 2.5e-4
LEVELS = {"distribution_mode": "easy", "num_levels": 200, "start_level": 0}
SMALL_ENCODER = {"impala_channels": [4, 8, 8], "impala_dense": 256}


def procgen_ppg(env: str) -> PPGConfig:
    """PPG as in the paper, whose settings are the defaults."""
    return (
        PPGConfig()
        .environment(env, env_config=PROCGEN_ENV)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=64, rollout_fragment_length=256)
        .rl_module(model_config=SMALL_ENCODER)
        .training(n_pi=2, lr=PROCGEN_LR, aux_lr=PROCGEN_LR)
    )


def procgen_200_levels(env: str) -> PPGConfig:
    """PPG on 200 levels, with the N_pi of the rule for 2M env steps."""
    return procgen_ppg(env).environment(env_config=LEVELS).training(n_pi=8)


def procgen_ppo(env: str, env_config: Mapping[str, Any] = PROCGEN_ENV) -> PPOConfig:
    """RLlib's PPO with one network, as the paper's PPO has."""
    spec = RLModuleSpec(module_class=ImpalaPPOModule, model_config=SMALL_ENCODER)
    return (
        ppo_with_normalised_rewards(lambda: gym.make(env, **env_config))
        .env_runners(num_envs_per_env_runner=64, rollout_fragment_length=256)
        .rl_module(rl_module_spec=spec)
        .training(
            train_batch_size_per_learner=64 * 256,
            minibatch_size=64 * 256 // 8,
            num_epochs=3,
            lr=PROCGEN_LR,
            gamma=0.999,
            entropy_coeff=0.01,
            vf_loss_coeff=0.5,  # of the squared error: that is L_value
        )
    )


PROCGEN_HARD_STEPS = 16 * 65_536


def procgen_hard(env: str) -> PPGConfig:
    """The first phase's policy phase: the defaults, but for one env runner in the place of four."""
    return (
        PPGConfig()
        .environment(env, env_config={"distribution_mode": "hard", "num_levels": 0})
        .env_runners(num_env_runners=0, num_envs_per_env_runner=256)
        .training(n_pi=0)
        .reporting(metrics_num_episodes_for_smoothing=400)
    )


SUITES = {
    "procgen": Suite(
        envs=("procgen-starpilot-v0",),
        env_steps=PROCGEN_STEPS,
        seeds=(0, 1, 2),
        arms={"ppg": procgen_ppg, "ppo": procgen_ppo},
    ),
    # Do an auxiliary loss and augmentation help on few levels?
    "procgen_levels": Suite(
        envs=("procgen-starpilot-v0",),
        env_steps=2_000_000,
        seeds=(0, 1, 2),
        arms={
            "ppg": procgen_200_levels,
            "ppo": lambda env: procgen_ppo(env, LEVELS),
            "dynamics": lambda env: procgen_200_levels(env).training(
                aux_losses={"value": 1.0, "dynamics": 1.0}
            ),
            "random_translate": lambda env: procgen_200_levels(env).training(
                augmentation="random_translate"
            ),
        },
    ),
    "procgen_hard": Suite(
        envs=("procgen-starpilot-v0",),
        env_steps=PROCGEN_HARD_STEPS,
        seeds=(0, 1),
        arms={"no_aux": procgen_hard},
        openai=("ppg", "ppo"),
    ),
}
