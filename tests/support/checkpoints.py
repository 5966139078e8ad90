"""Checkpoints of policies whose actions are known."""

import numpy as np
import pytest
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core import DEFAULT_MODULE_ID

from rllib_ppg import PPGConfig

SMALL_CNN = {"impala_channels": [4, 4, 4], "impala_dense": 16}
SMALL_PPO = {"train_batch_size_per_learner": 32, "minibatch_size": 16}


@pytest.fixture
def checkpoint(build, tmp_path):
    """Makes a checkpoint of a policy after some `iterations` of training.

    With `inputs`, its distribution of actions has these inputs in every state.
    """

    def make(env, env_config=None, inputs=None, config=PPGConfig, iterations=0, **settings):
        config = (
            config()
            .environment(env, env_config=env_config or {})
            .env_runners(num_env_runners=0, num_envs_per_env_runner=16, rollout_fragment_length=2)
            .debugging(seed=0)
        )
        config.update_from_dict(settings)
        algo = build(config)
        if inputs is not None:
            weights = algo.learner_group.get_weights()[DEFAULT_MODULE_ID]
            last = [k for k in weights if k.startswith("pi.") and k.endswith(".bias")][-1]
            assert weights[last].shape == np.shape(inputs)
            weights[last.replace("bias", "weight")] *= 0
            weights[last] = np.array(inputs, np.float32)
            algo.learner_group.set_weights({DEFAULT_MODULE_ID: weights})
        for _ in range(iterations):
            algo.train()
        return algo.save_to_path(str(tmp_path / "checkpoint_000000"))

    return make


def ppo():
    """RLlib's PPO, small."""
    return PPOConfig().training(**SMALL_PPO)
