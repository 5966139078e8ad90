"""What a config's `env` is, and the function that makes it.

An env is given as

- a class, or "module:Class", "module.Class" or "file.py:Class". A function that returns an env may
  stand for the class;
- a gymnasium id, or "module:Id" if importing the module registers the id;
- a name that `ray.tune.register_env` knows.

Modules and files are found in each process that makes envs: in its folder, or on Python's path, on
which Ray's workers have the folder that the run was started in.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import ray
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_ppg.did_you_mean import did_you_mean
from rllib_ppg.envs.mujoco_warnings import log_mujoco_warnings
from rllib_ppg.import_file import import_file
from rllib_ppg.ray_private import is_registered_env, registered_env

_FORMS = "an env of your own is given as module:Class or file.py:Class"
# What RLlib's users call the one argument that gets all of env_config, as in `env_config`.
_CONFIG_NAMES = ("config", "context", "cfg", "ctx", "")


def env_creator(config: AlgorithmConfig) -> Callable[[EnvContext], Any] | None:
    """The function that makes the config's env; None for an id, which gymnasium makes.

    Raises:
        ValueError: There is no such env (see `find_env`).
    """
    if is_tune_registered(config.env):
        return registered_env(config.env)
    found = find_env(config)
    log_mujoco_warnings(found)
    return None if isinstance(found, EnvSpec) else partial(_make, found)


def make_env(config: AlgorithmConfig, context: EnvContext) -> Any:
    """Makes one env of a config, also in a process that has not seen it before."""
    found = find_env(config)
    log_mujoco_warnings(found)
    if isinstance(found, EnvSpec):
        return gym.make(found, **context)
    return _make(found, context)


def is_tune_registered(env: Any) -> bool:
    """Whether `env` is a name that `ray.tune.register_env` knows."""
    return isinstance(env, str) and is_registered_env(env)


def find_env(config: AlgorithmConfig) -> Any:
    """What `env` names: the spec of a gymnasium id, or whatever a module or file has there.

    Raises:
        ValueError: There is no such env, or its module or file can't be imported.
    """
    env = config.env
    if not isinstance(env, str) or env in gym.registry:
        return gym.spec(env) if isinstance(env, str) else env
    place, name = _split(env)
    if not place:
        return _find_spec(env, env)
    module = _import(env, place, getattr(config, "_env_file", None))
    if hasattr(module, name):
        return getattr(module, name)
    if ":" in env:
        try:
            return _find_spec(env, name)
        except ValueError:
            if "-v" in name:
                raise
    defined = [key for key, value in vars(module).items() if _is_env_class(value, module)]
    if env.endswith(".py"):
        raise ValueError(f"env {env!r}: name its class, as in {env}:{[*defined, 'Corridor'][0]}")
    hint = did_you_mean(name, defined) or (f", it has {', '.join(defined)}" if defined else "")
    raise ValueError(f"env {env!r}: {place} has no {name!r}{hint}")


def env_file(config: AlgorithmConfig) -> str | None:
    """The file that a config's env comes from, if `env` names a module or file."""
    if not isinstance(config.env, str) or config.env in gym.registry:
        return None
    place, _ = _split(config.env)
    with suppress(ValueError):
        return _import(config.env, place, None).__file__ if place else None
    return None


def _split(env: str) -> tuple[str, str]:
    """The module or file that an env is in, and its name there."""
    place, _, name = env.rpartition(":" if ":" in env else ".")
    return (env, "") if env.endswith(".py") else (place, name)


def _find_spec(env: str, name: str) -> EnvSpec:
    try:
        return gym.spec(name)
    except gym.error.Error as e:
        problem = "" if isinstance(e, gym.error.NameNotFound) else f": {' '.join(str(e).split())}"
        hint = did_you_mean(name, gym.registry) or problem
    if env == name and ray.is_initialized() and ray.get_runtime_context().get_task_id():
        raise ValueError(
            f"there is no env {env!r} in Ray's workers, which gymnasium.register of a script does "
            f"not reach: register it with ray.tune.register_env, or give the module that registers "
            f"it, as in module:{name}"
        )
    raise ValueError(f"there is no env {env!r} ({_FORMS}){hint}")


def _import(env: str, place: str, trained_with: str | None) -> ModuleType:
    """Imports the module or file of an env.

    Args:
        env: The env.
        place: The module or file.
        trained_with: The file that it was in training.

    Raises:
        ValueError: There is no such module or file, or it raised an exception.
    """
    before = f"; at training time it was {trained_with}" if trained_with else ""
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        file = _find_file(place)
        if file is None:
            raise ValueError(f"env {env!r}: there is no file {place}{before}")
        imported = sys.modules.get(f"rllib_env_{file.stem}")
        if imported is not None and imported.__file__ == str(file):
            return imported
        return import_file(file, "env")
    except ModuleNotFoundError as e:
        if e.name is not None and f"{place}.".startswith(f"{e.name}."):
            folder = Path.cwd()
            raise ValueError(
                f"env {env!r}: there is no module {e.name} in {folder} or on Python's path{before}"
            ) from None
        raise ValueError(f"env {env!r}: {place} can't be imported: {e}") from e
    except ValueError:
        raise
    except Exception as e:
        raise ValueError(f"env {env!r}: {place} raised {type(e).__name__}: {e}") from e


def _find_file(place: str) -> Path | None:
    folders = [Path.cwd(), *map(Path, sys.path)]
    files = (folder / Path(place).expanduser() for folder in folders)
    return next((file.absolute() for file in files if file.is_file()), None)


def _is_env_class(value: Any, module: ModuleType) -> bool:
    """Whether a value is a class of envs that a module defines."""
    classes = (gym.Env, VectorEnv, MultiAgentEnv)
    is_env = isinstance(value, type) and issubclass(value, classes)
    return is_env and value.__module__ == module.__name__


def _make(maker: Callable[..., Any], context: EnvContext) -> Any:
    """Calls a class or function with RLlib's `EnvContext` or with keyword arguments.

    The signature decides. Gymnasium's own envs have keyword arguments, `(size=5)`. RLlib's have
    one argument that gets all of env_config, `(config)`.

    Raises:
        TypeError: `env_config` does not fit the signature.
    """
    if takes_config(maker, context):
        return maker(context)
    parameters = _parameters(maker)
    kinds = {p.kind for p in parameters.values()}
    unknown = [key for key in context if key not in parameters]
    missing = [p.name for p in parameters.values() if _is_required(p) and p.name not in context]
    name, names = getattr(maker, "__qualname__", repr(maker)), ", ".join(parameters)
    if unknown and inspect.Parameter.VAR_KEYWORD not in kinds:
        raise TypeError(
            f"{name} takes {names or 'no arguments'}, and env_config has {unknown[0]!r}"
            f"{did_you_mean(unknown[0], parameters)}"
        )
    if missing:
        raise TypeError(f"{name} takes {names}, and env_config has no {missing[0]!r}")
    return maker(**context)


def takes_config(maker: Callable[..., Any], env_config: Mapping[str, Any]) -> bool:
    """Whether a class or function gets all of env_config in one argument (see `_make`)."""
    parameters = _parameters(maker)
    first = next(iter(parameters.values()), None)
    if first is None or first.name in env_config:
        return False
    return _is_config(first, parameters, env_config)


def _is_config(
    first: inspect.Parameter,
    parameters: Mapping[str, inspect.Parameter],
    env_config: Mapping[str, Any],
) -> bool:
    """Whether the first parameter of a signature is to get all of env_config."""
    if first.kind == inspect.Parameter.VAR_POSITIONAL:
        return True
    if first.kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        return False
    if first.name.split("_")[-1] in _CONFIG_NAMES or "EnvContext" in str(first.annotation):
        return True
    if len(parameters) == 1 and first.default in (None, {}):  # whatever its name is
        # Nothing is lost without an empty env_config, and `render_mode=None` is no config.
        return bool(env_config) or first.default is not None
    return [p for p in parameters.values() if _is_required(p)] == [first]


def _is_required(p: inspect.Parameter) -> bool:
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return p.default is inspect.Parameter.empty and p.kind not in variable


def _parameters(maker: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a class or function; those of a parent if it takes `*args, **kwargs`."""
    if not isinstance(maker, type):
        return inspect.signature(maker).parameters
    inits = [vars(cls)["__init__"] for cls in maker.__mro__[:-1] if "__init__" in vars(cls)]
    without_self = [dict([*inspect.signature(init).parameters.items()][1:]) for init in inits]
    passed_on = [inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD]
    for parameters in without_self:
        if [p.kind for p in parameters.values()] != passed_on:
            return parameters
    return without_self[0] if without_self else {}
