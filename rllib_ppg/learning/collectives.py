"""The learners of one run, and the one collective that they have in common."""

from __future__ import annotations

from datetime import timedelta

import torch.distributed as dist
from torch import Tensor


class CollectiveError(RuntimeError):
    """A collective failed: another learner is gone, or did not come within the time-out."""


class LearnerCollective:
    """A process group of its own for a run's learners, with a time-out set on purpose.

    Ray sets up the default group with 1,800 s, which is how long a learner would wait for one
    that never comes.

    Args:
        distributed: whether there are other learners.
        timeout_s: seconds that a learner waits for the others in one collective.
    """

    def __init__(self, distributed: bool, timeout_s: float):
        self.distributed = distributed
        self._timeout_s = timeout_s
        self._group = dist.new_group(timeout=timedelta(seconds=timeout_s)) if distributed else None

    def sum(self, x: Tensor) -> None:
        """Sums `x` over all learners, in place.

        Raises:
            CollectiveError: Another learner is gone, or did not come in time.
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

    def copy_from_first(self, x: Tensor) -> None:
        """Overwrites `x` by the first learner's."""
        if self.distributed:
            dist.broadcast(x, src=0, group=self._group)
