"""MinAtar's Breakout from its 10 x 10 pixels, with two small MLPs.

`pip install MinAtar` installs the games. A Python experiment file can define its own env, here a
game in two wrappers. From PPO: PureJaxRL's settings for MinAtar (Lu et al. 2022). From PPG: a
phase of 16 iterations, of which the run has 15, and 6 auxiliary epochs. Rewards are normalised as
in the paper.

What to expect: a mean return of 21 over the last tenth of the run, between 14 and 29. PPO with the
same settings has 15, between 11 and 19 (seeds 0 to 2, one AMD EPYC core each, 2026-11-26, versions
of constraints.txt; with `num_env_runners=0`, where a seed draws other numbers than with the one
remote env runner here). docs/results.md has the curves, and the results with other settings.
What it takes: 2 CPUs. The runs above took 5 minutes on one core while other work ran. A phase's
states take 131,072 x 1,600 B = 0.2 GB of object store.
"""

import gymnasium as gym
import numpy as np
from minatar.gym import register_envs
from ray.tune.registry import register_env

from rllib_ppg import PPGConfig

STEPS = 2_000_000
LR = [[0, 5e-3], [STEPS, 0.0]]


def make(env_config: dict) -> gym.Env:
    """Makes the game, whose 10 x 10 x C pixels become one vector of zeros and ones."""
    register_envs()
    game = gym.make("MinAtar/Breakout-v1")
    return gym.wrappers.DtypeObservation(gym.wrappers.FlattenObservation(game), np.float32)


register_env("minatar-breakout", make)

config = (
    PPGConfig()
    .environment("minatar-breakout")
    .env_runners(num_env_runners=1, num_envs_per_env_runner=64, rollout_fragment_length=128)
    .rl_module(model_config={"fcnet_hiddens": [64, 64], "fcnet_activation": "relu"})
    .training(
        n_pi=16,
        e_pi=4,
        e_v=4,
        e_aux=6,
        num_minibatches=8,  # of 1,024 states
        num_aux_minibatches=16,  # of 512 states
        segment_length=1,
        lr=LR,
        aux_lr=LR,
        gamma=0.99,
        entropy_coeff=0.01,
        vf_loss_coeff=0.5,
        grad_clip=0.5,
    )
    .debugging(seed=0)
)
stop = {"num_env_steps_sampled_lifetime": STEPS}
