"""Evaluation by RLlib's own env runner, which samples whole episodes, on PPG's networks."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.env_to_module.observation_preprocessor import (
    SingleAgentObservationPreprocessor,
)
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.utils.annotations import override

from rllib_ppg.spaces import Actions, flat_space, flatten_observation, is_flat
from rllib_ppg.vector_env import is_vector_env_class


def on_rllibs_env_runner(config: AlgorithmConfig) -> None:
    """Changes an evaluation config such that RLlib's env runner sees what PPG's has seen."""
    config.env_runner_cls = SingleAgentEnvRunner
    # RLlib does not fall back to "sync" where an env has no vector env of its own.
    if not is_vector_env_class(config.env):
        config.gym_env_vectorize_mode = "sync"
    if config._env_to_module_connector is None:
        config._env_to_module_connector = lambda *_: [FlattenAsInTraining()]
    if config._module_to_env_connector is None:
        normalized, clip = config.normalize_actions, config.clip_actions
        config._module_to_env_connector = lambda *_: [ActAsInTraining(normalized, clip)]
        # Or RLlib would do that once more, from the policy's actions.
        config.normalize_actions = config.clip_actions = False


class FlattenAsInTraining(SingleAgentObservationPreprocessor):
    """Flattens the observations that PPG's vector envs flatten (see `spaces.is_flat`)."""

    @override(ConnectorV2)
    def recompute_output_observation_space(
        self, input_observation_space: gym.Space, input_action_space: gym.Space
    ) -> gym.Space:
        space = input_observation_space
        return space if is_flat(space) else flat_space(space)

    @override(SingleAgentObservationPreprocessor)
    def preprocess(self, observation: Any, episode: Any) -> np.ndarray:
        """One observation, `[d]` or as it is."""
        if is_flat(self.input_observation_space):
            return observation
        return flatten_observation(self.input_observation_space, observation)


class ActAsInTraining(ConnectorV2):
    """Gives the env its actions as in training; RLlib would leave out a discrete space's start."""

    def __init__(self, normalized: bool, clip: bool):
        super().__init__()
        self._how = {"normalized": normalized, "clip": clip}

    @override(ConnectorV2)
    def __call__(self, *, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        for_env = Actions(self.input_action_space).for_env
        batch[Columns.ACTIONS_FOR_ENV] = copy.deepcopy(batch[Columns.ACTIONS])
        self.foreach_batch_item_change_in_place(
            batch,
            column=Columns.ACTIONS_FOR_ENV,
            func=lambda actions, *_: for_env(actions, **self._how),
        )
        return batch
