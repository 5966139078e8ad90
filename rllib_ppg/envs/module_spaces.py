"""Spaces of the modules of a run, found by making its env and closing it."""

from __future__ import annotations

from typing import NamedTuple

import gymnasium as gym
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils.typing import ModuleID

from rllib_ppg.envs.env_creator import env_creator
from rllib_ppg.envs.spaces import flat_space, is_flat
from rllib_ppg.envs.vector_env import probe_spaces


class ModuleSpaces(NamedTuple):
    """What a module gets and gives.

    Attributes:
        observations: Space of its observations, flattened or packed if PPG does so.
        actions: Space of its actions.
        num_agents: Number of agents of an env that act by it.
    """

    observations: gym.Space
    actions: gym.Space
    num_agents: int = 1


def module_spaces(config: AlgorithmConfig) -> dict[ModuleID, ModuleSpaces]:
    """Spaces of all modules of the run.

    Raises:
        ValueError: The env can't be made, or agents of one module have different spaces.
    """
    if not config.is_multi_agent:
        return {DEFAULT_MODULE_ID: ModuleSpaces(*probe_spaces(config))}
    env = _multi_agent_env(config)
    # A mapping may look at the episode; RLlib tries it with an empty one, too.
    found, episode = dict[ModuleID, ModuleSpaces](), MultiAgentEpisode()
    if not env.possible_agents:
        raise ValueError(f"{type(env).__name__}.possible_agents names no agents")
    for agent in env.possible_agents:
        module_id = config.policy_mapping_fn(agent, episode)
        observations = env.get_observation_space(agent)
        if not is_flat(observations):
            observations = flat_space(observations)
        actions, count = env.get_action_space(agent), 1
        if module_id in found:
            others = found[module_id]
            if (others.observations, others.actions) != (observations, actions):
                raise ValueError(
                    f"agents of the module {module_id!r} have different spaces: "
                    f"{others.observations} and {others.actions}, and agent {agent!r} "
                    f"{observations} and {actions}"
                )
            count += others.num_agents
        found[module_id] = ModuleSpaces(observations, actions, count)
    env.close()
    return found


def _multi_agent_env(config: AlgorithmConfig) -> MultiAgentEnv:
    context = EnvContext(config.env_config, worker_index=0, num_workers=config.num_env_runners)
    creator = None if config.env is None else env_creator(config)
    if creator is None:
        raise ValueError(
            f"{config.env!r} is not a multi-agent env: give its class, as module:Class if you "
            "like, or the name that it is registered by with ray.tune.register_env"
        )
    try:
        env = creator(context)
    except Exception as e:
        raise ValueError(f"env {config.env!r} can't be made: {' '.join(str(e).split())}") from e
    if not isinstance(env, MultiAgentEnv):
        raise ValueError(f"{config.env!r} is not a MultiAgentEnv, and .multi_agent() is set")
    return env
