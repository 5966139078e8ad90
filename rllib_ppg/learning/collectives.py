"""The learners' process group, and the two collectives that they use."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


class CollectiveError(RuntimeError):
    """A collective failed: another learner is gone, or did not answer within the time-out."""


class LearnerCollective:
    """The learners of a run, in a process group with a time-out of our choice.

    Ray gives the default group 1,800 s: a learner would wait that long for one that never answers.

    Args:
        distributed: Whether there are other learners.
        timeout_s: Seconds that a learner waits for the others in one collective.
    """

    def __init__(self, distributed: bool, timeout_s: float):
        self.distributed = distributed
        self._timeout_s = timeout_s
        self._group = dist.new_group(timeout=timedelta(seconds=timeout_s)) if distributed else None

    def sum(self, x: Tensor) -> None:
        """Sums `x` over all learners, in place.

        Raises:
            CollectiveError: Another learner is gone, or did not answer in time.
        """
        if not self.distributed:
            return
        try:
            dist.all_reduce(x, group=self._group)
        except RuntimeError as e:
            raise CollectiveError(
                f"learner {dist.get_rank()} of {dist.get_world_size()} lost the others, or waited "
                f"longer than collective_timeout_s={self._timeout_s:g} for them: {e}"
            ) from e

    def sums(self, values: Sequence[float] | Tensor, device: torch.device) -> list[float]:
        """The values summed over all learners, in float64.

        Args:
            values: This learner's values.
            device: Device of the collective.
        """
        total = torch.as_tensor(values, dtype=torch.float64, device=device)
        self.sum(total)
        return total.tolist()

    def copy_from_first(self, x: Tensor) -> None:
        """Overwrites `x` with the first learner's."""
        if self.distributed:
            dist.broadcast(x, src=0, group=self._group)
