"""The env runner: steps a whole vector env at once and writes into preallocated arrays.

RLlib's `SingleAgentEnvRunner` builds an episode object for each sub-env. Most envs take less time
for a step than that takes in Python. This env runner replaces the sampling loop and keeps the rest
of RLlib's interface: spaces, state, metrics, callbacks and fault tolerance.

Shapes: N envs, T steps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import ray
from gymnasium.vector import AutoresetMode, VectorEnv
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import SAMPLE_TIMER, WEIGHTS_SEQ_NO
from ray.rllib.utils.typing import ModuleID, ResultDict

from rllib_ppg.checkpoint import rng_state
from rllib_ppg.data.episodes import EPISODE_METRICS, Episode
from rllib_ppg.data.minibatches import interleave_row_ids, segments_per_row, shard_cuts
from rllib_ppg.data.reward_norm import discounted_returns
from rllib_ppg.data.rollout import ModuleSummary, Rollout, RolloutSummary, as_states
from rllib_ppg.data.running_moments import Moments
from rllib_ppg.envs.env_state import get_env_state, set_env_state
from rllib_ppg.envs.packed_observations import packing_of
from rllib_ppg.envs.spaces import num_pixels
from rllib_ppg.envs.vector_env import autoreset_mode, close, make_vector_env
from rllib_ppg.inference.policy import Policy
from rllib_ppg.networks.action_mask import uniform
from rllib_ppg.resources.cpu import keep_freed_memory, use_idle_cpu_threads
from rllib_ppg.sampling.env_contract import EnvContract, EnvStepError

# Attributes of `BatchedEnvRunner` that are saved for an exact resume, arrays `[N, ...]`.
_PER_ENV_STATE = (
    "_obs", "_state", "_resetting", "_first", "_returns", "_episode_return", "_episode_len",
)  # fmt: skip


class BatchedEnvRunner(SingleAgentEnvRunner):
    """Samples `Rollout`s of `rollout_fragment_length` steps from one gymnasium vector env."""

    env: VectorEnv
    # Per env, `[N, ...]`: the observation to act on; the policy's state; whether the next step is
    # spent on a reset (NEXT_STEP autoreset); whether it is the first of its episode; the discounted
    # sum of rewards.
    _obs: np.ndarray
    _state: np.ndarray
    _resetting: np.ndarray
    _first: np.ndarray
    _returns: np.ndarray
    # Per env, `[N]`: return, length and start time of the current episode.
    _episode_return: np.ndarray
    _episode_len: np.ndarray
    _episode_start: np.ndarray
    # The observations that `sample_rollout` writes.
    _buffer: np.ndarray | None = None
    # Env steps of the run when this env runner was started, and how often its envs have been reset
    # since then. Part of the seed, so that no episode is repeated.
    _restart_seed: tuple[int, int] = (0, 0)
    _begun = False
    _num_rollouts = 0
    _failed = False

    @override(SingleAgentEnvRunner)
    def make_env(self) -> None:
        if self.env is not None:
            close(self.env, failed=self._failed)
        self.env = make_vector_env(self.config, self.worker_index or 0)
        self.num_envs = self.env.num_envs
        owner = f"env runner {self.worker_index} ({self.config.env})"
        self._contract = EnvContract(self.env, owner)
        self._packing = packing_of(self.env.single_observation_space)
        self._same_step = autoreset_mode(self.env) == AutoresetMode.SAME_STEP
        self._ended: list[Episode] = []
        self._needs_initial_reset = True
        make_callback(
            "on_environment_created",
            callbacks_objects=self._callbacks,
            callbacks_functions=self.config.callbacks_on_environment_created,
            kwargs={
                "env_runner": self,
                "metrics_logger": self.metrics,
                "env": self.env.unwrapped,
                "env_context": EnvContext(
                    self.config.env_config, self.worker_index or 0, num_workers=self.num_workers
                ),
            },
        )

    @override(SingleAgentEnvRunner)
    def make_module(self) -> None:
        super().make_module()
        if self.env is None:
            return  # the driver's own, next to remote env runners
        self._policy = Policy(
            self.module,
            np.random.default_rng(self._seed_sequence()),
            normalize_actions=self.config.normalize_actions,
            clip_actions=self.config.clip_actions,
        )
        keep_freed_memory()
        if num_pixels(self.env.single_observation_space) and not self.config.in_evaluation:
            use_idle_cpu_threads(self.config, self.config.num_env_runners)

    def sample_rollout(
        self,
        num_shards: int,
        env_steps: int = 0,
        module_ids: Sequence[ModuleID] = (DEFAULT_MODULE_ID,),
    ) -> tuple[Any, ...]:
        """Samples one rollout for training.

        Args:
            num_shards: Number of learners that the rows are divided among.
            env_steps: Env steps of the run so far. They are part of the seed of an env runner that
                Ray has restarted, so that it does not repeat the episodes of the run's start.
            module_ids: Ids of the modules in training; here there is one.

        Returns:
            The `RolloutSummary` and `num_shards` `Rollout`s. Call it with
            `.options(num_returns=num_shards + 1)`, so that each is a separate object. In the same
            process, the next call overwrites their observations.
        """
        if env_steps and not self._begun:
            self._reseed_after_restart(env_steps)
        self._begun = True
        T = self.config.get_rollout_fragment_length(self.worker_index or 0)
        space = self.env.single_observation_space
        shape = (self.num_envs, T, *space.shape)
        if self._buffer is None or self._buffer.shape != shape:
            # Kept, because the kernel takes as long to provide new pages as it takes to fill them.
            self._buffer = np.empty(shape, space.dtype)
        rollout, returns = self._rollout(T, explore=self.config.explore, buffer=self._buffer)
        self._on_sample_end([rollout])
        # The driver logs the episodes, in a window that spans several iterations.
        ended, self._ended = self._ended, []
        metrics = self.get_metrics()
        for key in EPISODE_METRICS:  # present if `sample` was called before
            metrics.pop(key, None)
        obs = self._obs_moments(rollout) if self.config.observation_filter != "NoFilter" else None
        shards = rollout.split(self._shard_cuts(num_shards))
        rows = [len(shard) for shard in shards]
        [module_id] = module_ids
        of_module = ModuleSummary(rows, Moments.of(returns), obs)
        return RolloutSummary(metrics, ended, {module_id: of_module}), *shards

    def _shard_cuts(self, num_shards: int) -> list[int]:
        """Where to cut the rows. If env runners are missing, learners get uneven parts."""
        runners = max(self.config.num_env_runners, 1)
        numbers = interleave_row_ids([self.num_envs] * runners)
        mine = numbers[((self.worker_index or 1) - 1) % runners]
        return shard_cuts(mine, runners * self.num_envs, num_shards)

    def warm_up(self) -> dict[ModuleID, Moments]:
        """Moments of the observations of one rollout with random actions, by module.

        They initialise the observation filter before the policy first acts. Afterwards all envs
        are reset.
        """
        T = self.config.get_rollout_fragment_length(self.worker_index or 0)
        rollout, _ = self._rollout(T, explore=False, random_actions=True)
        self._ended.clear()
        self._needs_initial_reset = True
        return {DEFAULT_MODULE_ID: self._obs_moments(rollout)}

    @override(SingleAgentEnvRunner)
    def sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool | None = None,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[Rollout]:
        """Samples at least the given number of steps or episodes over all sub-envs.

        Args:
            num_timesteps: Env steps. Without this and `num_episodes`, one rollout.
            num_episodes: Finished episodes; all envs are reset first, and before training goes on.
            explore: Whether to sample actions or to take the most probable ones. None: as the
                config's `explore` says.
            random_actions: Whether to sample from the action space instead of the policy.
            force_reset: Whether to reset all envs first.

        Raises:
            ValueError: This env runner has no env, or the env does not follow gymnasium's API.
            EnvStepError: The env raised.
        """
        if self.env is None:
            raise ValueError(
                "there are no evaluation env runners; to evaluate, set "
                ".evaluation(evaluation_interval=...)"
            )
        explore = self.config.explore if explore is None else explore
        if force_reset:
            self._needs_initial_reset = True
        if num_episodes is not None:
            self._start_over()
        T = self.config.get_rollout_fragment_length(self.worker_index or 0)
        if num_timesteps is not None:
            T = -(-num_timesteps // self.num_envs)
        elif num_episodes is not None:
            T = 1
        wanted = len(self._ended) + (num_episodes or 0)
        rollouts = [self._rollout(T, explore=explore, random_actions=random_actions)[0]]
        while len(self._ended) < wanted:
            rollouts.append(self._rollout(T, explore=explore, random_actions=random_actions)[0])
        if num_episodes is not None:
            self._start_over()
        self._on_sample_end(rollouts)
        return rollouts

    def _start_over(self) -> None:
        """Resets all envs before the next step; those of evaluations repeat their episodes."""
        self._needs_initial_reset = True
        if not self.config.in_evaluation:
            self._reseed_envs()

    def _reseed_envs(self) -> None:
        env_steps, resets = self._restart_seed
        self._restart_seed = (env_steps, resets + 1)

    def _reseed_after_restart(self, env_steps: int) -> None:
        self._restart_seed = (env_steps, 0)
        self._num_rollouts = env_steps  # more than before, so that no number comes again
        self._policy.rng = np.random.default_rng(self._seed_sequence())

    @override(SingleAgentEnvRunner)
    def get_metrics(self) -> ResultDict:
        for episode in self._ended:
            self._log_episode_metrics(*episode)
        self._ended.clear()
        return self.metrics.reduce()

    def _rollout(
        self,
        T: int,
        *,
        explore: bool,
        random_actions: bool = False,
        buffer: np.ndarray | None = None,
    ) -> tuple[Rollout, np.ndarray]:
        """Steps all envs T times.

        Args:
            T: Number of steps.
            explore: Whether to sample actions or to take the most probable ones.
            random_actions: Whether to sample from the action space instead of the policy.
            buffer: Array `[N, T, ...]` to write the observations into; None makes a new one.

        Returns:
            The rollout, and the discounted returns of its valid steps.
        """
        with self.metrics.log_time(SAMPLE_TIMER):
            for tries_left in (self.config.restart_failed_sub_environments, False):
                if self._failed:  # an AsyncVectorEnv that has raised can't be used again
                    self.make_env()
                    self._failed = False
                try:
                    return self._step_envs(T, explore, random_actions, buffer)
                except EnvStepError:
                    self._failed = True
                    self._reseed_envs()
                    if not tries_left:
                        raise
            raise AssertionError("the second try returns or raises")

    def _step_envs(
        self, T: int, explore: bool, random_actions: bool, buffer: np.ndarray | None
    ) -> tuple[Rollout, np.ndarray]:
        if self._needs_initial_reset:
            self._reset()
        self.module.eval()
        N, obs, packed = self.num_envs, self._obs, self._policy.actions
        L = self.config.steps_per_segment
        first, resetting, initial = self._first, self._resetting, self._policy.initial_state
        space = self.env.single_observation_space
        rollout = Rollout(
            obs=np.empty((N, T, *space.shape), space.dtype) if buffer is None else buffer,
            actions=np.empty((N, T, *packed.shape), packed.dtype),
            logp=np.zeros((N, T), np.float32),
            rewards=np.empty((N, T), np.float32),
            terminated=np.empty((N, T), bool),
            truncated=np.empty((N, T), bool),
            valid=np.empty((N, T), bool),
            state_in=np.zeros((N, segments_per_row(T, L), self._state.shape[1]), np.float32),
            begins=self._first,
            stream=self._stream(),
            last_obs=obs,
            final_obs=np.empty((0, *space.shape), space.dtype),
            final_index=np.empty((0, 2), np.int64),
        )
        final: list[tuple[np.ndarray, tuple[int, int]]] = []
        clock = np.empty(T)
        self._needs_initial_reset = True  # unless this rollout is completed
        for t in range(T):
            masks = self._masks(obs, ~resetting, t)
            if random_actions and masks is not None:
                actions, _ = self._policy.draw(uniform(masks), explore=True)
                to_env = self._policy.for_env(actions)
            elif random_actions:
                actions = to_env = self.env.action_space.sample()
            else:
                self._state[first] = initial
                if t % L == 0:
                    rollout.state_in[:, t // L] = self._state
                actions, logp, self._state = self._policy.act(obs, self._state, explore)
                self._contract.check_finite("log-probability", logp, t)
                rollout.logp[:, t] = logp
                to_env = self._policy.for_env(actions)
            rollout.obs[:, t], rollout.actions[:, t] = obs, packed.pack(actions)
            obs, rewards, terminated, truncated, infos = self._contract.step(to_env, t)
            rollout.rewards[:, t] = rewards
            rollout.terminated[:, t], rollout.truncated[:, t] = terminated, truncated
            clock[t] = time.perf_counter()
            ended = terminated | truncated
            first, resetting = (
                (ended, resetting) if self._same_step else (resetting, ended & ~resetting)
            )
            if self._same_step and np.any(truncated):
                for n in np.flatnonzero(rollout.truncated[:, t] & ~rollout.terminated[:, t]):
                    final.append((self._contract.final_obs(infos, n, t), (n, t)))
        self._obs = rollout.last_obs = obs
        if final:
            rollout.final_obs = np.stack([o for o, _ in final]).astype(space.dtype)
            rollout.final_index = np.array([i for _, i in final])
        first = self._mark_episodes(rollout)
        returns = discounted_returns(rollout.rewards, first, rollout.valid, self._returns)
        self._returns = returns[:, -1]
        num_ended = self._end_episodes(rollout, clock)
        self._increase_sampled_metrics(rollout.env_steps(), num_ended)
        self.metrics.log_value(WEIGHTS_SEQ_NO, self._weights_seq_no, window=1)
        self._needs_initial_reset = False
        return rollout, returns[rollout.valid]

    def _stream(self) -> np.ndarray:
        """`Rollout.stream` of the next rollout."""
        self._num_rollouts += 1
        envs = np.arange(self.num_envs)
        runner = np.full_like(envs, self.worker_index or 1)  # as in `get_exact_state`
        return np.stack([runner, envs, np.full_like(envs, self._num_rollouts)], axis=1)

    def _masks(self, obs: np.ndarray, acting: np.ndarray, t: int) -> np.ndarray | None:
        """Which actions are allowed, `[N, n]` bool; None if the env does not say.

        Args:
            obs: The observations.
            acting: Which envs do not ignore the action, to reset instead, `[N]` bool.
            t: Number of the step.

        Raises:
            ValueError: No action is allowed in a state that is acted on.
        """
        if self._packing is None or self._packing.mask is None:
            return None
        masks = self._packing.masks(obs)
        self._contract.check_masks(masks[acting], np.flatnonzero(acting), t)
        return masks

    def _mark_episodes(self, rollout: Rollout) -> np.ndarray:
        """Fills `valid` and masks rewards and ends with it.

        Returns:
            Whether each step is the first of its episode `[N, T]`, bool.

        Raises:
            ValueError: A reward is NaN or infinite.
        """
        if not np.isfinite(rollout.rewards).all():
            t = int(np.argwhere(~np.isfinite(rollout.rewards.T))[0][0])
            self._contract.check_finite("reward", rollout.rewards[:, t], t)
        valid, ended = rollout.valid, rollout.terminated | rollout.truncated
        valid[:] = True
        if not self._same_step:
            # A step that a NEXT_STEP env spends on its reset has no reward and ends no episode.
            for t in range(valid.shape[1]):
                valid[:, t] = ~self._resetting
                self._resetting = ended[:, t] & valid[:, t]
            rollout.rewards[~valid] = 0.0
        rollout.terminated &= valid
        rollout.truncated &= valid & ~rollout.terminated
        last = ended if self._same_step else ~valid
        first = np.concatenate([self._first[:, None], last[:, :-1]], axis=1)
        self._first = last[:, -1]
        return first

    def _end_episodes(self, rollout: Rollout, clock: np.ndarray) -> int:
        """Records the episodes that ended and returns their number.

        Args:
            rollout: The rollout.
            clock: Time of each step `[T]` in seconds.
        """
        returns = self._episode_return[:, None] + rollout.rewards.cumsum(1, dtype=np.float64)
        lengths = self._episode_len[:, None] + rollout.valid.cumsum(1)
        # The part of these sums that belongs to earlier episodes.
        past_return, past_len = np.zeros(self.num_envs), np.zeros(self.num_envs, np.int64)
        ends = np.argwhere((rollout.terminated | rollout.truncated).T)
        for t, n in ends:
            length, ret = lengths[n, t] - past_len[n], returns[n, t] - past_return[n]
            self._ended.append(Episode(int(length), float(ret), clock[t] - self._episode_start[n]))
            past_return[n], past_len[n] = returns[n, t], lengths[n, t]
            self._episode_start[n] = clock[t]
        self._episode_return = returns[:, -1] - past_return
        self._episode_len = lengths[:, -1] - past_len
        return len(ends)

    def _seed_sequence(self) -> np.random.SeedSequence:
        """The seed of this env runner; without a seed in the config, a new one each time."""
        if self.config.seed is None:
            return np.random.SeedSequence()
        # A hash, because with neighbouring seeds env runners would share seeds of sub-envs.
        words = [int(self.config.seed), self.worker_index or 0, *self._restart_seed]
        return np.random.SeedSequence(words)

    # -- Exact resume (`driver/checkpointing.py`) ------------------------------------------------

    def get_exact_state(self) -> tuple[int, dict[str, Any]]:
        """The number of this env runner, counted from 1, and its state as plain data.

        The state contains no envs if these can't be saved exactly (`env_state.py`).
        """
        begun = not self._needs_initial_reset
        state = {
            "num_envs": self.num_envs,
            "random_numbers": rng_state.get_state(),
            "rng": self._policy.rng.bit_generator.state,
            "life": self._restart_seed,
            "num_rollouts": self._num_rollouts,
            "begun": begun,
            "envs": get_env_state(self.env) if begun else None,
        }
        if state["envs"] is not None:
            state["seconds"] = time.perf_counter() - self._episode_start
            state |= {name: getattr(self, name) for name in _PER_ENV_STATE}
        return self.worker_index or 1, state

    def set_exact_state(self, states: Mapping[int, Any], env_steps: int) -> str | None:
        """Restores the state of the env runner with this number.

        Args:
            states: States, or references to them, by number.
            env_steps: Env steps of the run so far, to seed whatever can't be restored.

        Returns:
            None, or if the envs can't be restored: what they do instead, and why.
        """
        state = states.get(self.worker_index or 1)
        if isinstance(state, ray.ObjectRef):
            state = ray.get(state)
        self._reseed_after_restart(env_steps)
        self._begun = True
        self._needs_initial_reset = True
        restart = f"start new episodes ({self.config.env}"
        if state is None:
            return f"{restart}: there were fewer env runners when the checkpoint was written)"
        self._policy.rng.bit_generator.state = state["rng"]
        self._num_rollouts = state["num_rollouts"]
        rng_state.set_state(state["random_numbers"])
        if state["num_envs"] != self.num_envs:
            return f"{restart}: there were {state['num_envs']} envs each, not {self.num_envs})"
        if state["begun"] and state["envs"] is None:
            return f"{restart} can't be saved exactly; everything else is restored)"
        self._restart_seed = tuple(state["life"])
        if not state["begun"]:
            return None
        try:
            self._reset()
            set_env_state(self.env, state["envs"])
        except ValueError as e:
            self._needs_initial_reset = True
            return f"{restart}: {e})"
        for name in _PER_ENV_STATE:
            setattr(self, name, np.array(state[name]))  # which can be written
        self._episode_start = time.perf_counter() - state["seconds"]
        rng_state.set_state(state["random_numbers"])  # the reset may have used some
        return None

    def _reset(self) -> None:
        seed = None
        if self.config.seed is not None:
            seed = int(self._seed_sequence().generate_state(1)[0] >> 1)
        self._obs = self._contract.reset(seed)
        self.env.action_space.seed(seed)
        N = self.num_envs
        self._state = np.tile(self._policy.initial_state, (N, 1))
        self._resetting = np.zeros(N, bool)
        self._first = np.ones(N, bool)
        self._returns = np.zeros(N, np.float32)
        self._episode_return = np.zeros(N)
        self._episode_len = np.zeros(N, np.int64)
        self._episode_start = np.full(N, time.perf_counter())
        self._needs_initial_reset = False

    def _obs_moments(self, rollout: Rollout) -> Moments:
        obs = rollout.obs
        if self._packing is not None:
            obs = self._packing.vectors(as_states(obs)).reshape(*rollout.valid.shape, -1)
        return Moments.of(obs[rollout.valid])

    def _on_sample_end(self, rollouts: list[Rollout]) -> None:
        make_callback(
            "on_sample_end",
            callbacks_objects=self._callbacks,
            callbacks_functions=self.config.callbacks_on_sample_end,
            kwargs={"env_runner": self, "metrics_logger": self.metrics, "samples": rollouts},
        )

    @override(EnvRunner)
    def stop(self) -> None:
        if self.env is not None:
            close(self.env, failed=self._failed)
