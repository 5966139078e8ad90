"""What the driver keeps for each module: replay list, reward scale, observation statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import gymnasium as gym
from ray.rllib.utils.typing import ModuleID

from rllib_ppg.config import PPGConfig
from rllib_ppg.data.replay import ReplayEntry, ReplayList, rows_per_block
from rllib_ppg.data.reward_norm import RewardNormalizer
from rllib_ppg.data.rollout import SampledRollout
from rllib_ppg.data.running_moments import Moments
from rllib_ppg.driver.observation_statistics import ObservationStatistics


class ModuleState:
    """The driver's side of one module.

    Args:
        module_id: Its id.
        config: Its settings.
        observation_space: Space of its observations.

    Attributes:
        replay: The replay list of the current phase.
        config: Its settings.
        reward_norm: The running reward scale.
        observations: Statistics for the observation filter; None without a filter.
        rows_per_block: Rows of a replay block; 0 if none are kept.
    """

    def __init__(self, module_id: ModuleID, config: PPGConfig, observation_space: gym.Space):
        self.id = module_id
        self.config = config
        self._normalizes_rewards = config.normalize_rewards
        self.replay = ReplayList(config.n_pi)
        self.reward_norm = RewardNormalizer()
        filters = config.observation_filter != "NoFilter"
        self.observations = ObservationStatistics() if filters else None
        self.rows_per_block = 0
        if config.has_aux_phase:
            self.rows_per_block = rows_per_block(config.row_bytes(observation_space))

    def update_reward_scale(self, rollouts: Sequence[SampledRollout]) -> float | None:
        """Takes in the rollouts' discounted returns.

        Returns:
            The number to divide rewards by; None without normalisation.
        """
        if not self._normalizes_rewards:
            return None
        self.reward_norm.update(r.summary.modules[self.id].returns for r in rollouts)
        return self.reward_norm.scale

    def store(self, blocks: Sequence[tuple[Sequence[Any], Sequence[Any]]]) -> None:
        """Appends an iteration to the replay list.

        Args:
            blocks: For each learner, the infos of its blocks and the references to them.
        """
        if self.rows_per_block:
            self.replay.append(
                [
                    ReplayEntry(ref, info, learner)
                    for learner, (infos, refs) in enumerate(blocks)
                    for ref, info in zip(refs, infos, strict=True)
                ]
            )

    def get_state(self) -> dict[str, Any]:
        """Everything but the replay list, which has files of its own in a checkpoint."""
        observations = self.observations and astuple(self.observations.moments)
        return {"reward_norm": astuple(self.reward_norm.moments), "observations": observations}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `get_state` returned."""
        self.reward_norm.moments = Moments(*state["reward_norm"])
        if self.observations is not None and state["observations"]:
            self.observations.moments = Moments(*state["observations"])
