"""Connectors with which RLlib's own env runner evaluates PPG's policies.

It samples whole episodes. With these connectors it treats observations and actions as PPG's env
runner does in training.
"""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import tree
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.env_to_module import EnvToModulePipeline
from ray.rllib.connectors.env_to_module.observation_preprocessor import (
    SingleAgentObservationPreprocessor,
)
from ray.rllib.connectors.module_to_env import ModuleToEnvPipeline, NormalizeAndClipActions
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils.annotations import override

from rllib_ppg.envs.spaces import Actions, flat_space, flatten_observation, is_flat
from rllib_ppg.inference.policy import Policy


def observe_as_in_training(pipeline: EnvToModulePipeline) -> None:
    """Flattens observations before the user's connectors see them."""
    pipeline.prepend(FlattenAsInTraining())


def act_as_in_training(pipeline: ModuleToEnvPipeline, normalized: bool, clip: bool) -> None:
    """Draws actions before the user's connectors and converts them for the env after those."""
    pipeline.prepend(DrawActions())
    pipeline.insert_before(NormalizeAndClipActions, ActionsForEnv(normalized, clip))
    pipeline.remove(NormalizeAndClipActions)


class FlattenAsInTraining(SingleAgentObservationPreprocessor):
    """Flattens observations as PPG's vector envs do (see `spaces.is_flat`)."""

    @override(ConnectorV2)
    def recompute_output_observation_space(
        self, input_observation_space: gym.Space, input_action_space: gym.Space
    ) -> gym.Space:
        space = input_observation_space
        return space if is_flat(space) else flat_space(space)

    @override(SingleAgentObservationPreprocessor)
    def preprocess(self, observation: Any, episode: Any) -> np.ndarray:
        if is_flat(self.input_observation_space):
            return observation
        return flatten_observation(self.input_observation_space, observation)


class DrawActions(ConnectorV2):
    """Draws actions as in training.

    RLlib's own connector has no single log-probability per state for the most probable Tuple and
    Dict actions.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # RLlib seeds numpy's global generator with the config's seed and the env runner's index.
        self._rng = np.random.default_rng(np.random.randint(2**31))

    @override(ConnectorV2)
    def __call__(
        self, *, rl_module: RLModule, batch: dict[str, Any], explore: bool | None, **kwargs: Any
    ) -> dict[str, Any]:
        if Columns.ACTIONS not in batch:  # a user's module may choose actions itself
            policy, inputs = Policy(rl_module, self._rng), batch[Columns.ACTION_DIST_INPUTS]
            if not rl_module.is_stateful():
                actions, logp = policy.draw(inputs, bool(explore))
            else:  # RLlib takes the time axis of recurrent modules away later
                actions, logp = policy.draw(inputs[:, 0], bool(explore))
                actions = tree.map_structure(lambda x: x[:, None], actions)
                logp = logp[:, None]
            batch[Columns.ACTIONS], batch[Columns.ACTION_LOGP] = actions, logp
        return batch


class ActionsForEnv(ConnectorV2):
    """Converts actions for the env as in training. RLlib ignores the `start` of discrete spaces."""

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
