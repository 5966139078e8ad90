"""What the replay list costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil
import ray
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from benchmarks import only_module
from benchmarks.envs import FRAMES, Cheap
from benchmarks.measuring import Row, start_ray
from benchmarks.throughput.sizes import QUICK, Sizes
from benchmarks.throughput.tiny_module import TinyModule
from rllib_ppg import PPGCallback, PPGConfig


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
