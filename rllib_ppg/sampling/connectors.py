"""Connectors with which RLlib's own env runners treat observations and actions as PPG's does."""

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
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils.annotations import override

from rllib_ppg.envs.spaces import Actions, flat_space, flatten_observation, is_flat
from rllib_ppg.inference.policy import Policy


def observe_as_in_training(pipeline: EnvToModulePipeline, multi_agent: bool) -> None:
    """Flattens observations before the user's connectors see them."""
    pipeline.prepend(FlattenAsInTraining(multi_agent))


def act_as_in_training(
    pipeline: ModuleToEnvPipeline, normalized: bool, clip: bool, multi_agent: bool
) -> None:
    """Draws actions before the user's connectors and converts them for the env after those."""
    pipeline.prepend(DrawActions())
    pipeline.insert_before(NormalizeAndClipActions, ActionsForEnv(normalized, clip, multi_agent))
    pipeline.remove(NormalizeAndClipActions)


class FlattenAsInTraining(SingleAgentObservationPreprocessor):
    """Flattens observations as PPG's vector envs do (see `spaces.is_flat`).

    Args:
        multi_agent: Whether the space is a dict of the agents' spaces.
    """

    def __init__(self, multi_agent: bool):
        self._multi_agent = multi_agent
        super().__init__()

    @override(ConnectorV2)
    def recompute_output_observation_space(
        self, input_observation_space: gym.Space, input_action_space: gym.Space
    ) -> gym.Space:
        space = input_observation_space
        if self._multi_agent:
            flat = {agent: of if is_flat(of) else flat_space(of) for agent, of in space.items()}
            return gym.spaces.Dict(flat)
        return space if is_flat(space) else flat_space(space)

    @override(SingleAgentObservationPreprocessor)
    def preprocess(self, observation: Any, episode: Any) -> np.ndarray:
        space = self.input_observation_space
        if self._multi_agent:
            space = space[episode.agent_id]
        return observation if is_flat(space) else flatten_observation(space, observation)


class DrawActions(ConnectorV2):
    """Draws actions as in training.

    RLlib's own connector has no single log-probability per state for the most probable Tuple and
    Dict actions.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # RLlib seeds numpy's global generator with the config's seed and the env runner's index.
        self.rng = np.random.default_rng(np.random.randint(2**31))

    @override(ConnectorV2)
    def __call__(
        self, *, rl_module: RLModule, batch: dict[str, Any], explore: bool | None, **kwargs: Any
    ) -> dict[str, Any]:
        if isinstance(rl_module, MultiRLModule):
            for module_id, out in batch.items():
                self._draw(rl_module[module_id], out, bool(explore))
        else:
            self._draw(rl_module, batch, bool(explore))
        return batch

    def _draw(self, module: RLModule, out: dict[str, Any], explore: bool) -> None:
        if Columns.ACTIONS in out:  # a user's module may choose actions itself
            return
        policy, inputs = Policy(module, self.rng), out[Columns.ACTION_DIST_INPUTS]
        if not module.is_stateful():
            actions, logp = policy.draw(inputs, explore)
        else:  # RLlib takes the time axis of recurrent modules away later
            actions, logp = policy.draw(inputs[:, 0], explore)
            actions = tree.map_structure(lambda x: x[:, None], actions)
            logp = logp[:, None]
        out[Columns.ACTIONS], out[Columns.ACTION_LOGP] = actions, logp


class ActionsForEnv(ConnectorV2):
    """Converts actions for the env as in training. RLlib ignores the `start` of discrete spaces."""

    def __init__(self, normalized: bool, clip: bool, multi_agent: bool):
        super().__init__()
        self._multi_agent = multi_agent
        self._actions: dict[Any, Actions] = {}
        self._how = {"normalized": normalized, "clip": clip}

    @override(ConnectorV2)
    def __call__(self, *, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        def for_env(action: Any, *key: Any) -> Any:  # key: episode, and agent if there are several
            agent = key[1] if self._multi_agent else None
            if agent not in self._actions:
                space = self.input_action_space
                self._actions[agent] = Actions(space if agent is None else space[agent])
            return self._actions[agent].for_env(action, **self._how)

        batch[Columns.ACTIONS_FOR_ENV] = copy.deepcopy(batch[Columns.ACTIONS])
        self.foreach_batch_item_change_in_place(
            batch,
            column=Columns.ACTIONS_FOR_ENV,
            func=for_env,
        )
        return batch
