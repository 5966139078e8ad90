"""What the driver tells each learner about a phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray.rllib.utils.typing import ModuleID

from rllib_ppg.data.minibatches import shard_row_ids
from rllib_ppg.data.replay import BlockInfo, ReplayList


@dataclass
class PolicyPhase:
    """One iteration of one module's policy phase, for one learner.

    Attributes:
        module_id: Module to train.
        seed: Seed for the minibatch order, the same for all learners.
        row_ids: Ids of each shard's rows among all rows of the iteration, one array per shard.
        num_rows: Number of rows over all learners.
        env_steps_before: Env steps of the run before this iteration, at which schedules are read.
        env_steps: Env steps of the run so far, those of this iteration included.
        reward_scale: Number that rewards are divided by; None leaves them as they are.
        rows_per_block: Rows in each replay block that the learner returns; 0 returns none.
    """

    module_id: ModuleID
    seed: int
    row_ids: Sequence[np.ndarray]
    num_rows: int
    env_steps_before: int
    env_steps: int
    reward_scale: float | None
    rows_per_block: int

    @classmethod
    def for_learners(cls, rows: Sequence[Sequence[int]], **common: Any) -> list[PolicyPhase]:
        """One spec for each learner.

        Args:
            rows: For each rollout, the number of its rows that each learner gets.
            **common: Attributes that are the same for all learners.
        """
        num_rows = sum(map(sum, rows))
        return [cls(row_ids=ids, num_rows=num_rows, **common) for ids in shard_row_ids(rows)]

    @property
    def num_blocks(self) -> int:
        """Number of replay blocks that the learner returns."""
        n = self.rows_per_block
        return sum(-(-len(ids) // n) for ids in self.row_ids) if n else 0


@dataclass
class AuxPhase:
    """One module's auxiliary phase, for one learner.

    Attributes:
        module_id: Module to train.
        seed: Seed for the minibatch order, the same for all learners.
        blocks: (reference, iteration, info) of each block that this learner trains on.
        rows_per_iteration: Number of rows of each stored iteration, over all learners.
    """

    module_id: ModuleID
    seed: int
    blocks: list[tuple[Any, int, BlockInfo]]
    rows_per_iteration: list[int]

    @classmethod
    def for_learners(
        cls, num_learners: int, replay: ReplayList, module_id: ModuleID, seed: int
    ) -> list[AuxPhase]:
        """One spec for each learner, over everything in the replay list."""
        rows = replay.rows_per_iteration()
        return [cls(module_id, seed, replay.of_learner(k), rows) for k in range(num_learners)]
