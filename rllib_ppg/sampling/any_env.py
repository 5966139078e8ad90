"""RLlib's env runners with all forms of `env` that PPG's takes."""

from __future__ import annotations

from typing import Any

from rllib_ppg.envs.env_creator import env_creator, find_env
from rllib_ppg.envs.vector_env import check_env_exists


class MakesAnyEnv:
    """Mixin for one of RLlib's env runners; see `envs/env_creator.py`."""

    config: Any

    def make_env(self) -> None:
        """Makes the env, which RLlib knows by gymnasium's id, class or function only.

        Raises:
            ValueError: There is no such env in this process.
        """
        given = self.config.env
        if not self.config.is_multi_agent:
            check_env_exists(self.config)
        self.config.env = env_creator(self.config) or find_env(self.config).id
        try:
            super().make_env()  # type: ignore[misc]
        finally:
            self.config.env = given
