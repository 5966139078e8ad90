"""How the real numbers that a policy draws become actions of a Box, dimension by dimension."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box

# Bounds so far away say "none": 1e10 and float32's largest number are common.
ENORMOUS = 1e9


class BoxActions:
    """The bounds of a Box, and the line from a policy's actions in [-1, 1] to them.

    The line is `offset + (action + 1) * span / 2`. A dimension with one bound keeps its scale, and
    -1 (or 1, if the bound is an upper one) becomes the bound. One without bounds stays as it is.

    Attributes:
        low: The lower bounds.
        high: The upper bounds.
        is_scaled: Whether any dimension has a bound.
        offset: Where each dimension's line begins.
        span: How long it is.
    """

    def __init__(self, space: Box):
        self.low, self.high, self._dtype = space.low, space.high, space.dtype
        precise = np.promote_types(space.dtype, np.float32)
        low, high = space.low.astype(precise), space.high.astype(precise)
        has_low, has_high = low > -ENORMOUS, high < ENORMOUS
        self.is_scaled = bool(np.any(has_low | has_high))
        self.span = np.full_like(low, 2)
        np.subtract(high, low, out=self.span, where=has_low & has_high)
        self.offset = np.where(has_low, low, np.where(has_high, high - self.span, -1))

    def for_env(self, actions: np.ndarray, *, normalized: bool, clip: bool) -> np.ndarray:
        """Actions `[..., n]` as the env takes them (see `spaces.Actions.for_env`)."""
        if normalized and self.is_scaled:
            actions = self.offset + (actions + 1.0) * self.span / 2.0
        if normalized or clip:
            actions = np.clip(actions, self.low, self.high)
        return actions.astype(self._dtype, copy=False)
