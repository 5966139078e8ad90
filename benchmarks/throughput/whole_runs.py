"""Whole runs: against the bare parts, RLlib's PPO, and other kinds of learners."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gymnasium as gym
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo import PPOConfig

import rllib_ppg.learning.base_learner
from benchmarks.envs import MUJOCO_SIZED, Cheap
from benchmarks.measuring import DEVICE, GPUS, SEED, Row, in_turn, per_second
from benchmarks.throughput.bare_parts import best_bare, random_rollout
from benchmarks.throughput.configs import ppg, ppo
from benchmarks.throughput.sizes import QUICK, Sizes, compare
from rllib_ppg import PPGConfig
from rllib_ppg.learner import PPGTorchLearner


class WholeMinibatches(PPGTorchLearner):
    """Whole minibatches at once, in memory as torch finds it: how other PPGs train."""

    def build(self) -> None:
        """See the class."""
        rllib_ppg.learning.base_learner.keep_freed_memory = lambda: None
        super().build()


def train_in_turn(sizes: Sizes, **configs: AlgorithmConfig) -> dict[str, list[float]]:
    """Seconds of an iteration of each, in turn, after one that does not count."""
    algos = {name: config.build_algo() for name, config in configs.items()}
    fns = {name: algo.train for name, algo in algos.items()}
    in_turn(1, **fns)
    times = compare(sizes, **fns)
    for algo in algos.values():
        algo.stop()
    return times


def whole_run(sizes: Sizes) -> Iterator[Row]:
    """A run's wall time against the sum of its bare parts, and against RLlib's PPO."""
    S, T, E = sizes.states, sizes.T, sizes.e_aux
    env = gym.make_vec(
        "procgen-coinrun-v0", sizes.rows, vectorization_mode="vector_entry_point",
        distribution_mode="easy",
    )  # fmt: skip
    first, _ = env.reset(seed=SEED)
    obs = torch.from_numpy(random_rollout(sizes).obs.reshape(S, 64, 64, 3)).to(DEVICE)
    bare = best_bare(obs)
    bare.sample(env, first, 4)

    def parts() -> None:
        bare.sample(env, first, T)
        bare.policy_phase(obs, sizes.num_mb, T)
        bare.aux_phase(obs, sizes.num_mb, T, E)

    ours, theirs = ppg(sizes).build_algo(), ppo(sizes, num_epochs=1 + E).build_algo()
    ours.train()
    times = compare(sizes, ours=ours.train, bare=parts, ppo=theirs.train)
    ours.stop()
    theirs.stop()
    detail = {f"{k} env steps/s": per_second(S, t) for k, t in times.items()}
    yield Row.of_times(
        "whole run: sum of the bare parts / wall time",
        times["bare"],
        times["ours"],
        0.90,
        detail=detail,
    )
    yield Row.of_times(
        "env steps/s: PPG / RLlib's PPO, same network, batch and number of passes",
        times["ppo"],
        times["ours"],
        2.0,
        detail=detail,
    )


def papers_aux_epochs(sizes: Sizes) -> Iterator[Row]:
    """What a run makes with the paper's six auxiliary epochs, next to one with a single one."""
    times = train_in_turn(sizes, one=ppg(replace(sizes, e_aux=1)), six=ppg(replace(sizes, e_aux=6)))
    yield Row.of_times(
        "env steps/s: six auxiliary epochs, the paper's / one",
        times["one"],
        times["six"],
        None,
        detail={f"{k} env steps/s": per_second(sizes.states, t) for k, t in times.items()},
    )


def learners(sizes: Sizes) -> Iterator[Row]:
    """Whole runs with learners of other kinds: what micro-batches, precision and numbers give."""
    whole = sizes.states // sizes.num_mb
    native = GPUS or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    one = {"num_learners": 1}
    configs = {"micro-batches": ppg(sizes).learners(**one)}
    if not GPUS:
        configs["two learners"] = ppg(sizes).learners(num_learners=2)
    if sizes is not QUICK:  # whose minibatches are no larger than micro-batches
        configs["memory kept"] = ppg(sizes, micro_batch_size=whole).learners(**one)
        configs["whole minibatches"] = ppg(
            sizes, micro_batch_size=whole, learner_class=WholeMinibatches
        ).learners(**one)
    if native:
        configs["bfloat16"] = ppg(sizes, aux_precision="bfloat16").learners(**one)
    times = train_in_turn(sizes, **configs)
    detail = {f"{k} env steps/s": per_second(sizes.states, t) for k, t in times.items()}

    def faster(row: str, name: str, than: str, target: float | None = None, **detail: Any) -> Row:
        if {than, name} <= times.keys():
            return Row.of_times(row, times[than], times[name], target, detail=detail)
        return Row(row, None, target)

    yield faster(
        "whole run, float32: micro-batches and memory kept / whole minibatches",
        "micro-batches",
        "whole minibatches",
        1.6,
        **detail,
    )
    yield faster("the same, memory kept in both", "micro-batches", "memory kept")
    yield faster("whole run: bfloat16 auxiliary phase / float32", "bfloat16", "micro-batches", 1.35)
    yield faster(
        "two learners with one thread each / one with two", "two learners", "micro-batches", 0.95
    )


def vectors(sizes: Sizes) -> Iterator[Row]:
    """Small networks, where the framework's own time shows: PPG against RLlib's PPO."""
    tasks = {
        "CartPole": ("CartPole-v1", {}),
        "MuJoCo-sized": (Cheap, MUJOCO_SIZED),
    }
    if sizes is QUICK:
        del tasks["CartPole"]
    for name, (env, env_config) in tasks.items():
        shape = {"num_env_runners": 1, "num_envs_per_env_runner": 16}
        ours = (
            PPGConfig()
            .environment(env, env_config=env_config)
            .env_runners(**shape, rollout_fragment_length=128)
            .training(n_pi=1, e_pi=2, e_v=2, e_aux=2, segment_length=1)
            .training(num_minibatches=8, num_aux_minibatches=8)
        )
        # As many passes: 2 policy epochs and 2 auxiliary epochs of both networks.
        theirs = (
            PPOConfig()
            .environment(env, env_config=env_config)
            .env_runners(**shape, rollout_fragment_length=128)
            .env_runners(gym_env_vectorize_mode="vector_entry_point")
            .training(train_batch_size_per_learner=2048, minibatch_size=256, num_epochs=4)
        )
        times = train_in_turn(sizes, ours=ours, ppo=theirs)
        yield Row.of_times(
            f"env steps/s, {name}: PPG / RLlib's PPO, same network, batch and number of passes",
            times["ppo"],
            times["ours"],
            2.0,
            detail={f"{k} env steps/s": per_second(2048, t) for k, t in times.items()},
        )
