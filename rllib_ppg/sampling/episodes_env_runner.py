"""RLlib's own env runners, with what PPG's driver asks of one.

They build an episode object for each env and agent, which multi-agent envs, custom connectors and
callbacks of episodes need, and which take longer than `BatchedEnvRunner`'s arrays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tree
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.annotations import override
from ray.rllib.utils.numpy import convert_to_numpy
from ray.rllib.utils.spaces.space_utils import get_original_space
from ray.rllib.utils.typing import ModuleID

from rllib_ppg.checkpoint import rng_state
from rllib_ppg.data.episodes import EPISODE_METRICS, Episode
from rllib_ppg.data.reward_norm import discounted_returns
from rllib_ppg.data.rollout import ModuleSummary, Rollout, RolloutSummary
from rllib_ppg.data.running_moments import Moments
from rllib_ppg.envs.packed_observations import packing_of
from rllib_ppg.envs.spaces import Actions, flatten_observation, is_flat
from rllib_ppg.networks.recurrent_state import STATE_IN, state_layouts
from rllib_ppg.sampling.episodes_to_rollouts import EpisodePart, to_rollout

# Columns of RLlib's episodes beside its own: what the module got to act on.
MODULE_OBS, MODULE_STATE = "module_obs", "module_state"
_INPUTS, _LAST = "ppg_module_inputs", "ppg_last_observations"  # in RLlib's `shared_data`


class KeepModuleInputs(ConnectorV2):
    """The last env-to-module connector: keeps what the modules get."""

    @override(ConnectorV2)
    def __call__(
        self,
        *,
        batch: dict[str, Any],
        episodes: Sequence[Any],
        shared_data: dict[str, Any],
        **kwargs: Any,
    ) -> dict[str, Any]:
        keys = shared_data.get("memorized_map_structure", [])
        multi = isinstance(keys, dict)
        by_module = batch if multi else {DEFAULT_MODULE_ID: batch}
        shared_data[_INPUTS] = by_module
        of_episodes = {episode.id_: episode for episode in episodes}
        last = shared_data.setdefault(_LAST, {})
        for module_id, columns in by_module.items():
            if Columns.OBS in columns:
                of_module = keys[module_id] if multi else [(key, None) for key in keys]
                for i, (episode_id, agent_id) in enumerate(of_module):
                    episode = of_episodes[episode_id]
                    t = episode.agent_episodes[agent_id].t if multi else episode.t
                    last[episode_id, agent_id] = (t, columns, i)
        return batch


class StoreModuleInputs(ConnectorV2):
    """The first module-to-env connector: stores in the episodes what the modules got."""

    @override(ConnectorV2)
    def __call__(
        self, *, rl_module: Any, batch: dict[str, Any], shared_data: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        inputs = shared_data[_INPUTS]
        multi = isinstance(rl_module, MultiRLModule)
        for module_id, columns in inputs.items():
            out = batch.get(module_id) if multi else batch
            module = rl_module[module_id] if multi else rl_module
            if out is None:
                continue
            out[MODULE_OBS] = columns[Columns.OBS]
            if module.is_stateful():
                states = state_layouts(module)[STATE_IN].flatten(columns[STATE_IN])
                out[MODULE_STATE] = states[:, None]  # with a time axis, as all its columns
        return batch


class RolloutsOfEpisodes:
    """What PPG's driver asks of an env runner, on top of one of RLlib's."""

    config: Any
    module: Any
    _num_rollouts = 0

    def sample_rollout(
        self, num_shards: int, env_steps: int = 0, module_ids: Sequence[ModuleID] = ()
    ) -> tuple[Any, ...]:
        """Samples a rollout for training.

        Args:
            num_shards: Number of learners that each module's rows are divided among.
            env_steps: Env steps of the run so far.
            module_ids: Ids of the modules in training.

        Returns:
            The `RolloutSummary` and, for each module in turn, `num_shards` `Rollout`s.
        """
        self._ended: list[Episode] = []
        parts: dict[ModuleID, list[EpisodePart]] = defaultdict(list)
        returns: dict[ModuleID, list[np.ndarray]] = defaultdict(list)
        for episode in self._single_agent_episodes(self.sample()):  # type: ignore[attr-defined]
            module_id = episode.module_id or DEFAULT_MODULE_ID
            if len(episode) and module_id in module_ids:
                part = self._part(episode, module_id)
                parts[module_id].append(part)
                returns[module_id].append(self._returns(episode, part.rewards))
        self._num_rollouts += 1
        metrics = self.get_metrics()  # type: ignore[attr-defined]
        for key in EPISODE_METRICS:  # which the driver logs, in a window over iterations
            metrics.pop(key, None)
        summaries, shards = {}, []
        for module_id in module_ids:
            rollout = self._rollout(module_id, parts[module_id])
            mine = rollout.split([len(rollout) * k // num_shards for k in range(num_shards + 1)])
            moments = Moments.of(np.concatenate([np.empty(0), *returns[module_id]]))
            obs = None
            if self.config.observation_filter != "NoFilter":
                obs = self._obs_moments(module_id, rollout.obs[rollout.valid])
            summaries[module_id] = ModuleSummary([len(shard) for shard in mine], moments, obs)
            shards += mine
        self._last_inputs().clear()
        return RolloutSummary(metrics, self._ended, summaries), *shards

    def warm_up(self) -> dict[ModuleID, Moments]:
        """Moments of the observations of one rollout with random actions, by module."""
        obs: dict[ModuleID, list[np.ndarray]] = defaultdict(list)
        sampled = self.sample(random_actions=True)  # type: ignore[attr-defined]
        for episode in self._single_agent_episodes(sampled):
            if len(episode):
                seen = np.asarray(episode.get_observations())[:-1]
                obs[episode.module_id or DEFAULT_MODULE_ID].append(seen)
        self._needs_initial_reset = True
        return {m: self._obs_moments(m, np.concatenate(x)) for m, x in obs.items()}

    # -- From episodes to rollouts -------------------------------------------------------------

    def _single_agent_episodes(self, episodes: Sequence[Any]) -> Iterator[SingleAgentEpisode]:
        for episode in episodes:
            if isinstance(episode, SingleAgentEpisode):
                yield episode
            else:
                yield from episode.agent_episodes.values()

    def _part(self, episode: SingleAgentEpisode, module_id: ModuleID) -> EpisodePart:
        module = self._module(module_id)
        space = module.observation_space
        actions = tree.map_structure(np.asarray, episode.get_actions())
        if isinstance(actions, list):  # of an episode that is not in arrays yet
            actions = tree.map_structure(lambda *x: np.stack(x), *actions)
        states = np.empty((len(episode), 0), np.float32)
        if module.is_stateful():
            states = np.stack(episode.get_extra_model_outputs(MODULE_STATE))
        return EpisodePart(
            obs=np.stack(episode.get_extra_model_outputs(MODULE_OBS)).astype(space.dtype),
            actions=Actions(module.action_space).pack(actions),
            logp=np.asarray(episode.get_extra_model_outputs(Columns.ACTION_LOGP), np.float32),
            rewards=np.asarray(episode.get_rewards(), np.float32),
            states=states,
            begins=episode.t_started == 0,
            terminated=episode.is_terminated,
            final_obs=None if episode.is_terminated else self._final_obs(episode, module),
        )

    def _final_obs(self, episode: SingleAgentEpisode, module: Any) -> np.ndarray:
        """What the module gets, or would have got, after the last step."""
        space = module.observation_space
        key = (episode.multi_agent_episode_id or episode.id_, episode.agent_id)
        t, columns, i = self._last_inputs().get(key, (None, {}, 0))
        if t == episode.t:
            obs = convert_to_numpy(columns[Columns.OBS][i])
            return obs[0] if module.is_stateful() else obs
        # An agent that is done: no connector has seen its last observation.
        original, obs = get_original_space(space), episode.get_observations(-1)
        if not is_flat(original) and np.shape(obs) != space.shape:
            obs = flatten_observation(original, obs)
        if np.shape(obs) != space.shape:
            raise ValueError(
                f"the last observation of agent {episode.agent_id} is {np.shape(obs)}, and its "
                f"module gets {space.shape}: a connector that changes observations has to write "
                "them back into the episode, so that truncated episodes can be bootstrapped"
            )
        return np.asarray(obs, space.dtype)

    def _returns(self, episode: SingleAgentEpisode, rewards: np.ndarray) -> np.ndarray:
        """The discounted sums of past rewards, which go on from the episode's last part."""
        running: dict[Any, float] = self.__dict__.setdefault("_running_returns", {})
        key = (episode.multi_agent_episode_id or episode.id_, episode.agent_id)
        valid = np.ones((1, len(rewards)), bool)
        start = np.array([running.pop(key, 0.0)], np.float32)
        [returns] = discounted_returns(rewards[None], ~valid, valid, start)
        if not episode.is_done:
            running[key] = float(returns[-1])
        return returns

    def _rollout(self, module_id: ModuleID, parts: list[EpisodePart]) -> Rollout:
        module, layouts = self._module(module_id), state_layouts(self._module(module_id))
        return to_rollout(
            parts,
            self.config.rollout_fragment_length,
            self.config.steps_per_segment,
            module.observation_space,
            Actions(module.action_space),
            layouts[STATE_IN].size if layouts else 0,
            (self.worker_index or 0, self._num_rollouts),  # type: ignore[attr-defined]
        )

    def _obs_moments(self, module_id: ModuleID, obs: np.ndarray) -> Moments:
        packing = packing_of(self._module(module_id).observation_space)
        return Moments.of(obs if packing is None else packing.vectors(obs))

    def _module(self, module_id: ModuleID) -> Any:
        multi = isinstance(self.module, MultiRLModule)
        return self.module[module_id] if multi else self.module

    def _last_inputs(self) -> dict[Any, tuple[int | None, Mapping[str, Any], int]]:
        """By episode and agent: its step, the columns that its module got, its place in them."""
        return self._shared_data.setdefault(_LAST, {})  # type: ignore[attr-defined]

    def _log_episode_metrics(self, length: int, ret: float, sec: float, *more: Any) -> None:
        self.__dict__.setdefault("_ended", []).append(Episode(int(length), float(ret), float(sec)))
        super()._log_episode_metrics(length, ret, sec, *more)  # type: ignore[misc]

    # -- Resume --------------------------------------------------------------------------------

    def get_exact_state(self) -> tuple[int, dict[str, Any]]:
        """The number of this env runner, counted from 1, and its random numbers."""
        state = {"random_numbers": rng_state.get_state()}
        return self.worker_index or 1, state  # type: ignore[attr-defined]

    def set_exact_state(self, states: Mapping[int, Any], env_steps: int) -> str:
        """Restores the random numbers; returns what the envs do, which RLlib can't save."""
        self._needs_initial_reset = True
        self._num_rollouts = env_steps
        return "start new episodes (RLlib's env runners can't save theirs)"


class SingleAgentEpisodesEnvRunner(RolloutsOfEpisodes, SingleAgentEnvRunner):
    """RLlib's env runner of single-agent envs."""


class MultiAgentEpisodesEnvRunner(RolloutsOfEpisodes, MultiAgentEnvRunner):
    """RLlib's env runner of multi-agent envs."""
