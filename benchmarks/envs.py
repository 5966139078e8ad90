"""Vector envs that cost next to nothing, so that what is around them shows."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


class Cheap(VectorEnv):
    """Observations from a small bank of random ones; episodes of about 100 steps.

    Config: `observation_space`, `action_space`; RLlib adds `num_envs`.
    """

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, config: dict[str, Any]):
        rng = np.random.default_rng(0)
        self.num_envs = config["num_envs"]
        self.single_observation_space: gym.spaces.Box = config["observation_space"]
        self.single_action_space = config["action_space"]
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        shape = (16, self.num_envs, *self.single_observation_space.shape)
        if self.single_observation_space.dtype == np.uint8:
            self._bank = rng.integers(0, 256, shape, np.uint8)
        else:
            self._bank = rng.normal(size=shape).astype(np.float32)
        self._rewards = rng.normal(size=(16, self.num_envs)).astype(np.float32)
        self._done = rng.random((16, self.num_envs)) < 0.01
        self._never = np.zeros(self.num_envs, bool)
        self._t = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        """The bank's first observations."""
        return self._bank[0], {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, Any, Any, Any, dict]:
        """The bank's next observations, whatever the actions."""
        self._t = t = (self._t + 1) % 16
        return self._bank[t], self._rewards[t], self._done[t], self._never, {}


FRAMES = {
    "observation_space": gym.spaces.Box(0, 255, (64, 64, 3), np.uint8),
    "action_space": gym.spaces.Discrete(15),
}
# As large as HalfCheetah's.
MUJOCO_SIZED = {
    "observation_space": gym.spaces.Box(-10, 10, (17,), np.float32),
    "action_space": gym.spaces.Box(-1, 1, (6,), np.float32),
}
