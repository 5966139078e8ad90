"""A quarter of the batch.

Hilton, Cobbe and Schulman 2021 (arXiv 2110.00641): with a batch divided by c, learning rates are
divided by sqrt(c), and N_pi is multiplied by c. With an average as the proximal policy, its age and
the number of samples behind the advantages' moments are multiplied by c as well. Here c = 4. The
age, 1 / (1 - decay) - 1, is as many gradient steps as an iteration has. That is so in the paper,
too, whose iterations have 8 and whose decay is .889.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.suites.minatar import MINATAR_STEPS, minatar_ppg
from benchmarks.suites.suite import Suite
from rllib_ppg import PPGConfig


def cartpole_ppg(_: str) -> PPGConfig:
    """The settings of tuned_examples/cartpole.yaml."""
    return (
        PPGConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=16, rollout_fragment_length=128)
        .training(
            e_pi=4,
            e_v=4,
            e_aux=3,
            num_minibatches=8,
            num_aux_minibatches=4,
            segment_length=1,
            gamma=0.99,
            n_pi=8,
        )
    )


def quartered(config: PPGConfig) -> PPGConfig:
    """The config with a quarter of its envs, by the rule for PPG without an average."""
    half = [
        [[step, lr / 2] for step, lr in x] if isinstance(x, list) else x / 2
        for x in (config.lr, config.aux_lr)
    ]
    config.env_runners(num_envs_per_env_runner=config.num_envs_per_env_runner // 4)
    return config.training(n_pi=4 * config.n_pi, lr=half[0], aux_lr=half[1])


def with_ewma(config: PPGConfig, c: int = 1) -> PPGConfig:
    """The config with an average as the proximal policy, for a batch that was divided by c."""
    age = c * config.e_pi * config.num_minibatches
    return config.training(
        proximal="ewma", proximal_decay=1 - 1 / (1 + age), adv_ewma_decay=(c - 1) / (c + 1)
    )


def batch_size_arms(config: Callable[[str], PPGConfig]) -> dict[str, Callable[[str], PPGConfig]]:
    """PPG and PPG-EWMA, with the whole batch and with a quarter of it."""
    return {
        "ppg": config,
        "ppg_quarter": lambda env: quartered(config(env)),
        "ewma": lambda env: with_ewma(config(env)),
        "ewma_quarter": lambda env: with_ewma(quartered(config(env)), c=4),
    }


SUITES = {
    # Does a smaller batch learn the same? `batch_size.py` compares the curves.
    "batch_size_cartpole": Suite(
        envs=("CartPole-v1",),
        env_steps=250_000,
        seeds=(0, 1, 2, 3, 4),
        arms=batch_size_arms(cartpole_ppg),
    ),
    "batch_size_minatar": Suite(
        envs=("MinAtar/Breakout-v1",),
        env_steps=MINATAR_STEPS,
        seeds=(0, 1, 2, 3, 4),
        arms=batch_size_arms(minatar_ppg),
    ),
}
