"""Transitions that did not happen, for losses that tell them from those that did.

They depend on the phase, the epoch, the row and the step alone: neither micro-batches nor learners
change them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def draw_false_transitions(
    actions: np.ndarray, num_actions: int, row_ids: np.ndarray, seed: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Another action and another next state for each step, both from the step's own row.

    Args:
        actions: Actions of n rows of T steps, `[n, T]` int.
        num_actions: Number of actions.
        row_ids: Number of each row among all rows of the phase, `[n]`.
        seed: Seed of the phase, and the epoch.

    Returns:
        Actions `[n, T]`, as frequent as in the row but for the step's own action, which they never
        are; and the steps `[n, T]` of the row whose states take the place of the next state, which
        is never the next one itself.
    """
    n, T = actions.shape
    false_actions, steps = np.empty_like(actions), np.empty((n, T), np.int64)
    t = np.arange(T)
    for i, row_id in enumerate(row_ids):
        rng = np.random.default_rng([*seed, int(row_id), 2])
        counts = np.bincount(actions[i], minlength=num_actions)
        others = np.repeat(counts[None], T, axis=0)
        others[t, actions[i]] = 0
        if counts.max() == T:  # there is no other action: all others are as likely
            others[:] = 1
            others[t, actions[i]] = 0
        cdf = others.cumsum(1)
        u = rng.random(T) * cdf[:, -1]
        false_actions[i] = (cdf > u[:, None]).argmax(1)
        steps[i] = (t + 1 + rng.integers(1, max(T, 2), T)) % T
    return false_actions, steps
