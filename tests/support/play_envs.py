"""Envs whose returns under a known policy, and whose pictures, are known beforehand."""

import itertools

import gymnasium as gym
import numpy as np

from tests.support.envs import NextStepCounting


class Uneven(gym.Env):
    """Reward 1 a step; every other copy has episodes of 2 steps, the others of 30."""

    number = itertools.count()

    def __init__(self, config=None):
        self.observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.length = (2, 30)[next(self.number) % 2]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        done = self.t >= self.length
        return np.zeros(2, np.float32), 1.0, done, False, {}


class NextStepUneven(NextStepCounting):
    """... as a native vector env that resets in the step after an episode's end."""

    def __init__(self, config=None):
        super().__init__(config)
        self.envs = [Uneven() for _ in range(self.num_envs)]


class Paid(gym.Env):
    """The reward is the action, or the first number of it; episodes have 4 steps.

    Config: `action_space`, and a `bonus` added to each reward.
    """

    def __init__(self, config=None):
        config = dict(config or {})
        self.observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = config.get("action_space", gym.spaces.Discrete(3, start=5))
        self.bonus = config.get("bonus", 0.0)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.ones(2, np.float32), {}

    def step(self, action):
        self.t += 1
        reward = float(np.ravel(action)[0]) + self.bonus
        return np.ones(2, np.float32), reward, self.t >= 4, False, {}


class Painted(gym.Env):
    """Episodes of 3 steps, reward 1.5 each; the picture's grey level is 40 per step so far."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 (gymnasium's way)

    def __init__(self, config=None):
        self.render_mode = dict(config or {}).get("render_mode")
        self.observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(2, np.float32), 1.5, self.t >= 3, False, {}

    def render(self):
        return np.full((64, 48, 3), 40 * self.t, np.uint8)


class Frames(Painted):
    """Observations are four grey frames, the last of them `Painted`'s; it draws no pictures."""

    metadata = {}  # noqa: RUF012

    def __init__(self, config=None):
        super().__init__()
        self.observation_space = gym.spaces.Box(0, 255, (16, 16, 4), np.uint8)

    def reset(self, **kwargs):
        super().reset(**kwargs)
        return self._obs(), {}

    def step(self, action):
        return self._obs(1), *super().step(action)[1:]

    def _obs(self, ahead=0):
        levels = (9, 9, 9, 40 * (self.t + ahead))
        return np.stack([np.full((16, 16), level, np.uint8) for level in levels], axis=-1)
