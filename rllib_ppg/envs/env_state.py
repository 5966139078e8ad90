"""The state of envs as data, from which a restored run continues in the middle of episodes.

An adapter here lists what the state of an env or wrapper consists of. Without an adapter, the envs
start new episodes. Pickle does not work: EzPickle and ALE silently restore envs in their reset
state. A function given to a wrapper is assumed to keep no state between calls.

To support your own `gymnasium.Env`, `VectorEnv` or wrapper, write two methods::

    def get_env_state(self):
        return {"position": self.position, "wind": rng_state(self.wind)}

    def set_env_state(self, state):  # after `reset`
        self.position = state["position"]
        set_rng_state(self.wind, state["wind"])

The state is plain data: None, numbers, text, bytes, arrays, and lists, tuples and dicts of these,
with text as keys. It holds everything that later steps and resets depend on, except for
`self.np_random` and the state of a wrapped env, which are saved anyway. Return None if the state
can't be saved at the moment, or with these options.
"""

from __future__ import annotations

import copy
import importlib
from collections import deque
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper

from rllib_ppg.checkpoint import plain_data
from rllib_ppg.envs.atari import get_ale_state, set_ale_state

# The attributes that make up the state in addition to `np_random`, by package and class. They do
# not apply to subclasses, which may keep more.
_KEPT = {
    "gymnasium.envs.classic_control.AcrobotEnv": "state",
    "gymnasium.envs.classic_control.CartPoleEnv": "state steps_beyond_terminated",
    "gymnasium.envs.classic_control.CartPoleVectorEnv": "state steps prev_done low high",
    "gymnasium.envs.classic_control.Continuous_MountainCarEnv": "state",
    "gymnasium.envs.classic_control.MountainCarEnv": "state",
    "gymnasium.envs.classic_control.PendulumEnv": "state last_u",
    "gymnasium.envs.toy_text.BlackjackEnv": (
        "dealer player dealer_top_card_suit dealer_top_card_value_str"
    ),
    "gymnasium.envs.toy_text.CliffWalkingEnv": "s lastaction",
    "gymnasium.envs.toy_text.FrozenLakeEnv": "s lastaction",
    "gymnasium.envs.toy_text.TaxiEnv": "s lastaction fickle_step taxi_orientation",
    "gymnasium.wrappers.AtariPreprocessing": "obs_buffer lives game_over",
    "gymnasium.wrappers.Autoreset": "autoreset",
    "gymnasium.wrappers.ClipAction": "",
    "gymnasium.wrappers.ClipReward": "",
    "gymnasium.wrappers.DelayObservation": "observation_queue",
    "gymnasium.wrappers.DiscretizeAction": "",
    "gymnasium.wrappers.DiscretizeObservation": "",
    "gymnasium.wrappers.DtypeObservation": "",
    "gymnasium.wrappers.FilterObservation": "",
    "gymnasium.wrappers.FlattenObservation": "",
    "gymnasium.wrappers.FrameStackObservation": "obs_queue padding_value",
    "gymnasium.wrappers.GrayscaleObservation": "",
    "gymnasium.wrappers.MaxAndSkipObservation": "_obs_buffer",
    "gymnasium.wrappers.NormalizeObservation": (
        "obs_rms.mean obs_rms.var obs_rms.count _update_running_mean"
    ),
    "gymnasium.wrappers.NormalizeReward": (
        "return_rms.mean return_rms.var return_rms.count discounted_reward _update_running_mean"
    ),
    "gymnasium.wrappers.OrderEnforcing": "_has_reset",
    "gymnasium.wrappers.PassiveEnvChecker": "checked_reset checked_step checked_render",
    # Without the clock: infos["episode"]["t"] does not count the seconds before the checkpoint.
    "gymnasium.wrappers.RecordEpisodeStatistics": (
        "episode_count episode_returns episode_lengths time_queue return_queue length_queue"
    ),
    "gymnasium.wrappers.RescaleAction": "",
    "gymnasium.wrappers.RescaleObservation": "",
    "gymnasium.wrappers.ReshapeObservation": "",
    "gymnasium.wrappers.ResizeObservation": "",
    "gymnasium.wrappers.StickyAction": "last_action is_sticky_actions num_repeats repeats_taken",
    "gymnasium.wrappers.TimeAwareObservation": "timesteps",
    "gymnasium.wrappers.TimeLimit": "_elapsed_steps",
    "gymnasium.wrappers.TransformAction": "",
    "gymnasium.wrappers.TransformObservation": "",
    "gymnasium.wrappers.TransformReward": "",
    "rllib_ppg.envs.FlattenObservations": "",
}
# Derived values that gymnasium's MuJoCo envs read before the next `mj_step`. They can't be computed
# again, because they belong to the positions before the last substep.
_DERIVED = (
    *("xpos", "xipos", "site_xpos", "cinert", "cvel", "cfrc_ext", "qfrc_actuator"),
    *("qfrc_constraint", "ten_length", "ten_velocity"),
)


def get_env_state(env: VectorEnv) -> Any | None:
    """The state of all envs as plain data; None if they can't be saved exactly.

    Raises:
        ValueError: An env's `get_env_state` does not return plain data.
    """
    inner = _vectorizer(env)
    if inner is None:
        return _saved(env)
    # In other modes a reset may be due, which only the process of an async env knows. With
    # SAME_STEP, which `make_vector_env` sets, none is.
    if inner.autoreset_mode != AutoresetMode.SAME_STEP:
        return None
    states: list[Any] = [None]
    if isinstance(inner, SyncVectorEnv):
        states = [_saved(one) for one in inner.envs]
    elif all(inner.call("has_wrapper_attr", "save_env_state")):
        states = list(inner.call("save_env_state"))
    if any(state is None for state in states):
        return None
    kinds = dict.fromkeys(state["env"] for state in states)
    return {"env": f"{len(states)} x {' and '.join(kinds)}", "states": states}


def set_env_state(env: VectorEnv, state: Any) -> None:
    """Restores the state of all envs. They must have been reset once.

    Raises:
        ValueError: It is the state of other envs, or an env refuses it. Reset all envs then.
    """
    now = get_env_state(env)
    here = now["env"] if now else f"{env}, which can't be restored"
    if state["env"] != here:
        raise ValueError(f"the state is of {state['env']}, and not of {here}")
    inner = _vectorizer(env)
    if inner is None:
        refusals = [_restore(env, state)]
    elif isinstance(inner, SyncVectorEnv):
        refusals = [_restore(*both) for both in zip(inner.envs, state["states"], strict=True)]
    else:
        inner.set_attr("env_state_to_restore", state["states"])
        refusals = inner.call("restore_env_state")
    for refusal in filter(None, refusals):
        raise ValueError(f"the state of {state['env']} can't be restored: {refusal}")


class SubEnv(gym.Wrapper):
    """Wrapper of each env in a `SyncVectorEnv` or `AsyncVectorEnv` with SAME_STEP autoreset.

    It gives access to the env's state from another process. It also copies the last observation of
    a truncated episode: both vector envs reset the env before they copy the observation, which
    destroys it if the env reuses one array.
    """

    env_state_to_restore: Any = None

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps the env."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        if truncated:
            obs = copy.deepcopy(obs)
        return obs, reward, terminated, truncated, info

    def set_wrapper_attr(self, name: str, value: Any, *, force: bool = True) -> bool:
        """Sets an attribute of the env, as if this wrapper were not there."""
        if name == "env_state_to_restore":
            return super().set_wrapper_attr(name, value, force=force)
        return self.env.set_wrapper_attr(name, value, force=force)

    def save_env_state(self) -> Any | None:
        """The state of the env, or None."""
        return _saved(self.env)

    def restore_env_state(self) -> str | None:
        """Restores `env_state_to_restore`; returns why that failed, as raising ends the process."""
        state, self.env_state_to_restore = self.env_state_to_restore, None
        return _restore(self.env, state)


def rng_state(generator: np.random.Generator) -> dict[str, Any]:
    """The state of a random generator as plain data."""
    return dict(generator.bit_generator.state)


def set_rng_state(generator: np.random.Generator, state: dict[str, Any]) -> None:
    """Restores what `rng_state` returned.

    Raises:
        ValueError: It is the state of another kind of generator.
    """
    generator.bit_generator.state = state


def _saved(env: gym.Env | VectorEnv) -> dict[str, Any] | None:
    layers = list(_layers(env))
    states = []
    for layer in layers:
        adapter = _adapter(layer)
        state = adapter and adapter[0](layer)
        if state is None:
            return None
        plain_data.check(state, f"the state of {type(layer).__name__}")
        states.append(state)
    rng = layers[-1].np_random
    rng = rng_state(rng) if isinstance(rng, np.random.Generator) else None
    # A copy, since the next step changes some of the arrays.
    return copy.deepcopy({"env": _name(layers), "layers": states, "rng": rng})


def _restore(env: gym.Env | VectorEnv, state: dict[str, Any]) -> str | None:
    """Restores what `_saved` returned; returns why that failed, or None."""
    state = copy.deepcopy(state)
    layers = list(_layers(env))
    try:
        for layer, its_state in zip(layers, state["layers"], strict=True):
            adapter = _adapter(layer)
            assert adapter  # `set_env_state` has compared the envs
            adapter[1](layer, its_state)
        if state["rng"]:
            set_rng_state(layers[-1].np_random, state["rng"])
    except Exception as e:
        return " ".join(f"{e}".split()) or type(e).__name__
    return None


def _layers(env: Any) -> Iterator[Any]:
    """The wrappers from the outermost to the innermost, except `SubEnv`, then the env."""
    while isinstance(env, gym.Wrapper | VectorWrapper):
        if not isinstance(env, SubEnv):
            yield env
        env = env.env
    yield env


def _vectorizer(env: VectorEnv) -> SyncVectorEnv | AsyncVectorEnv | None:
    """The vector env that steps single envs; None for a native vector env."""
    *wrappers, inner = _layers(env)
    stateless = all(_KEPT.get(_key(wrapper)) == "" for wrapper in wrappers)
    # Not a subclass, which may keep more state.
    return inner if type(inner) in (SyncVectorEnv, AsyncVectorEnv) and stateless else None


def _adapter(layer: Any) -> tuple[Callable[[Any], Any], Callable[[Any, Any], None]] | None:
    """The functions that read and write the state of an env or wrapper; None without an adapter."""
    cls, key = type(layer), _key(layer)
    if hasattr(cls, "get_env_state") and hasattr(cls, "set_env_state"):
        return cls.get_env_state, cls.set_env_state
    if key in _KEPT:
        return _attributes, _set_attributes
    if key.startswith("gymnasium.envs.mujoco."):
        return _mujoco, _set_mujoco
    return (get_ale_state, set_ale_state) if key == "ale_py.AtariEnv" else None


def _key(layer: Any) -> str:
    return f"{type(layer).__module__.rpartition('.')[0]}.{type(layer).__qualname__}"


def _attributes(layer: Any) -> dict[str, Any]:
    values = {name: attrgetter(name)(layer) for name in _KEPT[_key(layer)].split()}
    return {name: list(v) if isinstance(v, deque) else v for name, v in values.items()}


def _set_attributes(layer: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        path, _, attribute = name.rpartition(".")
        owner = attrgetter(path)(layer) if path else layer
        now = getattr(owner, attribute)
        if isinstance(now, deque):
            now.clear()  # it keeps its maxlen
            now.extend(value)
        else:
            setattr(owner, attribute, value)


def _mujoco(env: Any) -> dict[str, Any]:
    mujoco = importlib.import_module("mujoco")
    # Includes the accelerations that the solver starts from.
    kind = int(mujoco.mjtState.mjSTATE_INTEGRATION)
    state = np.empty(mujoco.mj_stateSize(env.model, kind))
    mujoco.mj_getState(env.model, env.data, state, kind)
    return {"state": state} | {name: getattr(env.data, name) for name in _DERIVED}


def _set_mujoco(env: Any, saved: dict[str, Any]) -> None:
    mujoco = importlib.import_module("mujoco")
    kind = int(mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_setState(env.model, env.data, saved["state"], kind)
    for name in _DERIVED:
        getattr(env.data, name)[...] = saved[name]


def _name(layers: list[Any]) -> str:
    *wrappers, env = layers
    shown = layers[0].observation_space.shape
    number = f"{env.num_envs} x " if isinstance(env, VectorEnv) else ""
    within = "".join(f" in {type(wrapper).__name__}" for wrapper in reversed(wrappers))
    spec = env.spec.id if env.spec else type(env).__qualname__
    return f"{number}{spec}{within} with observations {shown}"
