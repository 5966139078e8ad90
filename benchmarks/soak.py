"""Hours of PPG while its processes are killed: does it finish, does memory grow, does it learn?

Trains CartPole with two env runners and two learners on a small Ray of its own. One arm kills an
env runner every few iterations and a learner now and then (SIGKILL, at a random moment of the
iteration, in whatever phase that is) and writes a checkpoint now and then; the other trains for a
sixth of the time in peace. Rows go to a CSV as they are measured, and are drawn at the end.

    python -m benchmarks.soak --minutes 60 --out docs/soak.csv
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import psutil
import ray
from ray.rllib.core import DEFAULT_MODULE_ID

from rllib_ppg import PPG, PPGConfig

SEED = 0
ARMS = ("with kills", "in peace")
RUNNER_EVERY, LEARNER_EVERY, CHECKPOINT_EVERY = 5, 40, 20  # iterations
ROW_EVERY_S = 15.0
FIELDS = (
    *("arm", "wall_time_s", "iteration", "env_steps", "episode_return", "runners_killed"),
    *("learners_killed", "learners_rebuilt", "runners_at_work", "driver_mb", "learners_mb"),
    *("runners_mb", "store_mb", "processes"),
)


class Soaked(PPG):
    """PPG that knows which phase it is in, and counts the groups of learners that it has built."""

    phase = "between phases"
    rebuilt = 0

    def _policy_phase(self, *args: Any) -> None:
        self.phase = "policy phase"
        super()._policy_phase(*args)
        self.phase = "between phases"

    def _auxiliary_phase(self, *args: Any) -> None:
        self.phase = "auxiliary phase"
        super()._auxiliary_phase(*args)
        self.phase = "between phases"

    def _sample(self) -> Any:
        self.phase = "rollouts"
        return super()._sample()

    def _build_learner_group(self) -> Any:
        self.rebuilt += 1
        return super()._build_learner_group()


def soak_config() -> PPGConfig:
    """Two processes of each kind; iterations of about a second, an auxiliary phase every fourth."""
    return (
        PPGConfig(algo_class=Soaked)
        .environment("CartPole-v1")
        .env_runners(num_env_runners=2, num_envs_per_env_runner=32, rollout_fragment_length=256)
        .learners(num_learners=2)
        .training(n_pi=4, e_pi=4, e_v=4, e_aux=3, gamma=0.99, segment_length=1)
        .training(num_minibatches=8, num_aux_minibatches=8)
        .debugging(seed=SEED)
    )


class Killer:
    """Kills one process of `algo` at a time, in the background."""

    def __init__(self, algo: Soaked):
        self.algo = algo
        self.random = random.Random(SEED)
        self.killed: Counter[tuple[str, str]] = Counter()

    def of(self, kind: str) -> int:
        """How many have been killed of a kind."""
        return sum(n for (k, _), n in self.killed.items() if k == kind)

    def before(self, iteration: int, seconds: float) -> None:
        """Aims at one moment of an iteration that takes so many seconds."""
        due = [("env runner", RUNNER_EVERY)] * (iteration % RUNNER_EVERY == 0)
        due += [("learner", LEARNER_EVERY)] * (iteration % LEARNER_EVERY == 0)
        for kind, _ in due:
            pids = runner_pids(self.algo) if kind == "env runner" else learner_pids(self.algo)
            if len(pids) == 2:  # else the last one has not come back yet
                delay = self.random.uniform(0, seconds)
                threading.Timer(delay, self._kill, (kind, self.random.choice(pids))).start()

    def _kill(self, kind: str, pid: int) -> None:
        self.killed[kind, self.algo.phase] += 1
        os.kill(pid, signal.SIGKILL)


def runner_pids(algo: PPG) -> list[int]:
    """Those of env runners at work."""
    return list(
        algo.env_runner_group.foreach_env_runner(lambda _: os.getpid(), local_env_runner=False)
    )


def learner_pids(algo: PPG) -> list[int]:
    """Those of all learners that live."""
    results = algo.learner_group.foreach_learner(lambda _: os.getpid())
    return [r.get() for r in results if r.ok]


def own_mb(pids: list[int]) -> float:
    """MB that only these processes have."""
    found = 0
    for pid in pids:
        try:
            found += psutil.Process(pid).memory_full_info().uss
        except psutil.NoSuchProcess:  # killed a moment ago
            continue
    return round(found / 1e6, 1)


def measure(algo: Soaked) -> dict[str, Any]:
    """What there is of processes and memory."""
    runners, learners = runner_pids(algo), learner_pids(algo)
    resources = [r()["object_store_memory"] for r in (ray.cluster_resources, available)]
    ours = psutil.Process().children(recursive=True)
    return {
        "runners_at_work": len(runners),
        "driver_mb": own_mb([os.getpid()]),
        "learners_mb": own_mb(learners),
        "runners_mb": own_mb(runners),
        "store_mb": round((resources[0] - resources[1]) / 1e6, 1),
        "processes": len(ours),
    }


def available() -> dict[str, float]:
    """Ray leaves out what is used up."""
    return {"object_store_memory": 0.0, **ray.available_resources()}


def run(arm: str, rows: TextIO, seconds: float) -> None:
    """Trains for so long, and writes rows, and at the end what was killed."""
    out = csv.DictWriter(rows, FIELDS)
    algo = soak_config().build_algo()
    killer = Killer(algo)
    folder = Path(tempfile.mkdtemp())
    start, took, row_due, iteration = time.monotonic(), 1.0, 0.0, 0
    while True:
        iteration += 1
        if arm == ARMS[0]:
            killer.before(iteration, took)
        began = time.monotonic()
        result = algo.train()
        took = 0.9 * took + 0.1 * min(time.monotonic() - began, 5.0)  # not those of a rebuild
        if iteration % CHECKPOINT_EVERY == 0:
            algo.save_to_path(folder / "checkpoint")
        now = time.monotonic() - start
        done = now >= seconds
        if now >= row_due or done:
            row_due = now + ROW_EVERY_S
            row = {
                "arm": arm,
                "wall_time_s": round(now, 1),
                "iteration": iteration,
                "env_steps": int(result["num_env_steps_sampled_lifetime"]),
                "episode_return": round(result["env_runners"].get("episode_return_mean", 0.0), 1),
                "runners_killed": killer.of("env runner"),
                "learners_killed": killer.of("learner"),
                "learners_rebuilt": algo.rebuilt,
                **measure(algo),
            }
            out.writerow(row)
            print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
        if done:
            break
    weights = algo.learner_group.get_weights()[DEFAULT_MODULE_ID]
    assert all(np.isfinite(np.asarray(w)).all() for w in weights.values())
    for (kind, phase), n in sorted(killer.killed.items()):
        rows.write(f"# {arm}: {n} x {kind} killed in: {phase}\n")
    shutil.rmtree(folder)
    algo.stop()


def read(path: Path) -> list[dict[str, str]]:
    """The rows that `run` has written."""
    with path.open() as f:
        return list(csv.DictReader(line for line in f if not line.startswith("#")))


def sum_up(path: Path) -> None:
    """Prints the means of an arm's second and last tenth, and its last row."""
    rows = read(path)
    for arm in ARMS:
        of_arm = [row for row in rows if row["arm"] == arm]
        n = max(len(of_arm) // 10, 1)
        for name in ("driver_mb", "learners_mb", "store_mb", "processes", "episode_return"):
            x = np.array([float(row[name]) for row in of_arm])
            print(f"{arm}: {name} {x[n : 2 * n].mean():.1f}, {x[-n:].mean():.1f}")
        print(f"{arm}: {of_arm[-1]}")


def draw(path: Path) -> None:
    """Draws what `run` has written, beside it."""
    rows = read(path)
    figure, axes = plt.subplots(2, 3, figsize=(12, 6), layout="constrained")
    panels = (
        ("env_steps", "episode_return", "return"),
        ("wall_time_s", "driver_mb", "driver, MB"),
        ("wall_time_s", "learners_mb", "both learners, MB"),
        ("wall_time_s", "runners_mb", "env runners at work, MB"),
        ("wall_time_s", "store_mb", "object store, MB"),
        ("wall_time_s", "processes", "processes"),
    )
    for ax, (x, y, name) in zip(axes.flat, panels, strict=True):
        for arm in ARMS:
            of_arm = [row for row in rows if row["arm"] == arm]
            scale = 1e6 if x == "env_steps" else 60
            ax.plot([float(r[x]) / scale for r in of_arm], [float(r[y]) for r in of_arm], label=arm)
        ax.set(title=name, xlabel="million env steps" if x == "env_steps" else "minutes")
        ax.set_ylim(bottom=0)
    axes[0, 0].legend()
    figure.savefig(path.with_suffix(".png"), dpi=80)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=60, help="of the arm with kills")
    parser.add_argument("--out", type=Path, default=Path("docs/soak.csv"))
    args = parser.parse_args()
    store = 300 * 2**20
    ray.init(num_cpus=4, object_store_memory=store, include_dashboard=False, log_to_driver=False)
    with args.out.open("w", buffering=1) as f:
        f.write(
            f"# Ray {version('ray')}, torch {version('torch')}, {os.cpu_count()} cores "
            f"({platform.machine()}), seed {SEED}, {time.strftime('%Y-%m-%d')}\n"
        )
        csv.DictWriter(f, FIELDS).writeheader()
        run(ARMS[0], f, 60 * args.minutes)
        run(ARMS[1], f, 10 * args.minutes)
    draw(args.out)
    sum_up(args.out)


if __name__ == "__main__":
    main()
