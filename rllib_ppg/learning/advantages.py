"""Advantages and value targets of an iteration, on the learners that train on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rllib_ppg.data.advantages import gae, successor_values
from rllib_ppg.data.rollout import Rollout
from rllib_ppg.data.running_moments import Moments
from rllib_ppg.learning.collectives import LearnerCollective
from rllib_ppg.learning.rollout_values import RolloutValues
from rllib_ppg.learning.trained_module import TrainedModule


def advantages(
    module: TrainedModule,
    shards: Sequence[Rollout],
    rewards: Sequence[np.ndarray],
    values: Sequence[RolloutValues],
    collective: LearnerCollective,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A and V_targ of each shard, `[n, T]`; A is normalised over all learners' rows.

    Args:
        module: The module in training.
        shards: This learner's rows.
        rewards: Of each shard, `[n, T]`.
        values: Of each shard.
        collective: The learners of the run.
    """
    gamma, lambda_ = module.config.gamma, module.config.lambda_
    vf_lambda = module.config.vf_lambda
    As, V_targs = [], []
    for s, r, (V, last, final, *_) in zip(shards, rewards, values, strict=True):
        V_next = successor_values(s, V, last, final)
        done = s.terminated | s.truncated
        A, V_targ = gae(r, V, V_next, done, gamma, lambda_)
        if vf_lambda is not None:
            _, V_targ = gae(r, V, V_next, done, gamma, vf_lambda)
        As.append(A)
        V_targs.append(V_targ)
    valid = of_valid_states(As, shards)
    count, total = collective.sums([valid.size, valid.sum()], module.device)
    mean = total / max(count, 1)  # all states may be masked
    (squares,) = collective.sums([np.square(valid - mean).sum()], module.device)
    moments = Moments(count, mean, squares)
    if decay := module.config.adv_ewma_decay:
        older = module.advantage_moments
        moments = Moments(older.count * decay, older.mean, older.M2 * decay) + moments
        module.advantage_moments = moments
    std = np.sqrt(moments.M2 / max(moments.count, 1)) + 1e-8
    return [((A - moments.mean) / std).astype(np.float32) for A in As], V_targs


def of_valid_states(columns: Sequence[np.ndarray], shards: Sequence[Rollout]) -> np.ndarray:
    """Numbers of the valid states of a column, `[S]` float64."""
    parts = [c[s.valid] for c, s in zip(columns, shards, strict=True)]
    return np.concatenate(parts, dtype=np.float64)
