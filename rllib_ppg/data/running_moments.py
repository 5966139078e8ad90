"""Running moments of numbers that many processes see parts of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Moments:
    """Count, mean and summed squared deviation of samples: what env runners send, not the samples.

    Attributes:
        count: number of samples.
        mean: their mean, a number or `[...]`.
        M2: their summed squared deviation from it, alike.
    """

    count: float
    mean: np.ndarray | float
    M2: np.ndarray | float

    @classmethod
    def of(cls, x: np.ndarray) -> Moments:
        """The moments of the samples `[S, ...]`, in float64."""
        if len(x) == 0:
            return cls(0.0, np.zeros(x.shape[1:]), np.zeros(x.shape[1:]))
        x = x.astype(np.float64)
        mean = x.mean(0)
        return cls(float(len(x)), mean, np.square(x - mean).sum(0))

    def __add__(self, other: Moments) -> Moments:
        """The moments of both sets together (Chan et al. 1979)."""
        count = self.count + other.count
        if count == 0:
            return self
        delta = other.mean - self.mean
        return Moments(
            count,
            self.mean + delta * other.count / count,
            self.M2 + other.M2 + delta**2 * self.count * other.count / count,
        )

    @property
    def std(self) -> np.ndarray | float:
        """Standard deviation, a little above 0 for constants; of at least one sample."""
        return np.sqrt(self.M2 / self.count + 1e-8)
