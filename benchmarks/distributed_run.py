"""PPG on several Ray nodes: where states lie, what the driver holds, and killed env runners.

Starts a Ray cluster of four nodes on this machine (a head for the driver, one node for the env
runners, one for each of two learners), trains PPG on Procgen through two auxiliary phases, kills
an env runner in the second policy phase and one in the second auxiliary phase, and prints what it
finds as a table.

    python benchmarks/distributed_run.py
"""

from __future__ import annotations

import os
import platform
import signal
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster

from benchmarks import only_module
from rllib_ppg import PPGCallback, PPGConfig

SEED = 0
# There once env runner 1 has been killed; the one that takes its place is to live.
KILLED = Path(tempfile.mkdtemp()) / "killed"


class Kills(PPGCallback):
    """Kills env runner 1 in its third rollout, env runner 2 in the second auxiliary phase."""

    def on_sample_end(self, *, env_runner: Any, **kwargs: Any) -> None:
        """Runs in the env runner."""
        env_runner.rollouts = getattr(env_runner, "rollouts", 0) + 1
        if (env_runner.worker_index, env_runner.rollouts) == (1, 3) and not KILLED.exists():
            KILLED.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def on_aux_epoch_end(self, *, algorithm: Any, epoch: int, **kwargs: Any) -> None:
        """Runs in the driver."""
        if epoch == 1 and algorithm._num_aux_phases == 1:
            os.kill(algorithm.pids[2], signal.SIGKILL)


def start_cluster() -> tuple[Cluster, dict[str, str]]:
    """The cluster, and each node's name by its id."""
    store = {"object_store_memory": 200 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **store})
    names = {cluster.head_node.node_id: "head"}
    for name, num_cpus in (("env runners", 2), ("learner node A", 1), ("learner node B", 1)):
        role = {name.split()[0]: num_cpus}
        node = cluster.add_node(num_cpus=num_cpus, resources=role, **store)
        names[node.node_id] = name
    cluster.wait_for_nodes()
    return cluster, names


def main() -> None:
    """See the module."""
    cluster, names = start_cluster()
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    config = (
        PPGConfig()
        .environment("procgen-coinrun-v0", env_config={"distribution_mode": "easy"})
        .env_runners(
            num_env_runners=2,
            num_envs_per_env_runner=16,
            rollout_fragment_length=64,
            custom_resources_per_env_runner={"env": 1},
        )
        .learners(num_learners=2, custom_resources_per_learner={"learner": 1})
        .training(n_pi=2, e_aux=2, num_minibatches=4, num_aux_minibatches=4)
        .callbacks(Kills)
        .debugging(seed=SEED)
    )
    algo = config.build_algo()
    algo.pids = dict(
        enumerate(
            algo.env_runner_group.foreach_env_runner(
                lambda runner: os.getpid(), local_env_runner=False
            ),
            start=1,
        )
    )
    driver = psutil.Process()
    print(
        f"Ray {version('ray')}, torch {version('torch')}, {os.cpu_count()} cores "
        f"({platform.machine()}), seed {SEED}, {time.strftime('%Y-%m-%d')}\n"
    )
    print("iteration  phase  env steps  replay list: blocks on each node, MB      driver's MB")
    recorded: list[Any] = []
    replay = only_module(algo).replay
    clear = replay.clear
    replay.clear = lambda: (recorded.extend(replay.iterations), clear())
    for iteration in range(1, 7):
        recorded.clear()
        result = algo.train()
        iterations = recorded or replay.iterations
        entries = [entry for entries in iterations for entry in entries]
        where = ray.experimental.get_object_locations([entry.ref for entry in entries])
        nodes = Counter(
            f"{names[node]} (for learner {entry.learner})"
            for entry in entries
            for node in where[entry.ref]["node_ids"]
        )
        size = sum(where[entry.ref]["object_size"] for entry in entries)
        listed = ", ".join(f"{count} on {node}" for node, count in sorted(nodes.items()))
        print(
            f"{iteration:9}  {'aux' if recorded else 'policy':6} "
            f"{result['env_runners']['num_env_steps_sampled']:9,}  {listed}; {size / 1e6:.1f} MB  "
            f"{driver.memory_full_info().uss / 1e6:.0f}",
            flush=True,
        )
    algo.stop()
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
