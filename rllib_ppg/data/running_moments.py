"""Running moments of samples that are spread over many processes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Moments:
    """Count, mean and squared deviation of samples. Env runners send these, not the samples.

    Attributes:
        count: Number of samples.
        mean: Mean of the samples, a number or `[...]`.
        M2: Summed squared deviation from the mean, of the same shape.
    """

    count: float
    mean: np.ndarray | float
    M2: np.ndarray | float

    @classmethod
    def of(cls, x: np.ndarray) -> Moments:
        """Moments of the samples `[S, ...]`, in float64."""
        if len(x) == 0:
            return cls(0.0, np.zeros(x.shape[1:]), np.zeros(x.shape[1:]))
        x = x.astype(np.float64)
        mean = x.mean(0)
        return cls(float(len(x)), mean, np.square(x - mean).sum(0))

    def __add__(self, other: Moments) -> Moments:
        """Moments of both sets of samples together (Chan et al. 1979)."""
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
        """Standard deviation of at least one sample; slightly above 0 for constants."""
        return np.sqrt(self.M2 / self.count + 1e-8)
