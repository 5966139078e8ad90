"""The env runner: steps a whole vector env at once and writes into preallocated arrays.

RLlib's `SingleAgentEnvRunner` builds an episode object a sub-env, which costs more Python time a
step than most envs cost in C. This runner keeps its contract (spaces, state, metrics, callbacks,
fault tolerance) and replaces the sampling loop.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np
import ray
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from ray.rllib.callbacks.utils import make_callback
from ray.rllib.core.columns import Columns
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import SAMPLE_TIMER, WEIGHTS_SEQ_NO
from ray.rllib.utils.typing import ResultDict

from rllib_ppg.checkpoint import rng_state
from rllib_ppg.data.episodes import EPISODE_METRICS, Episode
from rllib_ppg.data.minibatches import interleave_row_ids, shard_cuts
from rllib_ppg.data.reward_norm import discounted_returns
from rllib_ppg.data.rollout import Rollout, RolloutSummary
from rllib_ppg.data.running_moments import Moments
from rllib_ppg.envs.env_state import get_env_state, set_env_state
from rllib_ppg.envs.spaces import Actions
from rllib_ppg.envs.vector_env import autoreset_mode, close, make_vector_env
from rllib_ppg.inference.action_sampling import draw
from rllib_ppg.resources.cpu import keep_freed_memory, use_idle_cpu_threads

# Attributes of `BatchedEnvRunner`, an array each, `[N, ...]`.
_PER_ENV_STATE = ("_obs", "_resetting", "_first", "_returns", "_episode_return", "_episode_len")
# What gymnasium's calls are, and the modules that may raise when an env's are not these.
_CALLS = {
    "reset": "reset(*, seed, options) -> (observation, info)",
    "step": "step(action) -> (observation, reward, terminated, truncated, info)",
}
_FRAMEWORK_MODULES = (
    "rllib_ppg.sampling.env_runner", "rllib_ppg.envs.vector_env", "rllib_ppg.envs.env_state",
    "rllib_ppg.envs.spaces",
    "gymnasium.vector.", "gymnasium.wrappers.", "gymnasium.core", "gymnasium.spaces.",
    "gymnasium.utils.", "numpy", "functools", "copy",
)  # fmt: skip
_ASYNC = "gymnasium.vector.async_vector_env"  # raises anew what an env in its process has raised
# The kinds of numbers that an array of a kind takes with their meaning.
_TAKES = {"f": "fiub", "i": "iub", "u": "ub", "b": "biu"}
_KINDS = {"f": "numbers", "i": "whole numbers", "u": "unsigned whole numbers", "b": "booleans"}


class BatchedEnvRunner(SingleAgentEnvRunner):
    """Samples `Rollout`s of `rollout_fragment_length` steps from one gymnasium vector env."""

    env: VectorEnv
    # Of each env, `[N, ...]`: the observation to act on; whether the next step is lost to a reset
    # (NEXT_STEP), and whether it is its episode's first; the discounted sum of rewards.
    _obs: np.ndarray
    _resetting: np.ndarray
    _first: np.ndarray
    _returns: np.ndarray
    # Of each env's episode so far: return, length, and when it started.
    _episode_return: np.ndarray
    _episode_len: np.ndarray
    _episode_start: np.ndarray
    # Of the observations that `sample_rollout` writes.
    _buffer: np.ndarray | None = None
    # The run's env steps when this life of the env runner began, and how often its envs have failed
    # since: sets seeds apart from those used before.
    _restart_seed: tuple[int, int] = (0, 0)
    _begun = False
    _failed = False

    @override(SingleAgentEnvRunner)
    def make_env(self) -> None:
        """Makes the vector env anew from the config (see `vector_env.make_vector_env`)."""
        if self.env is not None:
            close(self.env, failed=self._failed)
        self.env = make_vector_env(self.config, self.worker_index or 0)
        self.num_envs = self.env.num_envs
        self._actions = Actions(self.env.single_action_space)
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
        """Makes the part of the networks that acts."""
        super().make_module()
        if self.env is None:
            return  # in the driver, beside remote env runners
        self._rng = np.random.default_rng(self._seed_sequence())
        keep_freed_memory()
        if len(self.env.single_observation_space.shape) == 3 and not self.config.in_evaluation:
            use_idle_cpu_threads(self.config, self.config.num_env_runners)

    def sample_rollout(self, num_shards: int, env_steps: int = 0) -> tuple[Any, ...]:
        """One fragment for training.

        Args:
            num_shards: number of learners the rows are for.
            env_steps: of the run so far. One that Ray has started again would otherwise have the
                episodes of the run's start again.

        Returns:
            The `RolloutSummary` and `num_shards` `Rollout`s. Call it with
            `.options(num_returns=num_shards + 1)`, so that each is an object of its own. In the
            same process, their observations are overwritten by the next call.
        """
        if env_steps and not self._begun:
            self._reseed_after_restart(env_steps)
        self._begun = True
        T = self.config.get_rollout_fragment_length(self.worker_index or 0)
        space = self.env.single_observation_space
        shape = (self.num_envs, T, *space.shape)
        if self._buffer is None or self._buffer.shape != shape:
            # Kept: the kernel takes as long to hand out new pages as it takes to fill them.
            self._buffer = np.empty(shape, space.dtype)
        rollout, returns = self._rollout(T, explore=self.config.explore, buffer=self._buffer)
        self._on_sample_end([rollout])
        # The driver logs the episodes, over a window that outlasts the iteration.
        ended, self._ended = self._ended, []
        metrics = self.get_metrics()
        for key in EPISODE_METRICS:  # there if this runner was asked for episodes before
            metrics.pop(key, None)
        obs = self._obs_moments(rollout) if self.config.observation_filter != "NoFilter" else None
        shards = rollout.split(self._shard_cuts(num_shards))
        rows = [len(shard) for shard in shards]
        return RolloutSummary(metrics, rows, ended, Moments.of(returns), obs), *shards

    def _shard_cuts(self, num_shards: int) -> list[int]:
        """Where to cut the rows; without an env runner or two, learners get uneven parts."""
        runners = max(self.config.num_env_runners, 1)
        numbers = interleave_row_ids([self.num_envs] * runners)
        mine = numbers[((self.worker_index or 1) - 1) % runners]
        return shard_cuts(mine, runners * self.num_envs, num_shards)

    def warm_up(self) -> Moments:
        """Moments of the observations of a fragment with random actions; all envs start anew.

        For the observation filter, so that it is there before the policy first acts.
        """
        T = self.config.get_rollout_fragment_length(self.worker_index or 0)
        rollout, _ = self._rollout(T, explore=False, random_actions=True)
        self._ended.clear()
        self._needs_initial_reset = True
        return self._obs_moments(rollout)

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
        """RLlib's sampling call: at least so many steps, or episodes, over all sub-envs.

        Args:
            num_timesteps: env steps wanted; with neither this nor `num_episodes`, one fragment.
            num_episodes: finished episodes wanted; all envs start anew.
            explore: whether to sample actions (None: the config's `explore`) or take the mode.
            random_actions: draw from the action space and leave the policy alone.
            force_reset: start new episodes in all envs first.
        """
        if self.env is None:
            raise ValueError(
                f"{self} has no env to sample from; to evaluate, set .evaluation("
                "evaluation_interval=...)"
            )
        explore = self.config.explore if explore is None else explore
        if force_reset or num_episodes is not None:
            self._needs_initial_reset = True
        T = self.config.get_rollout_fragment_length(self.worker_index or 0)
        if num_timesteps is not None:
            T = -(-num_timesteps // self.num_envs)
        elif num_episodes is not None:
            T = 1
        wanted = len(self._ended) + (num_episodes or 0)
        rollouts = [self._rollout(T, explore=explore, random_actions=random_actions)[0]]
        while len(self._ended) < wanted:
            rollouts.append(self._rollout(T, explore=explore, random_actions=random_actions)[0])
        self._on_sample_end(rollouts)
        return rollouts

    def _reseed_after_restart(self, env_steps: int) -> None:
        self._restart_seed = (env_steps, 0)
        self._rng = np.random.default_rng(self._seed_sequence())

    @override(SingleAgentEnvRunner)
    def get_metrics(self) -> ResultDict:
        """Metrics since the last call, reduced."""
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
        """Steps all envs T times: the rollout, and the discounted returns of its valid steps.

        Observations are written into `buffer`, `[N, T, ...]`, if there is one.
        """
        with self.metrics.log_time(SAMPLE_TIMER):
            for tries_left in (self.config.restart_failed_sub_environments, False):
                if self._failed:  # an AsyncVectorEnv that has raised is of no more use
                    self.make_env()
                    self._failed = False
                try:
                    return self._step_envs(T, explore, random_actions, buffer)
                except EnvStepError:
                    self._failed = True
                    self._restart_seed = (self._restart_seed[0], self._restart_seed[1] + 1)
                    if not tries_left:
                        raise
            raise AssertionError("the second try returns or raises")

    def _step_envs(
        self, T: int, explore: bool, random_actions: bool, buffer: np.ndarray | None
    ) -> tuple[Rollout, np.ndarray]:
        if self._needs_initial_reset:
            self._reset()
        self.module.eval()
        N, obs = self.num_envs, self._obs
        space = self.env.single_observation_space
        rollout = Rollout(
            obs=np.empty((N, T, *space.shape), space.dtype) if buffer is None else buffer,
            actions=np.empty((N, T, *self._actions.shape), self._actions.dtype),
            logp=np.zeros((N, T), np.float32),
            rewards=np.empty((N, T), np.float32),
            terminated=np.empty((N, T), bool),
            truncated=np.empty((N, T), bool),
            valid=np.empty((N, T), bool),
            last_obs=obs,
            final_obs=np.empty((0, *space.shape), space.dtype),
            final_index=np.empty((0, 2), np.int64),
        )
        final: list[tuple[np.ndarray, tuple[int, int]]] = []
        clock = np.empty(T)
        self._needs_initial_reset = True  # unless this fragment comes to its end
        for t in range(T):
            if random_actions:
                actions = to_env = self.env.action_space.sample()
            else:
                actions, logp = self._act(obs, explore)
                self._check_finite("log-probability", logp, t)
                rollout.logp[:, t] = logp
                to_env = self._actions.for_env(
                    actions,
                    normalized=self.config.normalize_actions,
                    clip=self.config.clip_actions,
                )
            rollout.obs[:, t], rollout.actions[:, t] = obs, self._actions.pack(actions)
            try:
                obs, rewards, terminated, truncated, infos = self.env.step(to_env)
            except Exception as e:
                raise self._env_error("step", e) from e
            if not _conforms_to_gymnasium(self._obs, obs, rewards, terminated, truncated, infos):
                obs = self._checked_obs(obs, infos, self._obs)
                rewards = self._checked("rewards", rewards, (N,), "f")
                terminated = self._checked("terminated", terminated, (N,), "b")
                truncated = self._checked("truncated", truncated, (N,), "b")
            self._check_finite("observation", obs, t)
            rollout.rewards[:, t] = rewards
            rollout.terminated[:, t], rollout.truncated[:, t] = terminated, truncated
            clock[t] = time.perf_counter()
            if self._same_step and np.any(truncated):
                for n in np.flatnonzero(rollout.truncated[:, t] & ~rollout.terminated[:, t]):
                    final.append((self._final_obs(infos, n, t), (n, t)))
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

    def _mark_episodes(self, rollout: Rollout) -> np.ndarray:
        """Fills `valid` and masks rewards and ends by it.

        Returns:
            Which steps are the first ones of their episodes, `[N, T]` bool.
        """
        if not np.isfinite(rollout.rewards).all():
            t = int(np.argwhere(~np.isfinite(rollout.rewards.T))[0][0])
            self._check_finite("reward", rollout.rewards[:, t], t)
        valid, ended = rollout.valid, rollout.terminated | rollout.truncated
        valid[:] = True
        if not self._same_step:
            # A step that a NEXT_STEP env spends on its reset ends nothing and earns nothing.
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
        """Notes the episodes that have ended, at the times `[T]` of the steps; their number."""
        returns = self._episode_return[:, None] + rollout.rewards.cumsum(1, dtype=np.float64)
        lengths = self._episode_len[:, None] + rollout.valid.cumsum(1)
        # What of these sums belongs to episodes that are over.
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
        """Of this env runner; without a seed in the config another one each time."""
        if self.config.seed is None:
            return np.random.SeedSequence()
        # Seeds of neighbouring workers must not give neighbouring sub-envs the same seed.
        words = [int(self.config.seed), self.worker_index or 0, *self._restart_seed]
        return np.random.SeedSequence(words)

    # -- To go on exactly (`exact_resume.py`) --------------------------------------------------

    def get_exact_state(self) -> tuple[int, dict[str, Any]]:
        """Where this env runner is: its number, counted from 1, and plain data.

        The data have no envs if these can't be saved exactly (`env_state.py`).
        """
        begun = not self._needs_initial_reset
        state = {
            "num_envs": self.num_envs,
            "random_numbers": rng_state.get_state(),
            "rng": self._rng.bit_generator.state,
            "life": self._restart_seed,
            "begun": begun,
            "envs": get_env_state(self.env) if begun else None,
        }
        if state["envs"] is not None:
            state["seconds"] = time.perf_counter() - self._episode_start
            state |= {name: getattr(self, name) for name in _PER_ENV_STATE}
        return self.worker_index or 1, state

    def set_exact_state(self, states: Mapping[int, Any], env_steps: int) -> str | None:
        """Goes on where an env runner of this number was.

        Args:
            states: by number, or references to them.
            env_steps: of the run so far: to seed what can't go on but begins anew.

        Returns:
            What the envs do instead, and why; None if they go on.
        """
        state = states.get(self.worker_index or 1)
        if isinstance(state, ray.ObjectRef):
            state = ray.get(state)
        self._reseed_after_restart(env_steps)
        self._begun = True
        self._needs_initial_reset = True
        anew = f"begin new episodes ({self.config.env}"
        if state is None:
            return f"{anew}: there were fewer when the checkpoint was written)"
        self._rng.bit_generator.state = state["rng"]
        rng_state.set_state(state["random_numbers"])
        if state["num_envs"] != self.num_envs:
            return f"{anew}: there were {state['num_envs']} envs each, not {self.num_envs})"
        if state["begun"] and state["envs"] is None:
            return f"{anew} can't be saved exactly; all else goes on where it was)"
        self._restart_seed = tuple(state["life"])
        if not state["begun"]:
            return None
        try:
            self._reset()
            set_env_state(self.env, state["envs"])
        except ValueError as e:
            self._needs_initial_reset = True
            return f"{anew}: {e})"
        for name in _PER_ENV_STATE:
            setattr(self, name, state[name])
        self._episode_start = time.perf_counter() - state["seconds"]
        rng_state.set_state(state["random_numbers"])  # a reset may have drawn some
        return None

    def _reset(self) -> None:
        seed = None
        if self.config.seed is not None:
            seed = int(self._seed_sequence().generate_state(1)[0] >> 1)
        try:
            obs, infos = self.env.reset(seed=seed)
        except Exception as e:
            raise self._env_error("reset", e) from e
        space = self.env.single_observation_space
        like = np.empty((self.num_envs, *space.shape), space.dtype)
        self._obs = self._checked_obs(obs, infos, like)
        self._check_finite("observation", self._obs, 0)
        self.env.action_space.seed(seed)
        N = self.num_envs
        self._resetting = np.zeros(N, bool)
        self._first = np.ones(N, bool)
        self._returns = np.zeros(N, np.float32)
        self._episode_return = np.zeros(N)
        self._episode_len = np.zeros(N, np.int64)
        self._episode_start = np.full(N, time.perf_counter())
        self._needs_initial_reset = False

    @torch.no_grad()
    def _act(self, obs: np.ndarray, explore: bool) -> tuple[Any, np.ndarray]:
        """Actions, arrays `[N, ...]`, and their log-probability under the policy, `[N]`.

        They are drawn from the policy, or are its mode if `explore` is False.
        """
        batch = {Columns.OBS: torch.from_numpy(obs).to(self._device)}
        # Not through `forward_exploration()`, which walks over all submodules to put them into
        # evaluation mode, at every step.
        if explore:
            inputs = self.module._forward_exploration(batch)[Columns.ACTION_DIST_INPUTS]
            return draw(self.module.get_exploration_action_dist_cls(), inputs, self._rng)
        inputs = self.module._forward_inference(batch)[Columns.ACTION_DIST_INPUTS]
        return draw(self.module.get_inference_action_dist_cls(), inputs, None)

    @staticmethod
    def _obs_moments(rollout: Rollout) -> Moments:
        return Moments.of(rollout.obs[rollout.valid])

    def _final_obs(self, infos: dict[str, Any], n: int, t: int) -> np.ndarray:
        if "final_obs" not in infos:
            raise ValueError(
                f"{self.env} truncates episodes in SAME_STEP autoreset mode without infos"
                "['final_obs'], which the value of the truncated episode is bootstrapped from"
            )
        try:
            obs = infos["final_obs"][n]
        except (TypeError, LookupError):
            obs = None
        space = self.env.single_observation_space
        name = f"infos['final_obs'][{n}]"
        obs = self._checked(name, obs, space.shape, space.dtype.kind)
        self._check_finite("observation", obs[None], t, first_env=n)
        return obs.copy()  # the env may write the next one into the same array

    def _checked_obs(self, obs: Any, infos: Any, like: np.ndarray) -> np.ndarray:
        """The observations that the envs have returned, in shape and dtype `like` these."""
        obs = self._checked("observations", obs, like.shape, like.dtype.kind)
        if not isinstance(infos, dict):
            raise ValueError(
                f"{self._whose_env()} returned infos of type {type(infos).__name__}, not a dict"
            )
        if obs.dtype != like.dtype or min(obs.strides) < 0:  # mirror images, which torch refuses
            obs = np.ascontiguousarray(obs, like.dtype)
        return obs

    def _checked(self, name: str, x: Any, shape: tuple[int, ...], kind: str) -> np.ndarray:
        """`x` as an array, of this shape and of numbers that a dtype of this kind can hold."""
        try:
            x = np.asarray(x)
        except ValueError:  # arrays of several shapes
            x = np.empty((), object)
        if x.shape != shape or x.dtype.kind not in _TAKES[kind]:
            raise ValueError(
                f"{self._whose_env()} returned {name} of shape {x.shape} and dtype {x.dtype}, not "
                f"{_KINDS[kind]} of shape {shape}"
            )
        return x

    def _env_error(self, call: str, e: Exception) -> EnvStepError:
        """What is raised where a call of the envs has failed."""
        what = " ".join(f"{type(e).__name__}: {e}".split())
        modules = [f.f_globals.get("__name__", "") for f, _ in traceback.walk_tb(e.__traceback__)]
        at_call = f"env.{call} of {self._whose_env()}"
        if (
            all(module.startswith(_FRAMEWORK_MODULES) for module in modules)
            and _ASYNC not in modules
        ):
            space = " ".join(f"{self.env.unwrapped.single_observation_space}".split())
            return EnvStepError(
                f"{at_call} is not gymnasium's {_CALLS[call]}, with observations of {space}: {what}"
            )
        return EnvStepError(f"{at_call} failed: {what}")

    def _whose_env(self) -> str:
        return f"env runner {self.worker_index} ({self.config.env})"

    def _check_finite(self, name: str, x: np.ndarray, t: int, first_env: int = 0) -> None:
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            n = first_env + int(np.argwhere(~np.isfinite(x))[0][0])
            raise ValueError(
                f"NaN or infinite {name} from env {n} of env runner {self.worker_index} "
                f"({self.config.env}), step {t} of the rollout; the weights are as they were"
            )

    def _on_sample_end(self, rollouts: list[Rollout]) -> None:
        make_callback(
            "on_sample_end",
            callbacks_objects=self._callbacks,
            callbacks_functions=self.config.callbacks_on_sample_end,
            kwargs={"env_runner": self, "metrics_logger": self.metrics, "samples": rollouts},
        )

    @override(EnvRunner)
    def stop(self) -> None:
        """Closes the envs."""
        if self.env is not None:
            close(self.env, failed=self._failed)


def _conforms_to_gymnasium(
    like: np.ndarray, obs: Any, rewards: Any, terminated: Any, truncated: Any, infos: Any
) -> bool:
    """Whether a step has returned what gymnasium says; at every step, and so in one go."""
    try:
        return (
            obs.shape == like.shape
            and obs.dtype == like.dtype
            and obs.flags.c_contiguous
            and rewards.shape == terminated.shape == truncated.shape == like.shape[:1]
            and rewards.dtype.kind == "f"
            and terminated.dtype.kind == truncated.dtype.kind == "b"
            and type(infos) is dict
        )
    except AttributeError:  # a list, say
        return False


class EnvStepError(RuntimeError):
    """The env itself raised; with `restart_failed_sub_environments` it is made anew once."""
