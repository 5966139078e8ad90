"""MuJoCo.

PPO's settings for MuJoCo, of Schulman et al. 2017 (arXiv 1707.06347, table 3) with what Huang et
al. 2022 ("The 37 implementation details of PPO") found to matter: two layers of 64 tanh units for
each network, a log std that does not depend on the state, normalised observations and rewards,
learning rates that fall to 0, clipped gradients. One thing differs: 16 envs of 128 steps make the
2,048 steps of an iteration, not one env of 2,048, in all arms. What is PPG's beside that is the
paper's (Cobbe et al. 2020, appendix A) but for N_pi = 16, which makes 30 phases of the budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.env_to_module import MeanStdFilter
from torch import Tensor, nn

from benchmarks.suites.rllib_ppo import ppo_with_normalised_rewards, two_networks
from benchmarks.suites.suite import Suite
from rllib_ppg import AuxLoss, PPGConfig

MUJOCO_STEPS = 1_000_000
MUJOCO_LR = [[0, 3e-4], [MUJOCO_STEPS, 0.0]]


def mujoco_ppg(env: str, **network: Any) -> PPGConfig:
    """PPG with PPO's settings in its policy phase, and the paper's, its defaults, elsewhere.

    `network` is added to the model_config, or replaces what is there.
    """
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
                **network,
            }
        )
        .training(
            e_pi=10,
            e_v=10,
            num_minibatches=32,
            segment_length=1,
            lr=MUJOCO_LR,
            aux_lr=MUJOCO_LR,
            gamma=0.99,
            entropy_coeff=0.0,
            grad_clip=0.5,
            n_pi=16,
        )
    )


def mujoco_centered(env: str, **network: Any) -> PPGConfig:
    """`mujoco_ppg` with an auxiliary value loss that learns differences from the mean."""
    return mujoco_ppg(env, **network).training(aux_losses={"value": {"center": True}})


def mujoco_centered_and_limited(env: str, **network: Any) -> PPGConfig:
    """`mujoco_centered` with a limit to how far an iteration moves the policy."""
    return mujoco_centered(env, **network).training(target_kl="auto")


class FeaturesBeyond(AuxLoss):
    """1/2 of the mean square of what of the features lies beyond +-`bound`, for tanh units."""

    def __init__(self, weight: float = 1.0, bound: float = 0.0):
        super().__init__(weight)
        self.bound = bound

    def terms(self, head: nn.Module | None, batch: Mapping[str, Any]) -> Tensor:
        """See the class."""
        return 0.5 * (batch["features"].abs() - self.bound).clamp(min=0).square().mean(-1)


def mujoco_features_within(env: str, bound: float, weight: float) -> PPGConfig:
    """`mujoco_centered_and_limited`, whose auxiliary phases keep the features within +-`bound`."""
    within = {"class": FeaturesBeyond, "bound": bound, "weight": weight}
    losses = {"value": {"center": True}, "features": within}
    return mujoco_centered_and_limited(env).training(aux_losses=losses)


def mujoco_256_units(env: str) -> PPGConfig:
    """`mujoco_centered_and_limited` with four times the units."""
    return mujoco_centered_and_limited(env, fcnet_hiddens=[256, 256])


def without_contacts(env: str) -> dict[str, Any]:
    """The env_config that leaves out Ant's contact forces, 78 of its 105 observations."""
    return {"include_cfrc_ext_in_observation": False} if env == "Ant-v5" else {}


def mujoco_without_contacts(env: str) -> PPGConfig:
    """`mujoco_centered_and_limited` without Ant's contact forces."""
    return mujoco_centered_and_limited(env).environment(env_config=without_contacts(env))


def mujoco_ppo(env: str, **env_config: Any) -> PPOConfig:
    """RLlib's PPO."""
    return (
        ppo_with_normalised_rewards(lambda: gym.wrappers.ClipAction(gym.make(env, **env_config)))
        .env_runners(
            num_envs_per_env_runner=16,
            env_to_module_connector=lambda env, spaces, device: MeanStdFilter(),
        )
        .rl_module(
            rl_module_spec=two_networks(
                fcnet_hiddens=[64, 64], fcnet_activation="tanh", free_log_std=True
            )
        )
        .training(
            train_batch_size_per_learner=2048,
            minibatch_size=64,
            num_epochs=10,
            lr=MUJOCO_LR,
            gamma=0.99,
            entropy_coeff=0.0,
            vf_loss_coeff=0.5,  # of the squared error: that is L_value
            grad_clip=0.5,
        )
    )


MUJOCO = {
    "ppg": mujoco_ppg,
    "ppo": mujoco_ppo,
    "no_aux": lambda env: mujoco_ppg(env).training(n_pi=0),
}
SUITES = {
    "mujoco": Suite(
        envs=("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"),
        env_steps=MUJOCO_STEPS,
        seeds=(0, 1, 2, 3, 4),
        arms={
            **MUJOCO,
            "arch=detach": lambda env: mujoco_ppg(env).training(arch="detach"),
        },
    ),
    "mujoco_more": Suite(
        envs=("Ant-v5", "InvertedDoublePendulum-v5"),
        env_steps=MUJOCO_STEPS,
        seeds=(0, 1, 2, 3, 4),
        arms={
            **MUJOCO,
            # Added when auxiliary phases had been seen to cost return here (docs/results.md). Value
            # epochs, of which there are 10 still, have passes and an Adam of their own then.
            "e_pi=4": lambda env: mujoco_ppg(env).training(e_pi=4),
        },
    ),
    # What mends continuous control is chosen here, on seeds that are not reported
    # (docs/results/continuous-control.md).
    "mujoco_choice": Suite(
        envs=("InvertedDoublePendulum-v5", "Ant-v5", "HalfCheetah-v5"),
        env_steps=MUJOCO_STEPS,
        seeds=(10, 11, 12),
        arms={
            "ppg": mujoco_ppg,
            "no_aux": lambda env: mujoco_ppg(env).training(n_pi=0),
            "target_kl=0.01": lambda env: mujoco_ppg(env).training(target_kl=0.01),
            "target_kl=0.02": lambda env: mujoco_ppg(env).training(target_kl=0.02),
            "adam_relative": lambda env: mujoco_ppg(env).training(adam_relative=True),
            "presleep": lambda env: mujoco_ppg(env).training(
                aux_losses={"value": {"target": "presleep"}}
            ),
            "no_aux,target_kl=0.02": lambda env: mujoco_ppg(env).training(n_pi=0, target_kl=0.02),
            "layernorm": lambda env: mujoco_ppg(env, fcnet_use_layernorm=True),
            "no_aux,layernorm": lambda env: mujoco_ppg(env, fcnet_use_layernorm=True).training(
                n_pi=0
            ),
            "e_aux=1": lambda env: mujoco_ppg(env).training(e_aux=1),
            "center": mujoco_centered,
            "num_aux_minibatches=2": lambda env: mujoco_ppg(env).training(num_aux_minibatches=2),
            "center,kl_limit": mujoco_centered_and_limited,
            "center,kl_limit,e_aux=1": lambda env: mujoco_centered_and_limited(env).training(
                e_aux=1
            ),
            # Added when the choice had been made, to learn why it does not mend Ant.
            "center,kl_limit,small_features": lambda env: mujoco_features_within(env, 0.0, 1.0),
            "center,kl_limit,unsaturated": lambda env: mujoco_features_within(env, 0.8, 10.0),
            "center,kl_limit,units=256": mujoco_256_units,
            "no_aux,kl_limit,units=256": lambda env: mujoco_256_units(env).training(n_pi=0),
            "center,kl_limit,no_contacts": mujoco_without_contacts,
            "no_aux,kl_limit,no_contacts": lambda env: mujoco_without_contacts(env).training(
                n_pi=0
            ),
        },
        diagnose=True,
    ),
    # What was chosen there, on seeds that nothing was chosen on.
    "mujoco_six": Suite(
        envs=(
            "HalfCheetah-v5",
            "Hopper-v5",
            "Walker2d-v5",
            "Ant-v5",
            "InvertedDoublePendulum-v5",
            "Swimmer-v5",
        ),
        env_steps=MUJOCO_STEPS,
        seeds=(20, 21, 22, 23, 24),
        arms={
            "ppg": mujoco_centered_and_limited,
            "ppo": mujoco_ppo,
            "no_aux": lambda env: mujoco_centered_and_limited(env).training(n_pi=0),
        },
    ),
    # Ant again, without the contact forces. Added when `mujoco_choice` had shown what they do.
    "mujoco_ant": Suite(
        envs=("Ant-v5",),
        env_steps=MUJOCO_STEPS,
        seeds=(20, 21, 22, 23, 24),
        arms={
            "ppg": mujoco_without_contacts,
            "ppo": lambda env: mujoco_ppo(env, **without_contacts(env)),
            "no_aux": lambda env: mujoco_without_contacts(env).training(n_pi=0),
        },
    ),
}
