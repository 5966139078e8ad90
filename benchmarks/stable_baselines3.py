"""PPG next to PPO of Stable-Baselines3 on HalfCheetah: env steps/s on one core.

    pip install stable-baselines3
    python -m benchmarks.stable_baselines3 [--rounds 3]

All take 2,048 env steps an iteration, 10 epochs of 32 minibatches, two networks of two layers of
64, and normalised observations, with one env and with 16. `ppg` is the arm of the learning suite
(N_pi 16, E_aux 6), `no_aux` the same without auxiliary phases. A round is a whole phase of `ppg`
and 4 iterations of the others, in turn; a figure is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
from importlib.metadata import version
from typing import Any

import ray
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from benchmarks.measuring import SEED, in_turn, machine, per_second, ratio
from benchmarks.suites.mujoco import mujoco_ppg

ENV, STEPS, ITERATIONS = "HalfCheetah-v5", 2048, 4


def theirs(num_envs: int) -> PPO:
    """Their PPO, with the settings of the suite's arm where they matter for speed."""
    env = VecNormalize(make_vec_env(ENV, num_envs, seed=SEED), norm_reward=True)
    return PPO(
        "MlpPolicy",
        env,
        n_steps=STEPS // num_envs,
        batch_size=64,
        n_epochs=10,
        learning_rate=3e-4,
        max_grad_norm=0.5,
        seed=SEED,
        device="cpu",
    )


def measure(num_envs: int, rounds: int) -> None:
    """Prints the figures with that many envs."""
    config = mujoco_ppg(ENV).env_runners(
        num_envs_per_env_runner=num_envs, rollout_fragment_length=STEPS // num_envs
    )
    ppg, no_aux = config.copy().build_algo(), config.copy().training(n_pi=0).build_algo()
    sb3, n_pi = theirs(num_envs), config.n_pi

    def train(algo: Any, iterations: int) -> None:
        for _ in range(iterations):
            algo.train()

    train(no_aux, 1)
    train(ppg, n_pi)  # from now on, each round ends in an auxiliary phase
    times = in_turn(
        rounds,
        sb3=lambda: sb3.learn(ITERATIONS * STEPS, reset_num_timesteps=False),
        no_aux=lambda: train(no_aux, ITERATIONS),
        ppg=lambda: train(ppg, n_pi),
    )
    times["ppg"] = [t * ITERATIONS / n_pi for t in times["ppg"]]
    for name in ("no_aux", "ppg"):
        print(f"{num_envs} envs: {name} / SB3's PPO {ratio(times['sb3'], times[name]):.2f}")
    print({f"{k} env steps/s": per_second(ITERATIONS * STEPS, t) for k, t in times.items()})
    for algo in (ppg, no_aux):
        algo.stop()


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="PPG next to Stable-Baselines3's PPO")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    print(json.dumps(machine() | {"stable-baselines3": version("stable-baselines3")}), flush=True)
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    for num_envs in (1, 16):
        measure(num_envs, args.rounds)
    ray.shutdown()


if __name__ == "__main__":
    main()
