"""Learning curves: of one training run, and of one setting's seeds together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

FINAL_SHARE = 0.05

# A setting's value on an axis.
Value = float | str


@dataclass(frozen=True)
class Points:
    """Learning curve of one training run.

    Attributes:
        env_steps: Env steps, [n], increasing; n may be 0.
        returns: Returns after these steps, [n].
    """

    env_steps: np.ndarray
    returns: np.ndarray

    def at(self, env_steps: np.ndarray) -> np.ndarray:
        """Returns the returns at other steps, by linear interpolation."""
        return np.interp(env_steps, self.env_steps, self.returns)

    def until(self, end: float) -> Points:
        """Returns the curve up to a number of steps; the whole curve if it is shorter."""
        steps = self.env_steps[self.env_steps <= end]
        if 0 < len(steps) < len(self.env_steps) and steps[-1] < end:
            steps = np.append(steps, end)
        return Points(steps, self.at(steps) if len(steps) else steps)

    def is_short_of(self, end: float) -> bool:
        """Returns whether the run ended before the steps over which a run to `end` is measured."""
        return bool(self.env_steps[-1] < (1 - FINAL_SHARE) * end)

    def final(self) -> float:
        """Returns the mean over the last 5 % of steps, as in OpenAI's tables."""
        last = self.env_steps >= (1 - FINAL_SHARE) * self.env_steps[-1]
        return float(self.returns[last].mean())


@dataclass(frozen=True)
class Curve:
    """All seeds of one setting in one environment.

    Attributes:
        label: Name of the curve, unique in its panel.
        seeds: Learning curves of the seeds, none of them empty.
        algo: Algorithm's name.
        x: Value of the setting that returns are plotted against; None if it has no such setting.
        reference: Name of OpenAI's experiment; "" for your own runs.
    """

    label: str
    seeds: tuple[Points, ...]
    algo: str = ""
    x: Value | None = None
    reference: str = ""

    def has_mean(self) -> bool:
        """Returns whether its seeds have enough steps in common for a mean that is a line."""
        longest = max(len(seed.env_steps) for seed in self.seeds)
        return len(common_steps(self.seeds)) >= min(2, longest)

    def mean(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Averages over the seeds, at the steps where all of them have returns.

        Returns:
            Steps, mean and standard deviation, each [n]. The last is NaN for a single seed.
        """
        steps = common_steps(self.seeds)
        returns = np.array([seed.at(steps) for seed in self.seeds])
        return steps, returns.mean(axis=0), std(returns)

    def finals(self) -> np.ndarray:
        """Returns each seed's final return, [seeds]."""
        return np.array([seed.final() for seed in self.seeds])

    def finals_at(self, step: float) -> np.ndarray:
        """Returns the final returns of seeds cut off at a step, [seeds that have begun by then]."""
        return self.until(step).finals()

    def num_short_of(self, end: float) -> int:
        """Returns how many seeds ended early, compared with a run to `end`."""
        return sum(seed.is_short_of(end) for seed in self.seeds)

    def last_step(self) -> float:
        """Returns the last step of the longest seed."""
        return max(seed.env_steps[-1] for seed in self.seeds)

    def until(self, end: float) -> Curve:
        """Returns the curve up to a number of steps, without seeds that start later."""
        cut = (seed.until(end) for seed in self.seeds)
        return replace(self, seeds=tuple(seed for seed in cut if len(seed.env_steps)))


def common_steps(curves: Sequence[Points]) -> np.ndarray:
    """Returns all curves' steps within the range that every curve covers."""
    steps = np.unique(np.concatenate([curve.env_steps for curve in curves]))
    start = max(curve.env_steps[0] for curve in curves)
    end = min(curve.env_steps[-1] for curve in curves)
    return steps[(start <= steps) & (steps <= end)]


def std(returns: np.ndarray) -> np.ndarray:
    """Returns the sample standard deviation over seeds, [seeds, ...] -> [...]; NaN for one seed."""
    if len(returns) < 2:
        return np.full(returns.shape[1:], np.nan)
    return np.asarray(returns.std(axis=0, ddof=1))
