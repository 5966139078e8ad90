"""Threads and memory of torch on the CPUs of a process.

Measured in `docs/performance.md`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import ray
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

# glibc's names and numbers for `mallopt`.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEPT_BYTES = 2**30
_LARGEST_ON_HEAP = 2**25  # glibc's limit
_THREADS_HEAP = 2**26  # glibc's size of a heap of a thread other than the main one


def keep_freed_memory() -> None:
    """Lets this process keep the memory that its tensors free, for the next ones.

    glibc returns large arrays to the kernel when they are freed, and the kernel hands out new
    zeroed pages for the next ones, in each layer of each pass. Other C libraries have no such
    setting.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_ON_HEAP)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TOP_PAD, _THREADS_HEAP)  # or other threads return each heap that is empty


def use_idle_cpu_threads(config: AlgorithmConfig, num_processes: int) -> None:
    """Gives this process a share of the threads of processes that wait while it works.

    Sampling and learning take turns, and Ray gives a process one thread for each CPU that it
    reserves. On one machine, each of the processes that work at the same time gets its share of
    the CPUs of the whole run. On several machines the waiting processes are elsewhere. A process
    that Ray did not start keeps its threads, and so do all if the user has set OMP_NUM_THREADS.

    Args:
        config: Settings of the run.
        num_processes: Number of processes that work at the same time: env runners, or learners; 0
            counts as 1.
    """
    if not ray.is_initialized() or ray.get_runtime_context().get_actor_id() is None:
        return
    if _user_sets_threads():
        return
    if config.evaluation_parallel_to_training or sum(n["Alive"] for n in ray.nodes()) > 1:
        return
    per_learner = config.num_cpus_per_learner
    if per_learner == "auto":
        per_learner = 0 if config.num_gpus_per_learner else 1
    of_run = (
        config.num_cpus_for_main_process
        + config.num_env_runners * config.num_cpus_per_env_runner
        + config.num_learners * per_learner
    )
    share = int(min(of_run, available_cpus())) // max(num_processes, 1)
    torch.set_num_threads(max(torch.get_num_threads(), share))


def _user_sets_threads() -> bool:
    # Ray sets the variable, too, but not before the process starts.
    at_start = Path("/proc/self/environ")
    return at_start.exists() and b"\0OMP_NUM_THREADS=" in b"\0" + at_start.read_bytes()


def available_cpus() -> int:
    """Number of CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
