"""What the driver tells the learners of a phase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rllib_ppg.data.replay import BlockInfo


@dataclass
class PolicyPhase:
    """What the driver tells a learner of one iteration.

    Attributes:
        seed: of the minibatches, the same for all learners.
        rows: the numbers of each shard's rows among all rows, one array a shard.
        num_rows: number of rows over all learners.
        env_steps: env steps sampled in the run so far, which schedules go by.
        reward_scale: what rewards are divided by (None: they are taken as they are).
        rows_per_block: of the replay blocks to return; 0: none are kept.
    """

    seed: int
    rows: list[np.ndarray]
    num_rows: int
    env_steps: int
    reward_scale: float | None
    rows_per_block: int


@dataclass
class AuxPhase:
    """What the driver tells a learner of one auxiliary phase.

    Attributes:
        seed: of the minibatches, the same for all learners.
        blocks: (reference, iteration, info) of each block to train on.
        rows_per_iteration: number of rows of each stored iteration, over all learners.
    """

    seed: int
    blocks: list[tuple[Any, int, BlockInfo]]
    rows_per_iteration: list[int]
