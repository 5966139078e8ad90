"""Procgen levels that a policy was trained on, and those that were held out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rllib_ppg.envs.procgen import GAMES, OPTIONS, RETURN_RANGES, Return, normalized_return

ALL = "all levels"
TRAINING = "training levels"
HELD_OUT = "held-out levels"
_LAST_LEVEL = 2**31 - 2  # the engine's limit, see `procgen`


def procgen_game(env: Any) -> str | None:
    """The game of an id `procgen-<game>-v0`; None for other envs."""
    games = {f"procgen-{game}-v0": game for game in GAMES}
    return games.get(env) if isinstance(env, str) else None


def normalized(env: Any, env_config: Mapping[str, Any], returns: Return) -> Return | None:
    """Returns normalised by `procgen.normalized_return`; None if no range is published."""
    mode = env_config.get("distribution_mode", OPTIONS["distribution_mode"])
    game = procgen_game(env)
    if game is None or mode not in RETURN_RANGES[game]:
        return None
    return normalized_return(game, mode, returns)


def which_levels(env_config: Mapping[str, Any]) -> tuple[Any, ...]:
    """A key for an env's levels: mode, `start_level` and `num_levels` (0: all)."""
    keys = ("distribution_mode", "start_level", "num_levels")
    return tuple(env_config.get(key, OPTIONS[key]) for key in keys)


def describe(env_config: Mapping[str, Any]) -> str:
    """Text for the levels of a Procgen env, as in "levels 0 to 199"."""
    _, start, num = which_levels(env_config)
    return f"levels {start} to {start + num - 1}" if num else ALL


def held_out(env_config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The env_config of a Procgen env with all levels after those of the training.

    Returns:
        The env_config; None if the training has all levels.
    """
    _, start, num = which_levels(env_config)
    first = start + num
    if not num or first > _LAST_LEVEL:
        return None
    return {**env_config, "start_level": first, "num_levels": _LAST_LEVEL + 1 - first}
