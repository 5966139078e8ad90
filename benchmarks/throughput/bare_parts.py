"""Random frames, and the bare loops that train on them."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.bare import ACTIONS, Bare
from benchmarks.measuring import DEVICE, GPUS, SEED, in_turn
from benchmarks.throughput.sizes import Sizes
from rllib_ppg.data.rollout import Rollout
from rllib_ppg.resources.cpu import keep_freed_memory


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
