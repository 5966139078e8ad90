"""Does it learn? Trains what `benchmarks/suites/` lists, and reports it in docs/results.md.

    python -m benchmarks.learning run mujoco --jobs 2      # until all is done; may be stopped
    python -m benchmarks.learning run mujoco --only '*_ppg_0' '*_ppo_0'
    python -m benchmarks.learning pause                    # runs save and end; the queue waits
    python -m benchmarks.learning resume
    python -m benchmarks.learning status
    python -m benchmarks.learning report                   # tables and pictures from docs/results

Each run is a process of its own with one thread. It writes docs/results/SUITE/ENV_ARM_SEED.csv
when it is complete, and is skipped from then on; one that was stopped goes on from its last
checkpoint in the `--state` folder. Seeds come first: after a part of the time there is a part of
all tasks and arms. Two queues at once need different runs (`--only`): they do not look at each
other's.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from benchmarks.learning_rows import RESULTS, write_rows

FIELDS = ("env", "algo", "seed", "env_steps", "episode_return", "wall_time_s")
POINTS = 50  # logged of a run
SAVE_EVERY_S = 60.0
STATE = Path("ray_results/learning")


@dataclass(frozen=True)
class Run:
    """One env, one arm, one seed."""

    suite: str
    env: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """For files."""
        return f"{self.env.replace('/', '-')}_{self.arm}_{self.seed}"

    @property
    def csv(self) -> Path:
        """Its result."""
        return RESULTS / self.suite / f"{self.name}.csv"


def runs_of(suite: str) -> list[Run]:
    """All runs of a suite, in the order in which they are trained."""
    from benchmarks.suites import SUITES

    it = SUITES[suite]
    return [Run(suite, env, arm, seed) for seed in it.seeds for env in it.envs for arm in it.arms]


# -- One run -----------------------------------------------------------------------------------


def train(run: Run, state: Path, deadline: float) -> None:
    """Trains a run to its end, or until the deadline; saves what there is then."""
    import rllib_ppg  # noqa: F401 (registers envs)
    from benchmarks import diagnostics
    from benchmarks.suites import SUITES
    from benchmarks.suites.rllib_ppo import RETURNS, REWARDS

    suite = SUITES[run.suite]
    use_one_core()
    measured = diagnostics.Diagnostics()
    algo = suite.arms[run.arm](run.env).debugging(seed=run.seed).build_algo()
    folder, rows, seconds = state / run.suite / run.name, [], 0.0
    # By env steps. A kill leaves the newest whole, and perhaps a draft or an older one beside it.
    checkpoints = sorted(folder.glob("[0-9]*"))
    if checkpoints:
        algo.restore_from_path(str(checkpoints[-1]))
        saved_rows = json.loads((checkpoints[-1] / "rows.json").read_text())
        rows, seconds, returns, rewards, measured.iterations = saved_rows
        RETURNS.extend(returns)
        REWARDS.mean, REWARDS.var, REWARDS.count = rewards
    saved, steps = time.monotonic(), 0
    while steps < suite.env_steps:
        began = time.monotonic()
        with measured.watch() if suite.diagnose else nullcontext():
            result = algo.train()
        seconds += time.monotonic() - began
        steps = int(result["num_env_steps_sampled_lifetime"])
        value = np.mean(RETURNS) if RETURNS else result["env_runners"].get("episode_return_mean")
        if steps * POINTS // suite.env_steps > len(rows):
            shown = "" if value is None or np.isnan(value) else f"{value:.2f}"
            rows.append([run.env, run.arm, run.seed, steps, shown, round(seconds, 1)])
            print(f"{run.name}: {steps:,} steps, return {shown}, {seconds:.0f} s", flush=True)
        late = (time.time() > deadline or is_paused(state)) and steps < suite.env_steps
        if late or time.monotonic() - saved > SAVE_EVERY_S:
            draft = folder / "draft"
            shutil.rmtree(draft, ignore_errors=True)
            algo.save_to_path(str(draft))
            rewards = [float(x) for x in (REWARDS.mean, REWARDS.var, REWARDS.count)]
            saved_rows = [rows, seconds, list(RETURNS), rewards, measured.iterations]
            (draft / "rows.json").write_text(json.dumps(saved_rows))
            older, checkpoints = checkpoints, [draft.rename(folder / f"{steps:012}")]
            for checkpoint in older:
                shutil.rmtree(checkpoint)
            saved = time.monotonic()
        if late:
            return
    if measured.iterations:
        n_pi = suite.arms["ppg"](run.env).n_pi
        summary = diagnostics.summary(measured.iterations, n_pi)
        write_rows(run.csv.parent / "diagnostics" / run.csv.name, diagnostics.COLUMNS, summary)
    write_rows(run.csv, FIELDS, rows)
    shutil.rmtree(folder, ignore_errors=True)


def is_paused(state: Path) -> bool:
    """Whether queues with this state folder are to wait."""
    return _pause_file(state).exists()


def _pause_file(state: Path) -> Path:
    return state / "paused"


def use_one_core() -> None:
    """One thread, and a Ray of one CPU unless one runs already."""
    import ray
    import torch

    torch.set_num_threads(1)
    if not ray.is_initialized():
        ray.init(
            num_cpus=1,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=2 * 2**30,
        )


# -- The queue ---------------------------------------------------------------------------------


def run_queue(runs: list[Run], jobs: int, state: Path, deadline: float) -> int:
    """Trains those of the runs that are not complete, so many at a time; how many have failed."""
    waiting, failed = [run for run in runs if not run.csv.exists()], 0
    running: dict[subprocess.Popen[bytes], Run] = {}
    paused: set[Run] = set()
    while (waiting and time.time() < deadline) or running:
        while waiting and len(running) < jobs and time.time() < deadline and not is_paused(state):
            run = waiting.pop(0)
            command = [sys.executable, "-m", "benchmarks.learning", "one"]
            command += [run.suite, run.env, run.arm, str(run.seed)]
            command += ["--state", str(state), "--deadline", str(deadline)]
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            running[subprocess.Popen(command, env=env)] = run
        if is_paused(state):
            paused |= {*running.values()}
        time.sleep(1)
        for process in [p for p in running if p.poll() is not None]:
            run = running.pop(process)
            if process.returncode:
                failed += 1
                print(f"{run.name} failed with exit code {process.returncode}", flush=True)
            elif run in paused and not run.csv.exists():
                waiting.insert(0, run)
    return failed


def show_status(suites: list[str]) -> None:
    """How many runs of each task and arm are complete."""
    for suite in suites:
        counts: dict[tuple[str, str], int] = defaultdict(int)
        for run in runs_of(suite):
            counts[run.env, run.arm] += run.csv.exists()
        for (env, arm), done in counts.items():
            print(f"{suite}: {env} {arm}: {done} complete")


# -- Command -----------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> None:
    """See the module."""
    from benchmarks.suites import SUITES

    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    only = "runs with such a name, ENV_ARM_SEED"
    for name in ("run", "status", "report"):
        sub = commands.add_parser(name)
        sub.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}")
        if name == "run":
            sub.add_argument("--only", nargs="+", metavar="GLOB", default=["*"], help=only)
            sub.add_argument("--jobs", type=int, default=os.cpu_count())
            sub.add_argument("--minutes", type=float, default=float("inf"))
            sub.add_argument("--state", type=Path, default=STATE)
    for name in ("pause", "resume"):
        commands.add_parser(name).add_argument("--state", type=Path, default=STATE)
    one = commands.add_parser("one")
    one.add_argument("suite")
    one.add_argument("env")
    one.add_argument("arm")
    one.add_argument("seed", type=int)
    one.add_argument("--state", type=Path, required=True)
    one.add_argument("--deadline", type=float, required=True)
    args = parser.parse_args(argv)
    if args.command == "one":
        train(Run(args.suite, args.env, args.arm, args.seed), args.state, args.deadline)
        return
    if args.command == "pause":
        args.state.mkdir(parents=True, exist_ok=True)
        _pause_file(args.state).touch()
        return
    if args.command == "resume":
        _pause_file(args.state).unlink(missing_ok=True)
        return
    suites = args.suites or list(SUITES)
    if unknown := set(suites) - set(SUITES):
        parser.error(f"no suite is called {', '.join(sorted(unknown))}, but {', '.join(SUITES)}")
    if args.command == "run":
        runs = [
            run
            for suite in suites
            for run in runs_of(suite)
            if any(fnmatch(run.name, glob) for glob in args.only)
        ]
        if not runs:
            parser.error(f"no run is called {' or '.join(args.only)}")
        deadline = time.time() + 60 * args.minutes
        sys.exit(run_queue(runs, args.jobs, args.state.absolute(), deadline) > 0)
    elif args.command == "status":
        show_status(suites)
    else:
        from benchmarks.learning_report import report

        report(suites)


if __name__ == "__main__":
    main()
