"""CartPole without velocities, with an LSTM; a learning test.

The policy sees where cart and pole are, and has to remember where they were. `use_lstm` adds the
memory; gradients go back through `segment_length` steps.

What to expect: a mean return of 350 after 118,784 env steps with seed 0 and after 133,120 with seed
1 (two AMD EPYC cores, 2026-11-29, versions of constraints.txt; `make test-learning` runs both). An
MLP in its place (`use_lstm: False`) stays below 100.
What it takes: a minute on two cores that other programs used too; 2 CPUs.
"""

import gymnasium as gym
import numpy as np
from ray.tune.registry import register_env

from rllib_ppg import PPGConfig


class Positions(gym.ObservationWrapper):
    """Leaves cart position and pole angle of CartPole's observations."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        space = env.observation_space
        self.observation_space = gym.spaces.Box(space.low[::2], space.high[::2])

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """The first and the third of four numbers."""
        return observation[::2]


register_env("stateless-cartpole", lambda env_config: Positions(gym.make("CartPole-v1")))

config = (
    PPGConfig()
    .environment("stateless-cartpole")
    .env_runners(num_env_runners=1, num_envs_per_env_runner=16, rollout_fragment_length=128)
    .rl_module(model_config={"use_lstm": True, "lstm_cell_size": 64, "fcnet_hiddens": [64]})
    .training(
        n_pi=4,
        e_pi=4,
        e_v=4,
        e_aux=3,
        num_minibatches=8,
        num_aux_minibatches=8,
        segment_length=32,
        lr=1e-3,
        aux_lr=1e-3,
        gamma=0.99,
        entropy_coeff=0.0,
    )
    .debugging(seed=0)
)
stop = {"env_runners/episode_return_mean": 350, "num_env_steps_sampled_lifetime": 250_000}
