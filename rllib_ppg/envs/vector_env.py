"""Vector envs made from any single-agent gymnasium env, in an autoreset mode that PPG supports."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.async_vector_env import AsyncState
from gymnasium.vector.utils import batch_space, iterate
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_ppg.envs.atari import stacked_first
from rllib_ppg.envs.env_creator import env_creator, find_env, is_tune_registered
from rllib_ppg.envs.env_state import SubEnv
from rllib_ppg.envs.packed_observations import ObservationError, Packing, is_packed
from rllib_ppg.envs.spaces import flat_space, flatten_observation, is_flat

NATIVE = "vector_entry_point"


def check_env_exists(config: AlgorithmConfig) -> None:
    """Checks that a config's `env` is an id or a class of envs, without making one.

    Raises:
        ValueError: It is neither.
    """
    env = config.env
    if env is None:
        raise ValueError("no environment: set one with .environment('procgen-coinrun-v0') or --env")
    if is_tune_registered(env):
        return
    found = find_env(config)
    if isinstance(found, EnvSpec):
        return
    if isinstance(found, type) and issubclass(found, MultiAgentEnv):
        raise ValueError(
            f"{found.__name__} is a multi-agent env: set .multi_agent(policies=..., "
            "policy_mapping_fn=...)"
        )
    if isinstance(found, type) and not issubclass(found, gym.Env | VectorEnv):
        raise ValueError(f"{found.__name__} is not a gymnasium.Env")
    if isinstance(found, type) or (isinstance(env, str) and callable(found)):
        return
    if callable(found):
        raise ValueError(
            "RLlib takes a function that makes envs by name: ray.tune.register_env('my_env', "
            "function), and then env='my_env'"
        )
    raise ValueError(f"an env is an id, a class or a function that makes one, not {found!r}")


def vectorize_mode(config: AlgorithmConfig) -> Any:
    """`gym_env_vectorize_mode` as text; users may also give a `gymnasium.VectorizeMode`."""
    mode = config.gym_env_vectorize_mode
    return getattr(mode, "value", mode)


def is_vector_env_class(config: AlgorithmConfig) -> bool:
    """Whether a config's `env` is a class of native vector envs."""
    if config.env is None or is_tune_registered(config.env):
        return False
    try:
        found = find_env(config)
    except ValueError:  # which `check_env_exists` raises again
        return False
    return isinstance(found, type) and issubclass(found, VectorEnv)


def make_vector_env(config: AlgorithmConfig, worker_index: int = 0) -> VectorEnv:
    """Makes `num_envs_per_env_runner` copies of the config's env behind one vector env.

    With `gym_env_vectorize_mode="vector_entry_point"` (PPG's default) this is the env's own vector
    env if there is one, and a `SyncVectorEnv` otherwise. "sync" and "async" always make a
    `SyncVectorEnv` or `AsyncVectorEnv`, with SAME_STEP autoreset, which spends no steps on resets.
    A class of vector envs finds `num_envs` in its env_config. Observations that are neither vectors
    nor images are flattened.

    Raises:
        ValueError: It is not a single-agent gymnasium env, it does not reset by itself, or its
            observations can't be flattened.
    """
    env, mode, num_envs = config.env, vectorize_mode(config), config.num_envs_per_env_runner
    check_env_exists(config)
    same_step = {"autoreset_mode": AutoresetMode.SAME_STEP}
    creator = env_creator(config)
    if creator is None:
        spec = find_env(config)
        if mode == NATIVE and (not spec.vector_entry_point or spec.additional_wrappers):
            mode = "sync"
        other = stacked_first(spec) if mode == NATIVE else None
        if other:
            raise ValueError(
                f"{env} stacks its frames first, where networks for images have rows of pixels: "
                f"{other} is the same with the frames last"
            )
        vector_env = gym.make_vec(
            spec,
            num_envs=num_envs,
            vectorization_mode=mode,
            vector_kwargs={} if mode == NATIVE else same_step,
            wrappers=() if mode == NATIVE else (SubEnv,),
            **config.env_config,
        )
    else:
        context = EnvContext(config.env_config, worker_index, num_workers=config.num_env_runners)
        if is_vector_env_class(config):
            context["num_envs"] = num_envs  # as RLlib does for vector envs
            vector_env = creator(context)
        else:
            fns = [
                lambda i=i: SubEnv(_checked(creator(context.copy_with_overrides(vector_index=i))))
                for i in range(num_envs)
            ]
            vectorize = AsyncVectorEnv if mode == "async" else SyncVectorEnv
            vector_env = vectorize(fns, **same_step)
    if autoreset_mode(vector_env) == AutoresetMode.DISABLED:
        vector_env.close()
        raise ValueError(f"{env}: PPG needs a vector env that resets by itself, not DISABLED mode")
    if not is_flat(vector_env.single_observation_space):
        vector_env = FlattenObservations(vector_env)
    return vector_env


def autoreset_mode(env: VectorEnv) -> AutoresetMode:
    """The env's autoreset mode; by default NEXT_STEP, as in gymnasium."""
    return AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))


def probe_spaces(config: AlgorithmConfig) -> tuple[gym.Space, gym.Space]:
    """Observation and action space of the env, found by making one and closing it.

    Raises:
        ValueError: The env can't be made.
    """
    one = copy.copy(config)
    one.__dict__.update(num_envs_per_env_runner=1, _is_frozen=False)
    if vectorize_mode(one) == "async":
        one.gym_env_vectorize_mode = "sync"
    try:
        env = make_vector_env(one)
    except ValueError:
        raise
    except Exception as e:
        raise ValueError(f"env {config.env!r} can't be made: {_sentence(e)}") from e
    spaces = env.single_observation_space, env.single_action_space
    env.close()
    return spaces


class FlattenObservations(VectorWrapper):
    """Flattens or packs the observations of a vector env (see `spaces.flatten_observation`).

    gymnasium's own wrapper does not support SAME_STEP autoreset.
    """

    def __init__(self, env: VectorEnv):
        super().__init__(env)
        self._space = env.single_observation_space
        self._packing = Packing(self._space) if is_packed(self._space) else None
        self.single_observation_space = flat_space(self._space)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Resets all envs; observations are `[N, d]`."""
        obs, infos = self.env.reset(**kwargs)
        return self._flat(obs), infos

    def step(self, actions: Any) -> tuple[np.ndarray, Any, Any, Any, dict[str, Any]]:
        """Steps all envs; observations, also those in infos["final_obs"], are vectors."""
        obs, rewards, terminated, truncated, infos = self.env.step(actions)
        if "final_obs" in infos:
            final = [
                o if o is None else self._flat_one(o, n) for n, o in enumerate(infos["final_obs"])
            ]
            infos = {**infos, "final_obs": final}
        return self._flat(obs), rewards, terminated, truncated, infos

    def _flat(self, batch: Any) -> np.ndarray:
        if self._packing is not None:
            return self._packing.pack(batch, self.num_envs)
        each = iterate(self.env.observation_space, batch)
        return np.stack([self._flat_one(o, n) for n, o in enumerate(each)])

    def _flat_one(self, obs: Any, n: int) -> np.ndarray:
        try:
            return flatten_observation(self._space, obs)
        except ObservationError as e:
            raise ObservationError(str(e), n) from e


def _checked(env: Any) -> gym.Env:
    if isinstance(env, MultiAgentEnv):
        raise ValueError(f"{env!r} is a multi-agent env: set .multi_agent(policies=...)")
    if isinstance(env, VectorEnv):
        raise ValueError(
            "the env creator returned a vector env: give the class itself as env, or register it "
            "with gymnasium by its vector_entry_point"
        )
    if not isinstance(env, gym.Env):
        raise ValueError(f"the env creator returned {env!r}, which is not a gymnasium.Env")
    return env


def _sentence(e: Exception) -> str:
    return " ".join(f"{e}".split()) or type(e).__name__


def close(env: VectorEnv, *, failed: bool) -> None:
    """Closes a vector env; if it has `failed`, without waiting for its processes to answer."""
    if not failed:
        env.close()
        return
    inner = env.unwrapped
    with suppress(Exception):  # a failed env may be unable to close
        if isinstance(inner, AsyncVectorEnv):
            for process in inner.processes:
                process.kill()
            inner._state = AsyncState.DEFAULT
            inner.close(terminate=True)
        env.close()
