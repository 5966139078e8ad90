"""Connectors that record in RLlib's episodes what modules got and drew, to train on it.

Other connectors may change observations on their way to the module, and actions on their way to
the env, without a trace in the episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tree
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.env_to_module import (
    AgentToModuleMapping,
    BatchIndividualItems,
    EnvToModulePipeline,
)
from ray.rllib.connectors.module_to_env import ModuleToEnvPipeline
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.utils.annotations import override
from ray.rllib.utils.numpy import convert_to_numpy
from ray.rllib.utils.typing import ModuleID

from rllib_ppg.envs.spaces import Actions
from rllib_ppg.networks.recurrent_state import STATE_IN, flatten_states
from rllib_ppg.sampling.connectors import DrawActions

# Columns of the episodes: observations and recurrent states that a module acted on, and its
# actions, packed.
MODULE_OBS, MODULE_STATE, MODULE_ACTIONS = "module_obs", "module_state", "module_actions"
# In RLlib's `shared_data`: a module's last batch; and by episode and agent, its step and what its
# module got or would have got there.
INPUTS, LAST_OBS = "ppg_module_inputs", "ppg_last_observations"


def record_inputs(pipeline: EnvToModulePipeline, multi_agent: bool) -> None:
    """Adds the connectors that see what modules get."""
    before = AgentToModuleMapping if multi_agent else BatchIndividualItems
    pipeline.insert_before(before, KeepLastObservations())
    pipeline.append(KeepInputs())


def record_actions(pipeline: ModuleToEnvPipeline) -> None:
    """Adds the connector that stores inputs and actions in the episodes."""
    pipeline.insert_after(DrawActions, StoreInputsAndActions())


class KeepLastObservations(ConnectorV2):
    """Keeps each agent's last observation as its module gets it.

    Also of agents that are done, whose value may be needed. RLlib's next connector drops them.
    """

    @override(ConnectorV2)
    def __call__(
        self,
        *,
        batch: dict[str, Any],
        episodes: Sequence[Any],
        shared_data: dict[str, Any],
        **kwargs: Any,
    ) -> dict[str, Any]:
        of_episodes = {episode.id_: episode for episode in episodes}
        last = shared_data.setdefault(LAST_OBS, {})
        for key, items in batch.get(Columns.OBS, {}).items():
            episode, agent = of_episodes[key[0]], key[1] if len(key) > 1 else None
            t = episode.t if agent is None else episode.agent_episodes[agent].t
            last[key[0], agent] = (t, items[-1])
        return batch


class KeepInputs(ConnectorV2):
    """The last env-to-module connector: keeps the modules' batches."""

    @override(ConnectorV2)
    def __call__(
        self, *, batch: dict[str, Any], shared_data: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        multi = isinstance(shared_data.get("memorized_map_structure"), dict)
        shared_data[INPUTS] = batch if multi else {DEFAULT_MODULE_ID: batch}
        return batch


class StoreInputsAndActions(ConnectorV2):
    """Adds to the modules' outputs what they acted on, and their actions before any change."""

    def __init__(self) -> None:
        super().__init__()
        self._actions: dict[ModuleID, Actions] = {}

    @override(ConnectorV2)
    def __call__(
        self, *, rl_module: Any, batch: dict[str, Any], shared_data: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        multi = isinstance(rl_module, MultiRLModule)
        for module_id, columns in shared_data[INPUTS].items():
            out = batch.get(module_id) if multi else batch
            module = rl_module[module_id] if multi else rl_module
            if out is None:
                continue
            out[MODULE_OBS] = columns[Columns.OBS]
            if module_id not in self._actions:
                self._actions[module_id] = Actions(module.action_space)
            actions, pack = convert_to_numpy(out[Columns.ACTIONS]), self._actions[module_id].pack
            if not module.is_stateful():
                out[MODULE_ACTIONS] = pack(actions)
                continue
            # With a time axis of 1, as all columns of a module with a state.
            out[MODULE_STATE] = flatten_states(columns[STATE_IN])[:, None]
            actions = tree.map_structure(lambda x: x[:, 0], actions)
            out[MODULE_ACTIONS] = pack(actions)[:, None]
        return batch
