"""What an env runner hands over: T steps of N envs, and the advantages computed from them.

Arrays are `[N, T, ...]`: one contiguous row an env. Minibatches are made of rows, and the states
of a learner are a range of rows, so that both are cut out without a copy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np


@dataclass
class Rollout:
    """T consecutive steps of N envs.

    Attributes:
        obs: `[N, T, ...]`, in the env's dtype: the observation that was acted on.
        actions: `[N, T, ...]`, as the policy drew them (neither clipped nor unsquashed).
        logp: `[N, T]` float32, their log-probability under the policy that drew them.
        rewards: `[N, T]` float32, raw.
        terminated: `[N, T]` bool, the step ended the episode; nothing is bootstrapped.
        truncated: `[N, T]` bool, the step was the episode's last by a limit from outside.
        valid: `[N, T]` bool, False where a NEXT_STEP env spent the step on its reset: no
            transition, so no loss, no advantage and no env step.
        last_obs: `[N, ...]`, the observation after the last step.
        final_obs: `[K, ...]`, the observations that truncated episodes ended on, if the env's
            next observation is already the next episode's (SAME_STEP).
        final_index: `[K, 2]` int, the (row, step) each of them belongs to.
    """

    obs: np.ndarray
    actions: np.ndarray
    logp: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray
    last_obs: np.ndarray
    final_obs: np.ndarray
    final_index: np.ndarray

    def __len__(self) -> int:
        """Number of rows, N."""
        return len(self.obs)

    def env_steps(self) -> int:
        """Number of transitions (RLlib's name for it)."""
        return int(self.valid.sum())

    def agent_steps(self) -> int:
        """Number of transitions: there is one agent (RLlib's name for it)."""
        return self.env_steps()

    def split(self, cuts: Sequence[int]) -> list[Rollout]:
        """The rows from each of the `cuts` to the next; views only."""
        return [self._rows(*range_) for range_ in pairwise(cuts)]

    def _rows(self, start: int, stop: int) -> Rollout:
        row = self.final_index[:, 0]
        mine = (start <= row) & (row < stop)
        columns: dict[str, Any] = {
            f.name: getattr(self, f.name)[start:stop]
            for f in dataclasses.fields(self)
            if not f.name.startswith("final_")
        }
        return Rollout(
            **columns,
            final_obs=self.final_obs[mine],
            final_index=self.final_index[mine] - np.array([start, 0]),
        )


def successor_values(
    rollout: Rollout, values: np.ndarray, last_values: np.ndarray, final_values: np.ndarray
) -> np.ndarray:
    """V of the state that each step really led to, `[N, T]`.

    Args:
        rollout: the steps.
        values: V(obs), `[N, T]`.
        last_values: V(last_obs), `[N]`.
        final_values: V(final_obs), `[K]`.

    Returns:
        V of the next observation; of the episode's own last observation where it was truncated;
        0 where it terminated.
    """
    nxt = np.concatenate([values[:, 1:], last_values[:, None]], axis=1)
    nxt[rollout.final_index[:, 0], rollout.final_index[:, 1]] = final_values
    nxt[rollout.terminated] = 0.0
    return nxt


def gae(
    rewards: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    done: np.ndarray,
    gamma: float,
    lambda_: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Generalized Advantage Estimation (Schulman et al. 2016, eq. 16).

    Args:
        rewards: `[N, T]`.
        values: V(s_t), `[N, T]`.
        next_values: V(s_{t+1}), 0 after termination (`successor_values`), `[N, T]`.
        done: `[N, T]` bool, the episode ended with this step, terminated or truncated.
        gamma: discount.
        lambda_: GAE's exponential weight.

    Returns:
        Advantages and value targets (advantage + value), each `[N, T]` float32.
    """
    delta = rewards + gamma * next_values - values
    keep = gamma * lambda_ * ~done
    advantages = np.empty_like(delta)
    running = np.zeros(len(delta), delta.dtype)
    for t in reversed(range(delta.shape[1])):
        running = delta[:, t] + keep[:, t] * running
        advantages[:, t] = running
    return advantages.astype(np.float32), (advantages + values).astype(np.float32)
