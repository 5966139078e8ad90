"""How fast PPG is: each figure is a ratio of two things measured in turn, in one run.

    python -m benchmarks.throughput [--quick] [--json FILE] [--only NAME ...]

A comparison goes on until its ratio is known to 5 %, or for some rounds; if it then may be on
either side of its target, the verdict is "too noisy". Prints a row a figure, and with --json writes
them beside versions, seed, machine and date. The device is what RLlib's settings choose: a GPU for
the learner where there is one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import ray
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

import rllib_ppg.learning.base_learner
from benchmarks import only_module
from benchmarks.bare import ACTIONS, Bare
from benchmarks.envs import FRAMES, MUJOCO_SIZED, Cheap
from benchmarks.measuring import (
    DEVICE,
    GPUS,
    SEED,
    Row,
    in_turn,
    machine,
    per_second,
    start_ray,
    write,
)
from rllib_ppg import PPGCallback, PPGConfig
from rllib_ppg.data.phase_specs import AuxPhase, PolicyPhase
from rllib_ppg.data.rollout import Rollout
from rllib_ppg.learner import PPGTorchLearner
from rllib_ppg.networks.rl_module import VF_AUX_PREDS, PPGCatalog, PPGTorchRLModule
from rllib_ppg.resources.cpu import keep_freed_memory
from rllib_ppg.sampling.env_runner import BatchedEnvRunner


@dataclass
class Sizes:
    """How much of everything: `rows` of T states, cut into `num_mb` minibatches.

    A comparison takes `rounds` rounds, and until it is sure up to `max_rounds` within `max_s`.
    """

    rounds: int = 3
    max_rounds: int = 9
    max_s: float = math.inf
    rows: int = 16
    T: int = 64
    num_mb: int = 1
    e_aux: int = 1

    @property
    def states(self) -> int:
        """Env steps of an iteration."""
        return self.rows * self.T


QUICK = Sizes(max_rounds=15, max_s=30.0, T=8)


def compare(sizes: Sizes, **fns: Callable[[], Any]) -> dict[str, list[float]]:
    """Seconds of each function, in turn; what is compared with the first is to be sure."""
    return in_turn(sizes.rounds, up_to=sizes.max_rounds, within_s=sizes.max_s, **fns)


# -- Sampling ---------------------------------------------------------------------------------


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


class TinyModule(PPGTorchRLModule):
    """Policy and values of one pixel."""

    def setup(self) -> None:
        """A layer each."""
        self.pi, self.vf, self.vf_aux = (torch.nn.Linear(3, n) for n in (ACTIONS, 1, 1))

    def get_non_inference_attributes(self) -> list[str]:
        """What does not act."""
        return ["vf", "vf_aux"]

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self.pi(batch[Columns.OBS][:, 0, 0].float() / 255.0)}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        pixel = batch[Columns.OBS][:, 0, 0].float() / 255.0
        vf, vf_aux = self.vf(pixel).squeeze(-1), self.vf_aux(pixel).squeeze(-1)
        logits = self.pi(pixel)
        return {Columns.ACTION_DIST_INPUTS: logits, Columns.VF_PREDS: vf, VF_AUX_PREDS: vf_aux}


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


# -- The phases -------------------------------------------------------------------------------


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


def random_rollout(sizes: Sizes) -> Rollout:
    """Frames that are none, of episodes that end now and then."""
    rng = np.random.default_rng(SEED)
    shape = (sizes.rows, sizes.T)
    return Rollout(
        obs=rng.integers(0, 256, (*shape, 64, 64, 3), np.uint8),
        actions=rng.integers(0, ACTIONS, shape),
        logp=np.full(shape, -2.7, np.float32),
        rewards=rng.normal(size=shape).astype(np.float32),
        terminated=rng.random(shape) < 0.01,
        truncated=np.zeros(shape, bool),
        valid=np.ones(shape, bool),
        state_in=np.empty((sizes.rows, 1, 0), np.float32),
        begins=np.zeros(sizes.rows, bool),
        stream=np.zeros((sizes.rows, 3), np.int64),
        last_obs=rng.integers(0, 256, (sizes.rows, 64, 64, 3), np.uint8),
        final_obs=np.empty((0, 64, 64, 3), np.uint8),
        final_index=np.empty((0, 2), np.int64),
    )


def best_bare(obs: torch.Tensor) -> Bare:
    """The bare loops at the micro-batch that trains the most states a second here."""
    keep_freed_memory()
    sizes = (2048, 4096) if GPUS else (16, 32, 64)
    candidates = {frames: Bare(DEVICE, frames) for frames in sizes}
    some = [torch.arange(min(len(obs), 4 * max(sizes)), device=DEVICE)]
    fns = {str(n): (lambda b=b: b.policy_epoch(obs, some)) for n, b in candidates.items()}
    times = in_turn(2, **fns)
    return candidates[min(candidates, key=lambda n: min(times[str(n)]))]


class Phases:
    """A learner and both of its phases on random frames."""

    def __init__(self, sizes: Sizes, **training: Any):
        config = ppg(sizes, 0, **training)
        spaces = {DEFAULT_MODULE_ID: (FRAMES["observation_space"], FRAMES["action_space"])}
        self.sizes = sizes
        self.learner = PPGTorchLearner(
            config=config, module_spec=config.get_multi_rl_module_spec(spaces=spaces)
        )
        self.learner.build()
        self.rollout = random_rollout(sizes)
        self.stored: list[Any] = []

    def policy(self) -> None:
        """The policy phase of one iteration."""
        rows = self.sizes.rows
        phase = PolicyPhase(
            DEFAULT_MODULE_ID, SEED, [np.arange(rows)], rows, 0, 0, 1.0, rows_per_block=1
        )
        (_, infos), *blocks = self.learner.policy_phase(phase, self.rollout)
        if not self.stored:
            self.stored = [(ray.put(b), 0, info) for b, info in zip(blocks, infos, strict=True)]

    def presleep(self, iterations: int = 1) -> None:
        """Opens the auxiliary phase over so many iterations, all with the same frames."""
        blocks = [(ref, i, info) for i in range(iterations) for ref, _, info in self.stored]
        rows = [self.sizes.rows] * iterations
        self.learner.presleep(AuxPhase(DEFAULT_MODULE_ID, SEED, blocks, rows))

    def aux(self) -> None:
        """The auxiliary phase of one iteration."""
        self.presleep()
        for epoch in range(self.sizes.e_aux):
            self.learner.aux_epoch(DEFAULT_MODULE_ID, epoch)


def phases(sizes: Sizes) -> Iterator[Row]:
    """The learner's phases against the same passes in bare loops, on the same data."""
    ours, S = Phases(sizes), sizes.states
    obs = torch.from_numpy(ours.rollout.obs.reshape(S, 64, 64, 3)).to(DEVICE)
    bare = best_bare(obs)

    def bare_policy() -> None:
        bare.policy_phase(obs, sizes.num_mb, sizes.T)

    def bare_aux() -> None:
        bare.aux_phase(obs, sizes.num_mb, sizes.T, sizes.e_aux)

    times = compare(sizes, bare=bare_policy, ours=ours.policy)
    yield Row.of_times(
        "policy phase: learner / bare torch loop",
        times["bare"],
        times["ours"],
        0.95,
        detail={"bare micro-batch": bare.frames}
        | {f"{k} states/s": per_second(S, t) for k, t in times.items()},
    )
    times = compare(sizes, bare=bare_aux, ours=ours.aux)
    yield Row.of_times(
        "auxiliary phase: learner / bare torch loop",
        times["bare"],
        times["ours"],
        0.95,
        detail={f"{k} states/s": per_second(S * sizes.e_aux, t) for k, t in times.items()},
    )


# -- Whole runs -------------------------------------------------------------------------------


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


# -- Shared machines --------------------------------------------------------------------------


@contextmanager
def busy(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Lets processes run that otherwise stand still."""
    for process in processes:
        process.send_signal(signal.SIGCONT)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGSTOP)


def shared_machine(sizes: Sizes) -> Iterator[Row]:
    """A run beside busy processes of others, and beside a second run.

    With k busy processes on c cores, the fair share of a run that uses all cores is c / (c + k).
    """
    sizes = replace(sizes, T=16)  # short iterations, in turn
    # Learner and env runner in processes of their own: this one has imported torch already.
    one, two = (ppg(sizes).learners(num_learners=1).build_algo() for _ in range(2))
    cores = len(os.sched_getaffinity(0))
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    for process in others:
        process.send_signal(signal.SIGSTOP)

    def train(algo: Any, k: int = 0) -> None:
        with busy(others[:k]):
            algo.train()

    def both() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(train, (one, two)))

    try:
        in_turn(1, one=lambda: train(one), two=lambda: train(two))
        few, many = max(cores // 2, 1), cores
        times = in_turn(
            5,
            alone=lambda: train(one),
            few=lambda: train(one, few),
            many=lambda: train(one, many),
            both=both,
        )
    finally:
        for process in others:
            process.kill()
        for algo in (one, two):
            algo.stop()
    detail = {
        f"{k} env steps/s": per_second(sizes.states, times[k]) for k in ("alone", "few", "many")
    }
    for name, k in (("few", few), ("many", many)):
        share = cores / (cores + k)
        yield Row.of_times(
            f"beside {k} busy processes on {cores} cores: throughput / fair share of that alone",
            times["alone"],
            times[name],
            0.8,
            times=1 / share,
            detail=detail,
        )
    yield Row.of_times(
        "two runs side by side: their throughput together / that of one alone",
        times["alone"],
        times["both"],
        0.9,
        times=2,
    )


# -- Memory -----------------------------------------------------------------------------------


def own_bytes() -> int:
    """This process's memory, the object store's and that of files aside."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - memory.shared)


class Memory(PPGCallback):
    """Notes the processes' own memory in each auxiliary epoch, and the object store's."""

    driver: list[int]
    learner: list[int]
    restored: list[int]

    @classmethod
    def forget(cls) -> None:
        """Starts anew."""
        cls.driver, cls.learner, cls.restored = [], [], []

    def on_aux_epoch_end(self, *, algorithm: Any, epoch: int, **kwargs: Any) -> None:
        """Runs in the driver, while learners wait."""
        entries = [e for it in only_module(algorithm).replay.iterations for e in it]
        Memory.stored = only_module(algorithm).replay.nbytes
        Memory.in_store = in_store([e.ref for e in entries])
        Memory.restored.append(restored_bytes())
        Memory.driver.append(own_bytes())
        results = algorithm.learner_group.foreach_learner(lambda learner: own_bytes())
        Memory.learner.extend(r.get() for r in results)


def restored_bytes() -> int:
    """What Ray's processes for it have read from spilled files so far."""
    workers = [p for p in psutil.process_iter(["name"]) if "Restore" in p.info["name"]]
    return sum(p.io_counters().read_chars for p in workers)


def in_store(refs: list[Any]) -> int:
    """Bytes of the objects in the object store; spilled ones stay on disk."""
    ray.wait(refs, num_returns=len(refs), fetch_local=False)
    return sum(w["object_size"] for w in ray.experimental.get_object_locations(refs).values())


def frames_run(n_pi: int, e_aux: int = 1) -> PPGConfig:
    """Frames as large as Procgen's, 25 MB an iteration, and networks of one pixel."""
    return (
        PPGConfig()
        .environment(Cheap, env_config=FRAMES)
        .env_runners(num_env_runners=1, num_envs_per_env_runner=8, rollout_fragment_length=256)
        .learners(num_learners=1)
        .rl_module(rl_module_spec=RLModuleSpec(module_class=TinyModule))
        .training(n_pi=n_pi, e_aux=e_aux, num_minibatches=1, num_aux_minibatches=4)
        .training(replay_may_spill=True)
        .callbacks(Memory)
    )


def memory(sizes: Sizes) -> Iterator[Row]:
    """What a replay list costs beside its frames, with N_pi and with 8 N_pi iterations."""
    peaks, stored = {}, {}
    few, many = (2, 16) if sizes is QUICK else (4, 32)
    for n_pi in (few, many):
        Memory.forget()
        algo = frames_run(n_pi).build_algo()
        algo.train()
        before = own_bytes()
        for _ in range(n_pi - 1):
            algo.train()
        algo.stop()
        peaks[n_pi] = max(Memory.driver) - before, max(Memory.learner)
        stored[n_pi] = Memory.stored
    growth, more = stored[many] - stored[few], peaks[many][1] - peaks[few][1]
    raw = many * 8 * 256 * 12_288
    yield Row(
        "replay list: object-store bytes / raw bytes of its frames",
        Memory.in_store / raw,
        1.02,
        at_least=False,
        detail={"MB": round(raw / 1e6)},
    )
    yield Row(
        "driver's own memory: growth / bytes of the replay list",
        max(peaks[many][0], 0) / stored[many],
        0.02,
        at_least=False,
        detail={"MB": round(peaks[many][0] / 1e6, 1)},
    )
    yield Row(
        "learner's own memory: growth with 8 N_pi / growth of the replay list",
        max(more, 0) / growth,
        0.01,
        at_least=False,
        detail={"MB": round(more / 1e6, 1), "of MB": round(growth / 1e6)},
    )


def spilled(sizes: Sizes) -> Iterator[Row]:
    """An auxiliary phase over a replay list three times the size of the object store."""
    store, e_aux = 130 * 2**20, 1 if sizes is QUICK else 2
    ray.shutdown()
    start_ray(object_store_memory=store)
    Memory.forget()
    algo = frames_run(17, e_aux).build_algo()
    for _ in range(17):
        algo.train()
    algo.stop()
    restored, used = Memory.restored[-1] - Memory.restored[0], e_aux * Memory.stored
    yield Row(
        "replay list 3x the object store: bytes restored from disk / bytes used",
        restored / used,
        1.2,
        at_least=False,
        detail={"list / store": round(Memory.stored / store, 2), "MB": round(restored / 1e6)},
    )


# `spilled` comes last: it leaves a small object store behind.
MEASUREMENTS = (
    sampling_procgen,
    sampling_trivial,
    phases,
    whole_run,
    learners,
    vectors,
    shared_machine,
    memory,
    spilled,
)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="PPG's speed and memory, as ratios")
    parser.add_argument("--quick", action="store_true", help="small, without what takes long")
    parser.add_argument("--json", metavar="FILE", help="write the figures, or renew those in it")
    names = [m.__name__ for m in MEASUREMENTS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    args = parser.parse_args()
    sizes = QUICK if args.quick else Sizes()
    print(json.dumps(machine()), flush=True)
    torch.manual_seed(SEED)
    start_ray()
    rows = []
    for measure in MEASUREMENTS:
        if args.only and measure.__name__ not in args.only:
            continue
        if args.quick and not args.only and measure is spilled:
            continue
        start = time.perf_counter()
        for row in measure(sizes):
            rows.append(row)
            value = "-" if row.value is None else f"{row.value:.3f}"
            sign = ">=" if row.at_least else "<="
            target = "" if row.target is None else f"{sign} {row.target:g}"
            print(f"{value:>8}  {target:8}  {row.verdict:9}  {row.name}  {row.detail}", flush=True)
        print(f"          ({measure.__name__}: {time.perf_counter() - start:.0f} s)", flush=True)
    if args.json:
        write(pathlib.Path(args.json), rows, args.quick)
    ray.shutdown()


if __name__ == "__main__":
    main()
