"""MinAtar.

PPO's settings for MinAtar in PureJaxRL (Lu et al. 2022, examples/brax_minatar.ipynb): 64 envs of
128 steps, 8 minibatches, 4 epochs, a learning rate of 5e-3 that falls to 0, and two layers of 64
relu units for each network over the game's 10 x 10 pixels, with sticky actions and ramping
difficulty as MinAtar has them. What is PPG's beside that is the paper's but for N_pi = 16, as the
rule in docs/results.md says, which makes 15 phases. Rewards are normalised in all arms.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from minatar.gym import register_envs as register_minatar
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.registry import register_env

from benchmarks.suites.rllib_ppo import ppo_with_normalised_rewards, two_networks
from benchmarks.suites.suite import Suite
from rllib_ppg import PPGConfig

MINATAR_STEPS = 2_000_000
MINATAR_LR = [[0, 5e-3], [MINATAR_STEPS, 0.0]]
MINATAR_MODEL = {"fcnet_hiddens": [64, 64], "fcnet_activation": "relu"}


def minatar_env(env: str) -> gym.Env:
    """The game's 10 x 10 x C pixels as one vector of zeros and ones."""
    register_minatar()
    made = gym.wrappers.FlattenObservation(gym.make(env))
    return gym.wrappers.DtypeObservation(made, np.float32)


def minatar_ppg(env: str) -> PPGConfig:
    """PPG with PPO's settings in its policy phase, and the paper's, its defaults, elsewhere."""
    register_env("MinAtar", lambda _: minatar_env(env))
    return (
        PPGConfig()
        .environment("MinAtar")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=64, rollout_fragment_length=128)
        .rl_module(model_config=MINATAR_MODEL)
        .training(
            e_pi=4,
            e_v=4,
            num_minibatches=8,
            segment_length=1,
            lr=MINATAR_LR,
            aux_lr=MINATAR_LR,
            gamma=0.99,
            entropy_coeff=0.01,
            vf_loss_coeff=0.5,
            grad_clip=0.5,
            n_pi=16,
        )
    )


def minatar_chosen(env: str) -> PPGConfig:
    """`minatar_ppg` with what was chosen for continuous control."""
    chosen = {"aux_losses": {"value": {"center": True}}, "target_kl": "auto"}
    return minatar_ppg(env).training(**chosen)


def minatar_ppo(env: str) -> PPOConfig:
    """RLlib's PPO."""
    return (
        ppo_with_normalised_rewards(lambda: minatar_env(env))
        .env_runners(num_envs_per_env_runner=64)
        .rl_module(rl_module_spec=two_networks(**MINATAR_MODEL))
        .training(
            train_batch_size_per_learner=8192,
            minibatch_size=1024,
            num_epochs=4,
            lr=MINATAR_LR,
            gamma=0.99,
            entropy_coeff=0.01,
            vf_loss_coeff=0.25,  # of the squared error: that is 1/2 of L_value
            grad_clip=0.5,
        )
    )


SUITES = {
    "minatar": Suite(
        envs=("MinAtar/Breakout-v1", "MinAtar/SpaceInvaders-v1"),
        env_steps=MINATAR_STEPS,
        seeds=(0, 1, 2),
        arms={
            "ppg": minatar_ppg,
            "ppo": minatar_ppo,
            "n_pi=2": lambda env: minatar_ppg(env).training(n_pi=2),
            "n_pi=64": lambda env: minatar_ppg(env).training(n_pi=64),
            "e_aux=1": lambda env: minatar_ppg(env).training(e_aux=1),
            "arch=detach": lambda env: minatar_ppg(env).training(arch="detach"),
            "beta_clone=0": lambda env: minatar_ppg(env).training(beta_clone=0.0),
            "no_aux": lambda env: minatar_ppg(env).training(n_pi=0),
        },
    ),
    # Do the settings that were chosen for continuous control serve these games, too?
    "minatar_five": Suite(
        envs=(
            "MinAtar/Breakout-v1",
            "MinAtar/SpaceInvaders-v1",
            "MinAtar/Freeway-v1",
            "MinAtar/Asterix-v1",
            "MinAtar/Seaquest-v1",
        ),
        env_steps=MINATAR_STEPS,
        seeds=(20, 21, 22),
        arms={
            "ppg": minatar_chosen,
            "ppo": minatar_ppo,
            "no_aux": lambda env: minatar_chosen(env).training(n_pi=0),
        },
    ),
    # Does it learn as much with bfloat16 auxiliary phases? For a machine that has it natively.
    "precision": Suite(
        envs=("MinAtar/Breakout-v1", "MinAtar/SpaceInvaders-v1", "MinAtar/Freeway-v1"),
        env_steps=MINATAR_STEPS,
        seeds=(0, 1, 2),
        arms={
            "float32": minatar_ppg,
            "bfloat16": lambda env: minatar_ppg(env).training(aux_precision="bfloat16"),
        },
    ),
}
