"""RLlib's env runner, which samples whole episodes for evaluation."""

from __future__ import annotations

from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner


class EvaluationEnvRunner(SingleAgentEnvRunner):
    """RLlib's env runner, as a class of this package.

    A Ray worker therefore imports this package before torch, and its threads wait passively (see
    `resources.shared_machine`).
    """
