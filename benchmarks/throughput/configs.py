"""What is compared: PPG, and RLlib's PPO on the same network, env and batch."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from benchmarks.measuring import GPUS, SEED
from benchmarks.throughput.sizes import Sizes
from rllib_ppg import PPGConfig
from rllib_ppg.networks.rl_module import PPGCatalog, PPGTorchRLModule


def ppg(sizes: Sizes, num_env_runners: int = 1, **training: Any) -> PPGConfig:
    """PPG on Procgen with the paper's network; every iteration is a whole phase."""
    return (
        PPGConfig()
        .environment("procgen-coinrun-v0", env_config={"distribution_mode": "easy"})
        .env_runners(
            num_env_runners=num_env_runners,
            num_envs_per_env_runner=sizes.rows // max(num_env_runners, 1),
            rollout_fragment_length=sizes.T,
        )
        .learners(num_gpus_per_learner=GPUS)
        .training(
            n_pi=1,
            e_aux=sizes.e_aux,
            num_minibatches=sizes.num_mb,
            num_aux_minibatches=sizes.num_mb,
            **training,
        )
        .debugging(seed=SEED)
    )


def ppo(sizes: Sizes, num_epochs: int) -> PPOConfig:
    """RLlib's PPO on the same network, env and batch."""
    module = RLModuleSpec(
        module_class=PPGTorchRLModule, catalog_class=PPGCatalog, model_config={"arch": "dual"}
    )
    return (
        PPOConfig()
        .environment("procgen-coinrun-v0", env_config={"distribution_mode": "easy"})
        .env_runners(
            num_env_runners=1,
            num_envs_per_env_runner=sizes.rows,
            rollout_fragment_length=sizes.T,
            gym_env_vectorize_mode="vector_entry_point",
        )
        .learners(num_gpus_per_learner=GPUS)
        .rl_module(rl_module_spec=module)
        .training(
            train_batch_size_per_learner=sizes.states,
            minibatch_size=sizes.states // sizes.num_mb,
            num_epochs=num_epochs,
            lr=5e-4,
        )
        .debugging(seed=SEED)
    )
