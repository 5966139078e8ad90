"""RLlib's own env runners, with what PPG's driver asks of one.

They build an episode object for each env and agent, which multi-agent envs, custom connectors and
callbacks of episodes need, and which take longer than `BatchedEnvRunner`'s arrays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.annotations import override
from ray.rllib.utils.spaces.space_utils import get_original_space
from ray.rllib.utils.typing import ModuleID

from rllib_ppg import ray_private
from rllib_ppg.data.episodes import EPISODE_METRICS, Episode
from rllib_ppg.data.reward_norm import discounted_returns
from rllib_ppg.data.rollout import ModuleSummary, Rollout, RolloutSummary
from rllib_ppg.data.running_moments import Moments
from rllib_ppg.envs.packed_observations import packing_of
from rllib_ppg.envs.spaces import Actions, flatten_observation, is_flat
from rllib_ppg.networks.recurrent_state import STATE_IN, state_layouts
from rllib_ppg.sampling.any_env import MakesAnyEnv
from rllib_ppg.sampling.connectors import DrawActions
from rllib_ppg.sampling.env_contract import EnvStepError
from rllib_ppg.sampling.episode_records import LAST_OBS, MODULE_ACTIONS, MODULE_OBS, MODULE_STATE
from rllib_ppg.sampling.episodes_to_rollouts import EpisodePart, to_rollout


class RolloutsOfEpisodes(MakesAnyEnv):
    """What PPG's driver asks of an env runner, on top of one of RLlib's."""

    config: Any
    module: Any
    worker_index: int | None
    _shared_data: dict[str, Any]
    _num_rollouts = 0
    _begun = False

    def __init__(self, *args: Any, **kwargs: Any):
        self._ended: list[Episode] = []
        # By episode and agent: the discounted sum of rewards so far.
        self._running_returns: dict[tuple[Any, Any], float] = {}
        super().__init__(*args, **kwargs)

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
        if env_steps and not self._begun:  # Ray has restarted it
            self._reseed(env_steps)
        self._begun = True
        self._ended = []
        parts: dict[ModuleID, list[EpisodePart]] = defaultdict(list)
        returns: dict[ModuleID, list[np.ndarray]] = defaultdict(list)
        for episode in self._single_agent_episodes(self._sampled()):
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
        self._last_observations().clear()
        ongoing = {episode.id_ for episode in self._ongoing_episodes}  # type: ignore[attr-defined]
        self._running_returns = {
            key: x for key, x in self._running_returns.items() if key[0] in ongoing
        }
        return RolloutSummary(metrics, self._ended, summaries), *shards

    def sample(self, *, num_episodes: int | None = None, **kwargs: Any) -> Any:
        """Samples RLlib's episodes; training starts its own anew after whole ones."""
        episodes = super().sample(num_episodes=num_episodes, **kwargs)  # type: ignore[misc]
        if num_episodes is not None and not self.config.in_evaluation:
            self._reseed(self._num_rollouts + 1)
        return episodes

    def warm_up(self) -> dict[ModuleID, Moments]:
        """Moments of the observations of one rollout, by module. All envs are reset afterwards.

        Modules act, and not at random: RLlib's random actions know no action masks.
        """
        obs: dict[ModuleID, list[np.ndarray]] = defaultdict(list)
        for episode in self._single_agent_episodes(self._sampled()):
            if len(episode):
                module_id = episode.module_id or DEFAULT_MODULE_ID
                obs[module_id].append(self._part(episode, module_id).obs)
        self._needs_initial_reset = True
        ray_private.drop_episodes(self)
        return {m: self._obs_moments(m, np.concatenate(x)) for m, x in obs.items()}

    def _sampled(self) -> list[Any]:
        """Samples episodes.

        Raises:
            EnvStepError: The env raised.
        """
        try:
            episodes = self.sample()
        except RuntimeError as e:  # RLlib's, without a word, if the env raised
            if str(e) or e.__cause__ is None:
                raise
            what = " ".join(f"{type(e.__cause__).__name__}: {e.__cause__}".split())
            raise EnvStepError(f"env.step of {self._owner} failed: {what}") from e
        if self.config.is_multi_agent:
            ray_private.keep_last_observations(self)
        return list(episodes)

    @property
    def _owner(self) -> str:
        return f"env runner {self.worker_index} ({self.config.env})"

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
        states = np.empty((len(episode), 0), np.float32)
        if module.is_stateful():
            states = np.stack(episode.get_extra_model_outputs(MODULE_STATE))
        part = EpisodePart(
            obs=np.stack(episode.get_extra_model_outputs(MODULE_OBS)).astype(space.dtype),
            actions=np.stack(episode.get_extra_model_outputs(MODULE_ACTIONS)),
            logp=np.asarray(episode.get_extra_model_outputs(Columns.ACTION_LOGP), np.float32),
            rewards=np.asarray(episode.get_rewards(), np.float32),
            states=states,
            begins=episode.t_started == 0,
            terminated=episode.is_terminated,
            final_obs=None if episode.is_terminated else self._final_obs(episode, module),
        )
        final = np.zeros(0) if part.final_obs is None else part.final_obs
        for name, x in (
            ("observation", part.obs),
            ("observation", final),
            ("log-probability", part.logp),
            ("reward", part.rewards),
        ):
            if x.dtype.kind == "f" and not np.isfinite(x).all():
                agent = "" if episode.agent_id is None else f" of agent {episode.agent_id}"
                raise ValueError(
                    f"NaN or infinite {name}{agent} from {self._owner}; the weights are unchanged"
                )
        return part

    def _final_obs(self, episode: SingleAgentEpisode, module: Any) -> np.ndarray:
        """What the module gets, or would have got, after the last step."""
        space = module.observation_space
        t, last = self._last_observations().get(_key(episode), (None, None))
        if t == episode.t:
            obs = np.asarray(last, space.dtype)
            return obs.reshape(space.shape)  # without the time axis of modules with a state
        # No connector has seen it.
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
        valid = np.ones((1, len(rewards)), bool)
        start = np.array([self._running_returns.get(_key(episode), 0.0)], np.float32)
        [returns] = discounted_returns(rewards[None], ~valid, valid, start)
        self._running_returns[_key(episode)] = float(returns[-1])
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
            (self.worker_index or 0, self._num_rollouts),
        )

    def _obs_moments(self, module_id: ModuleID, obs: np.ndarray) -> Moments:
        packing = packing_of(self._module(module_id).observation_space)
        return Moments.of(obs if packing is None else packing.vectors(obs))

    def _module(self, module_id: ModuleID) -> Any:
        multi = isinstance(self.module, MultiRLModule)
        return self.module[module_id] if multi else self.module

    def _last_observations(self) -> dict[Any, tuple[int | None, Any]]:
        """By episode and agent: its step, and what its module got or would have got there."""
        return self._shared_data.setdefault(LAST_OBS, {})

    def _log_episode_metrics(self, length: int, ret: float, sec: float, *more: Any) -> None:
        self._ended.append(Episode(int(length), float(ret), float(sec)))
        super()._log_episode_metrics(length, ret, sec, *more)  # type: ignore[misc]

    # -- Resume --------------------------------------------------------------------------------

    def get_exact_state(self) -> tuple[int, dict[str, Any]]:
        """The number of this env runner, counted from 1; RLlib's envs can't be saved."""
        return self.worker_index or 1, {}

    def set_exact_state(self, states: Mapping[int, Any], env_steps: int) -> str:
        """Draws other random numbers; returns what the envs do, which RLlib can't save."""
        self._needs_initial_reset = True
        self._reseed(env_steps)
        self._begun = True
        return "start new episodes (RLlib's env runners can't save theirs)"

    def _reseed(self, env_steps: int) -> None:
        """Makes it not repeat the episodes of the run's start."""
        self._num_rollouts = env_steps  # so that no number comes again
        if self.config.seed is not None:
            words = [int(self.config.seed), self.worker_index or 0, env_steps]
            self._seed = int(np.random.SeedSequence(words).generate_state(1)[0] >> 1)
            for connector in ray_private.module_to_env(self):
                if isinstance(connector, DrawActions):
                    connector.rng = np.random.default_rng(words)


def _key(episode: SingleAgentEpisode) -> tuple[Any, Any]:
    return episode.multi_agent_episode_id or episode.id_, episode.agent_id


class SingleAgentEpisodesEnvRunner(RolloutsOfEpisodes, SingleAgentEnvRunner):
    """RLlib's env runner of single-agent envs."""


class MultiAgentEpisodesEnvRunner(RolloutsOfEpisodes, MultiAgentEnvRunner):
    """RLlib's env runner of multi-agent envs."""

    @override(MultiAgentEnvRunner)
    def _try_env_step(self, actions: Any) -> Any:
        results = super()._try_env_step(actions)
        if isinstance(results, str):  # the step failed
            return results
        obs, rewards, terminateds, truncateds, infos = results
        truncateds = [
            _truncated_as_one(episode, terminated, truncated)
            for episode, terminated, truncated in zip(
                self._ongoing_episodes, terminateds, truncateds, strict=True
            )
        ]
        return obs, rewards, terminateds, truncateds, infos


def _truncated_as_one(
    episode: Any, terminated: Mapping[Any, bool], truncated: Mapping[Any, bool]
) -> Mapping[Any, bool]:
    """An env's `truncateds` without the agents that its time limit cuts off with all others.

    RLlib takes an episode for terminated if all of its agents are done, also if they were truncated
    one by one. PettingZoo's envs end so at a time limit.
    """
    if not truncated.get("__all__") or terminated.get("__all__") or not episode.is_reset:
        return truncated
    ended = {agent for agent, part in episode.agent_episodes.items() if part.is_done}
    ended |= {agent for agent, is_true in terminated.items() if is_true}
    return {agent: is_true for agent, is_true in truncated.items() if agent in {*ended, "__all__"}}
