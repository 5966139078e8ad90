"""RLlib's env runners, which sample whole episodes for evaluation.

As classes of this package: a Ray worker imports it before torch then, and its threads wait
passively (see `resources.shared_machine`).
"""

from __future__ import annotations

from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from rllib_ppg.sampling.any_env import MakesAnyEnv


class EvaluationEnvRunner(MakesAnyEnv, SingleAgentEnvRunner):
    """RLlib's env runner of single-agent envs."""


class MultiAgentEvaluationEnvRunner(MakesAnyEnv, MultiAgentEnvRunner):
    """RLlib's env runner of multi-agent envs."""
