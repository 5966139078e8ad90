"""How a script without Ray makes the env that a policy was trained on.

Gymnasium's ids and a user's own classes are made as they are. The ids of Procgen's and Atari's
games are this package's, so scripts step the engines behind them.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from rllib_ppg.envs.env_creator import find_env, is_tune_registered, takes_config
from rllib_ppg.envs.procgen_levels import procgen_game
from rllib_ppg.evaluation.trained_policy import TrainedPolicy

_PACKAGES = "import numpy as np\nimport onnxruntime"


class ScriptEnv(NamedTuple):
    """How a script makes an env.

    Attributes:
        template: Name of the script's template.
        name: What the script calls the env.
        code: The expression that makes it.
        imports: The script's imports from outside the standard library.
    """

    template: str
    name: str
    code: str
    imports: str = f"import gymnasium\n{_PACKAGES}"


class NotPlayable(Exception):  # noqa: N818 (it is no error)
    """Why a script can't play the env."""


def script_env(policy: TrainedPolicy) -> ScriptEnv:
    """How a script makes the env that the policy was trained on.

    Raises:
        NotPlayable: It can't.
    """
    config = policy.config_with()
    if config.is_multi_agent:
        raise NotPlayable("it is one of the policies of a multi-agent env")
    env, env_config = config.env, config.env_config
    if _literal(env_config) is None:
        raise NotPlayable("the settings of its env are more than data")
    if (game := procgen_game(env)) is not None:
        return ScriptEnv("procgen", game, _gym3(game, env_config))
    if is_tune_registered(env):
        raise NotPlayable(f"its env, {env!r}, is known to Ray only")
    try:
        found = find_env(config)
    except ValueError as e:
        raise NotPlayable(str(e)) from e
    if isinstance(found, EnvSpec):
        if str(found.vector_entry_point).startswith("rllib_ppg.envs.atari:"):
            options = found.kwargs | env_config
            game = options.pop("game")
            code = call("AtariVectorEnv(", [f'"{game}"', "1", *_keywords(options.items())], ")")
            return ScriptEnv("atari", game, code)
        code = call("gymnasium.make(", [json.dumps(env), *_keywords(env_config.items())], ")")
        return ScriptEnv("gymnasium", env, f'{code}  # with render_mode="human" you see it')
    name, module = found.__qualname__, found.__module__.removeprefix("rllib_env_")
    if module == "__main__" or "<" in name:
        raise NotPlayable(f"its env, {name}, is in no module that could be imported")
    if isinstance(found, type) and issubclass(found, VectorEnv | MultiAgentEnv):
        raise NotPlayable(f"its env, {name}, is not a single gymnasium env")
    config_code = _keywords(env_config.items())
    if takes_config(found, env_config):
        config_code = [repr(_literal(env_config))]
    outer = name.partition(".")[0]
    return ScriptEnv(
        "gymnasium",
        name,
        call(f"{name}(", config_code, ")"),
        f"{_PACKAGES}\n\nfrom {module} import {outer}  # your env, on Python's path",
    )


def _gym3(game: str, env_config: Mapping[str, Any]) -> str:
    options = {key: x for key, x in env_config.items() if x is not None}
    options |= {"rand_seed": 0}
    if options.get("distribution_mode") == "exploration":  # Procgen has one level for it
        options = {k: x for k, x in options.items() if k not in ("num_levels", "start_level")}
    parts = ["num=1", f'env_name="{game}"', *_keywords(options.items())]
    return call("ProcgenGym3Env(", parts, ")")


def _keywords(items: Iterable[tuple[str, Any]]) -> list[str]:
    return [f"{key}={value!r}" for key, value in items]


def _literal(env_config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings of an env as Python can write them; None if some are no data."""
    try:
        literal: dict[str, Any] = ast.literal_eval(repr(dict(env_config)))
        return literal
    except (ValueError, SyntaxError):
        return None


def call(start: str, parts: list[str], end: str) -> str:
    """A call or literal: on one line if it is short."""
    one_line = f"{start}{', '.join(parts)}{end}"
    if len(one_line) < 90:
        return one_line
    return "\n".join([start, *(f"    {part}," for part in parts), end])
