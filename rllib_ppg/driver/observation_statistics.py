"""Running statistics of the observations of all env runners, for the observation filter."""

from __future__ import annotations

from collections.abc import Iterable

from rllib_ppg.data.running_moments import Moments


class ObservationStatistics:
    """Moments of all observations so far.

    They are updated after an iteration has been trained on, for the next one: the policy that
    learns must be the one that has acted.
    """

    def __init__(self) -> None:
        self.moments = Moments(0.0, 0.0, 0.0)

    @property
    def is_empty(self) -> bool:
        """Whether there are no observations yet."""
        return not self.moments.count

    def update(self, new: Iterable[Moments | None]) -> None:
        """Takes in the moments of each env runner's observations; None counts as no observation."""
        for moments in new:
            if moments is not None:
                self.moments = self.moments + moments
