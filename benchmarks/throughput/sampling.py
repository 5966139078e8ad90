"""Sampling: against a bare loop, and against RLlib's env runner."""

from __future__ import annotations

from collections.abc import Iterator

import gymnasium as gym
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from benchmarks.bare import Bare
from benchmarks.envs import FRAMES, Cheap
from benchmarks.measuring import SEED, Row, in_turn, per_second
from benchmarks.throughput.configs import ppg
from benchmarks.throughput.sizes import QUICK, Sizes, compare
from benchmarks.throughput.tiny_module import TinyModule
from rllib_ppg import PPGConfig
from rllib_ppg.sampling.env_runner import BatchedEnvRunner


def sampling_procgen(sizes: Sizes) -> Iterator[Row]:
    """`BatchedEnvRunner` against a bare loop of forward pass and env step."""
    T = 16 if sizes is QUICK else 64
    runner = BatchedEnvRunner(
        config=ppg(sizes, 0)
        .env_runners(num_envs_per_env_runner=64)
        .env_runners(rollout_fragment_length=T)
    )
    env = gym.make_vec(
        "procgen-coinrun-v0", 64, vectorization_mode="vector_entry_point", distribution_mode="easy"
    )
    bare = Bare()
    obs, _ = env.reset(seed=SEED)
    runner.sample_rollout(1)
    bare.sample(env, obs, 4)
    times = compare(
        sizes, bare=lambda: bare.sample(env, obs, T), ours=lambda: runner.sample_rollout(1)
    )
    yield Row.of_times(
        "sampling, Procgen, 64 envs: BatchedEnvRunner / bare loop",
        times["bare"],
        times["ours"],
        0.90,
        detail={f"{k} steps/s": per_second(64 * T, t) for k, t in times.items()},
    )


def sampling_trivial(sizes: Sizes) -> Iterator[Row]:
    """`BatchedEnvRunner` against RLlib's own env runner."""
    T = 64
    spec = RLModuleSpec(module_class=TinyModule)
    runners = {}
    for cls, config in ((BatchedEnvRunner, PPGConfig()), (SingleAgentEnvRunner, PPOConfig())):
        config = (
            config.environment(Cheap, env_config=FRAMES)
            .env_runners(num_env_runners=0, num_envs_per_env_runner=64, rollout_fragment_length=T)
            .env_runners(gym_env_vectorize_mode="vector_entry_point")
            .rl_module(rl_module_spec=spec)
        )
        runners[cls] = cls(config=config, worker_index=0)
    ours, theirs = runners.values()
    fns = {
        "rllib": lambda: theirs.sample(num_timesteps=64 * T),
        "ours": lambda: ours.sample_rollout(1),
    }
    in_turn(1, **fns)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as RLlib's env runners have, and more would not help one pixel
    times = in_turn(15, **fns)
    torch.set_num_threads(threads)
    yield Row.of_times(
        "sampling, trivial 64x64x3 env, tiny policy: BatchedEnvRunner / RLlib's",
        times["rllib"],
        times["ours"],
        18.0,
        detail={f"{k} steps/s": per_second(64 * T, t) for k, t in times.items()},
    )
