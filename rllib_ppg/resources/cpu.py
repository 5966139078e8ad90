"""What torch wants of the CPUs that a process runs on: threads, and memory that it may keep.

Measured in `docs/performance.md`.
"""

from __future__ import annotations

import ctypes
import os
import sys

import ray
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

# glibc's names and numbers for `mallopt`.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 2**30
_LARGEST_ON_HEAP = 2**25  # the most that glibc takes


def keep_freed_memory() -> None:
    """Lets this process keep what its tensors free, for the next ones.

    glibc hands large arrays back to the kernel as soon as they are freed, and the kernel hands out
    zeroed pages anew for the next ones: at each layer of each pass. Other C libraries have no such
    call, and are left as they are.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_ON_HEAP)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def use_idle_cpu_threads(config: AlgorithmConfig, num_processes: int) -> None:
    """Sets the threads of one of `num_processes` processes that work while all others wait.

    Sampling and learning take turns, and Ray gives a process as many threads as it has CPUs
    reserved. On one machine each may have its share of the CPUs of the whole run; on several, the
    CPUs of those who wait are elsewhere. A process that Ray did not start keeps the threads that
    its user has set.

    Args:
        config: of the run.
        num_processes: number of env runners, or of learners; 0 as 1.
    """
    if not ray.is_initialized() or ray.get_runtime_context().get_actor_id() is None:
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


def available_cpus() -> int:
    """CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
