"""Turns parts of RLlib's episodes into rollouts: rows of T steps, as learners train on them.

The parts follow each other in the rows, and the last row is padded. A part that ends before its
episode does is bootstrapped like a truncated one. Rows of a policy with a memory hold one part
each, or a piece of it, since a memory can't begin in the middle of a row.

Shapes: M steps of a part; R rows of T steps, in K segments of L; D numbers of a recurrent state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from rllib_ppg.data.minibatches import segments_per_row
from rllib_ppg.data.rollout import Rollout


class EpisodePart(NamedTuple):
    """Consecutive steps of an agent's episode.

    Attributes:
        obs: What the module got to act on, `[M, ...]`.
        actions: Its actions, packed (`spaces.Actions`), `[M, ...]`.
        logp: Their log-probabilities, `[M]`.
        rewards: Rewards, `[M]`.
        states: The module's states before each step, `[M, D]`.
        begins: Whether the first step is the first of the episode.
        terminated: Whether the last step ended the episode for good.
        final_obs: What the module would get after the last step; None if it ended for good.
    """

    obs: np.ndarray
    actions: np.ndarray
    logp: np.ndarray
    rewards: np.ndarray
    states: np.ndarray
    begins: bool
    terminated: bool
    final_obs: np.ndarray | None


def to_rollout(
    parts: Sequence[EpisodePart],
    T: int,
    L: int,
    observation_space: gym.Space,
    actions: Any,
    num_state: int,
    stream: tuple[int, int],
) -> Rollout:
    """The rollout of a module.

    Args:
        parts: The parts of episodes of its agents; perhaps none.
        T: Steps of a row.
        L: Steps of a segment.
        observation_space: Space of the module's observations.
        actions: The module's `spaces.Actions`.
        num_state: D; 0 of a module without a memory.
        stream: (env runner, number of its rollout).
    """
    starts, end = [], 0
    for part in parts:
        if num_state:
            end = -(-end // T) * T
        starts.append(end)
        end += len(part.rewards)
    R = -(-end // T)
    shape, dtype = observation_space.shape, observation_space.dtype
    flat = {
        "obs": np.zeros((R * T, *shape), dtype),
        "actions": np.zeros((R * T, *actions.shape), actions.dtype),
        "logp": np.zeros(R * T, np.float32),
        "rewards": np.zeros(R * T, np.float32),
        "terminated": np.zeros(R * T, bool),
        "truncated": np.zeros(R * T, bool),
        "valid": np.zeros(R * T, bool),
    }
    states = np.zeros((R * T, num_state), np.float32)
    begins, goes_on = np.zeros(R * T, bool), np.zeros(R * T, bool)
    final: list[tuple[int, np.ndarray]] = []
    for start, part in zip(starts, parts, strict=True):
        stop = start + len(part.rewards)
        for name in ("obs", "actions", "logp", "rewards"):
            flat[name][start:stop] = getattr(part, name)
        states[start:stop] = part.states
        flat["valid"][start:stop] = True
        goes_on[start : stop - 1] = True
        begins[start] = part.begins
        flat["terminated"][stop - 1] = part.terminated
        if not part.terminated:
            assert part.final_obs is not None
            flat["truncated"][stop - 1] = True
            final.append((stop - 1, part.final_obs))
    rows = {name: x.reshape(R, T, *x.shape[1:]) for name, x in flat.items()}
    after = np.concatenate([flat["obs"][1:], np.zeros((1, *shape), dtype)])
    row_ends = np.arange(T - 1, R * T, T)
    last_obs = after[row_ends]
    last_obs[~goes_on[row_ends]] = 0  # nobody looks at it
    K = segments_per_row(T, L)
    at = np.arange(R)[:, None] * T + np.arange(K) * L
    runner, number = stream
    return Rollout(
        **rows,
        state_in=states[at],
        begins=begins[::T].copy(),
        # No row follows another: where a rollout ends, its last rows do.
        stream=np.stack([np.full(R, runner), np.arange(R), np.full(R, 2 * number)], axis=1),
        last_obs=last_obs,
        final_obs=np.array([obs for _, obs in final], dtype).reshape(-1, *shape),
        final_index=np.array([divmod(i, T) for i, _ in final], np.int64).reshape(-1, 2),
    )
