"""Small envs whose every number is known beforehand."""

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


class Counting(gym.Env):
    """Observation: [seconds into the episode, episode]. Reward 1 a step.

    Config: `length` of an episode, `end` "terminated" or "truncated", `fail_at` a step in the
    env's life to raise at, `nan_at` one whose observation is NaN.
    """

    def __init__(self, config=None):
        config = dict(config or {})
        self.length = config.get("length", 5)
        self.end = config.get("end", "terminated")
        self.fail_at = config.get("fail_at")
        self.nan_at = config.get("nan_at")
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = config.get("action_space", gym.spaces.Discrete(2))
        self.t = self.episode = self.life = 0
        self.actions = []

    def _obs(self):
        return np.array([self.t, self.episode], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.episode += 1
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        self.life += 1
        self.actions.append(action)
        if self.life == self.fail_at:
            raise RuntimeError("the cable broke")
        done = self.t >= self.length
        obs = self._obs() * (np.nan if self.life == self.nan_at else 1.0)
        return obs, 1.0, done and self.end == "terminated", done and self.end == "truncated", {}


class KeywordCounting(Counting):
    """`Counting` with a keyword argument, as gymnasium's own envs have them."""

    def __init__(self, length=5):
        super().__init__({"length": length})


class OneArray(Counting):
    """Returns the same array at each step, and clears it for the next episode."""

    def __init__(self, config=None):
        super().__init__(config)
        self.array = np.zeros(2, np.float32)

    def _obs(self):
        self.array[:] = self.t, self.episode
        return self.array

    def reset(self, **kwargs):
        self.array.fill(0)
        return super().reset(**kwargs)

    def step(self, action):
        _, *rest = super().step(action)
        return self.array, *rest


class NextStepCounting(VectorEnv):
    """`Counting` as a native vector env that resets in the step after an episode's end."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 (gymnasium's way)

    def __init__(self, config=None):
        config = dict(config or {})
        num_envs = config.pop("num_envs")
        self.envs = [Counting(config) for _ in range(num_envs)]
        self.num_envs = num_envs
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._done = np.zeros(num_envs, bool)

    def reset(self, *, seed=None, options=None):
        self._done[:] = False
        return np.stack([e.reset()[0] for e in self.envs]), {}

    def step(self, actions):
        rows = [
            (e.reset()[0], 0.0, False, False) if done else e.step(a)[:4]
            for e, a, done in zip(self.envs, actions, self._done, strict=True)
        ]
        obs, rewards, terminated, truncated = (np.array(x) for x in zip(*rows, strict=True))
        self._done = terminated | truncated
        return obs, rewards, terminated, truncated, {}


class SameStepCounting(NextStepCounting):
    """... and one that resets in the step of an episode's end."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def step(self, actions):
        rows = [e.step(a)[:4] for e, a in zip(self.envs, actions, strict=True)]
        obs, rewards, terminated, truncated = (np.array(x) for x in zip(*rows, strict=True))
        for n in np.flatnonzero(terminated | truncated):
            obs[n] = self.envs[n].reset()[0]
        return obs, rewards, terminated, truncated, {}


class Target(gym.Env):
    """One-step episodes; the reward is -(action - 0.5)^2, so that 0.5 is to be learned."""

    def __init__(self, config=None):
        self.observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gym.spaces.Box(-3.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        reward = -float((action[0] - 0.5) ** 2)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), reward, True, False, {}


class AnySpaces(gym.Env):
    """Observations drawn from `observation_space`; refuses actions that are not of `action_space`.

    Config: the two spaces, `length` of an episode.
    """

    def __init__(self, config=None):
        config = dict(config or {})
        self.observation_space = config.get("observation_space", gym.spaces.Box(-1, 1, (3,)))
        self.action_space = config.get("action_space", gym.spaces.Discrete(4))
        self.length = config.get("length", 5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        if not self.action_space.contains(action):
            raise ValueError(f"{action!r} is no action of {self.action_space}")
        self.t += 1
        return self.observation_space.sample(), 1.0, self.t >= self.length, False, {}


class Masked(gym.Env):
    """Some actions are forbidden in each state, and raise; the reward is 1 for the highest allowed.

    Config: `action_space`, `image` (whether the observation is one), `key` beside the mask.
    """

    def __init__(self, config=None):
        config = dict(config or {})
        self.action_space = config.get("action_space", gym.spaces.Discrete(5))
        self._key = config.get("key", "observations")
        is_discrete = isinstance(self.action_space, gym.spaces.Discrete)
        self._sizes = [self.action_space.n] if is_discrete else self.action_space.nvec
        n = int(np.sum(self._sizes))
        self._image = config.get("image", False)
        shape, dtype = ((8, 8, 1), np.uint8) if self._image else ((n,), np.float32)
        self.observation_space = gym.spaces.Dict({
            self._key: gym.spaces.Box(0, 255 if self._image else 1, shape, dtype),
            "action_mask": gym.spaces.Box(0, 1, (n,), np.int8),
        })  # fmt: skip

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._t = 0
        return self._observe(), {}

    def _observe(self):
        parts = [self.np_random.integers(0, 2, size) for size in self._sizes]
        for part in parts:
            part[self.np_random.integers(len(part))] = 1
        self._mask = np.concatenate(parts).astype(np.int8)
        shape = self.observation_space[self._key].shape
        obs = np.zeros(shape, np.uint8) if self._image else self._mask.astype(np.float32)
        return {self._key: obs, "action_mask": self._mask}

    def step(self, action):
        start, reward = 0, 0.0
        counted = np.atleast_1d(action - self.action_space.start)
        for a, size in zip(counted, self._sizes, strict=True):
            allowed = np.flatnonzero(self._mask[start : start + size])
            if a not in allowed:
                raise RuntimeError(f"{a} is forbidden")
            reward += float(a == allowed.max()) / len(self._sizes)
            start += size
        self._t += 1
        return self._observe(), reward, self._t >= 10, False, {}
