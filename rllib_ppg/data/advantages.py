"""Advantages and value targets of a rollout, in numpy.

Shapes: N rows of T steps.
"""

from __future__ import annotations

import numpy as np

from rllib_ppg.data.rollout import Rollout


def successor_values(
    rollout: Rollout, values: np.ndarray, last_values: np.ndarray, final_values: np.ndarray
) -> np.ndarray:
    """V of the state that each step led to, `[N, T]`.

    Args:
        rollout: The steps.
        values: V(obs), `[N, T]`.
        last_values: V(last_obs), `[N]`.
        final_values: V(final_obs), `[K]`.

    Returns:
        V of the next observation. Where the episode was truncated, V of the observation that it
        ended on; where it terminated, 0.
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
        done: Whether the episode ended with this step, terminated or truncated, `[N, T]` bool.
        gamma: Discount.
        lambda_: Exponential weight of GAE.

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
