"""Envs that go on where others were: compared, bit for bit, with those others."""

import copy
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from ray import tune

from rllib_ppg import PPGConfig
from rllib_ppg.checkpoint import plain_data
from rllib_ppg.envs.atari import get_ale_state, set_ale_state
from rllib_ppg.envs.env_state import get_env_state, rng_state, set_env_state, set_rng_state
from rllib_ppg.envs.vector_env import FlattenObservations, make_vector_env

N = 2
MUJOCO = [
    *("Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedPendulum"),
    *("InvertedDoublePendulum", "Pusher", "Reacher", "Swimmer", "Walker2d"),
]


def maker(env, mode="vector_entry_point", num_envs=N, **env_config):
    """A function that makes vector envs as an env runner does."""
    config = PPGConfig().environment(env, env_config=env_config)
    config.env_runners(num_envs_per_env_runner=num_envs, gym_env_vectorize_mode=mode)
    return lambda: make_vector_env(config)


def registered(creator, mode="sync"):
    tune.register_env("env_state_test", lambda config: creator())
    return maker("env_state_test", mode)


def through_a_file(state, tmp_path):
    plain_data.save(tmp_path / "state.npz", state)
    return plain_data.load(tmp_path / "state.npz")


def check_same(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a.keys() - {"t"}:  # an episode's seconds
            check_same(a[key], b[key])
    elif isinstance(a, tuple | list) or (isinstance(a, np.ndarray) and a.dtype.hasobject):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            check_same(x, y)
    else:
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a, b)


def play(env, actions):
    return [copy.deepcopy(env.step(action)) for action in actions]


def check_goes_on(make, tmp_path, before=25, after=130, change=lambda state: None):
    """Compares an env that was saved, one that was restored and one that was left alone."""
    saved, restored, alone = make(), make(), make()
    saved.action_space.seed(0)
    actions = [saved.action_space.sample() for _ in range(before + after)]
    try:
        first = saved.reset(seed=3)
        check_same(alone.reset(seed=3), first)
        restored.reset(seed=4)
        check_same(play(alone, actions[:before]), play(saved, actions[:before]))
        state = through_a_file(get_env_state(saved), tmp_path)
        untouched = copy.deepcopy(state)
        change(state)
        set_env_state(restored, state)
        went_on = play(saved, actions[before:])
        check_same(play(alone, actions[before:]), went_on)
        check_same(play(restored, actions[before:]), went_on)
        ends = sum(np.sum(terminated | truncated) for _, _, terminated, truncated, _ in went_on)
        assert ends >= 3 * N
        # Nor have the steps changed the state that was handed in: it restores a second time.
        change(untouched)
        check_same(state, untouched)
        set_env_state(restored, state)
        check_same(play(restored, actions[before:][:20]), went_on[:20])
    finally:
        for env in (saved, restored, alone):
            env.close()


@pytest.mark.parametrize("mode", ["vector_entry_point", "sync", "async"])
@pytest.mark.parametrize("env", ["CartPole-v1", "procgen-bigfish-v0"])
def test_in_every_way_to_step_them(env, mode, tmp_path):
    if env.startswith("procgen"):
        pytest.importorskip("procgen")
    check_goes_on(maker(env, mode), tmp_path, after=800 if env.startswith("procgen") else 200)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_inside_flattened_observations(mode, tmp_path):
    make = maker("Blackjack-v1", mode)
    env = make()
    assert isinstance(env, FlattenObservations)
    env.close()
    check_goes_on(make, tmp_path)


@pytest.mark.parametrize(
    "env",
    [
        *("MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1", "Acrobot-v1"),
        *("CliffWalking-v1", "CliffWalkingSlippery-v1", "FrozenLake-v1", "Taxi-v3"),
    ],
)
def test_gymnasiums_small_envs(env, tmp_path):
    config = {"fickle_passenger": True, "is_rainy": True} if env == "Taxi-v3" else {}
    check_goes_on(maker(env, max_episode_steps=30, **config), tmp_path)


@pytest.mark.parametrize("name", MUJOCO)
@pytest.mark.parametrize("version", ["v4", "v5"])
def test_mujoco(name, version, tmp_path):
    mujoco = pytest.importorskip("mujoco")
    if (name, version) == ("Pusher", "v4") and mujoco.__version__ >= "3":
        pytest.skip("gymnasium has Pusher-v4 for older versions of mujoco")
    contacts = {"use_contact_forces": True} if (name, version) == ("Ant", "v4") else {}
    check_goes_on(maker(f"{name}-{version}", max_episode_steps=40, **contacts), tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {},
        # Much hangs on the action before, which ALE's own states leave out.
        {"repeat_action_probability": 0.6},
        {"frameskip": (2, 5), "obs_type": "ram"},
    ],
)
def test_ale(options, tmp_path):
    gym.register_envs(pytest.importorskip("ale_py"))

    def make():
        env = gym.make("ALE/Breakout-v5", max_num_frames_per_episode=100, **options)
        return wrappers.FrameStackObservation(env, 2)

    check_goes_on(registered(make), tmp_path)


def test_ale_as_gymnasiums_wrapper_shows_it(tmp_path, monkeypatch):
    gym.register_envs(pytest.importorskip("ale_py"))

    class Cv2:  # which need not be there
        INTER_AREA = 0

        @staticmethod
        def resize(frame, size, interpolation):
            return frame[: size[1], : size[0]]

    monkeypatch.setitem(sys.modules, "cv2", Cv2)

    def make():
        env = gym.make("ALE/Breakout-v5", frameskip=1, max_num_frames_per_episode=160)
        return wrappers.AtariPreprocessing(env, terminal_on_life_loss=True)

    check_goes_on(registered(make), tmp_path)


def test_the_action_that_ale_may_repeat_is_restored():
    gym.register_envs(pytest.importorskip("ale_py"))
    # Most actions are dropped for the one before.
    options = {"repeat_action_probability": 0.6, "frameskip": 1}
    envs = [gym.make("ALE/Breakout-v5", **options) for _ in range(4)]
    left, right = 3, 2
    for k, env in enumerate(envs):
        env.reset(seed=k)
        for _ in range(30):
            env.step(left if k % 2 else right)
        other = gym.make("ALE/Breakout-v5", **options)
        other.reset(seed=99)
        set_ale_state(other.unwrapped, get_ale_state(env.unwrapped))
        for _ in range(10):
            check_same(other.step(0), env.step(0))


def test_no_exactness_is_claimed_for_ale_where_ale_has_none():
    gym.register_envs(pytest.importorskip("ale_py"))
    makers = [
        maker("atari-pong-v5"),
        maker("ALE/Tetris-v5", "sync"),
        maker("ALE/Breakout-v5", "sync", continuous=True),
    ]
    for make in makers:
        env = make()
        env.reset(seed=0)
        assert get_env_state(env) is None
        env.close()


WRAPPERS = {
    "ClipAction": lambda e: wrappers.ClipAction(e),
    "DelayObservation": lambda e: wrappers.DelayObservation(e, 4),
    "FrameStackObservation": lambda e: wrappers.FrameStackObservation(e, 3),
    "MaxAndSkipObservation": lambda e: wrappers.MaxAndSkipObservation(e, 3),
    "NormalizeObservation": lambda e: wrappers.NormalizeObservation(e),
    "NormalizeReward": lambda e: wrappers.NormalizeReward(e),
    "RecordEpisodeStatistics": lambda e: wrappers.RecordEpisodeStatistics(e, 5),
    "RescaleAction": lambda e: wrappers.RescaleAction(e, -1, 1),
    "StickyAction": lambda e: wrappers.StickyAction(e, 0.5, (2, 4)),
    "TimeAwareObservation": lambda e: wrappers.TimeAwareObservation(e),
    "TransformReward": lambda e: wrappers.TransformReward(e, lambda r: r / 2),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_gymnasiums_wrappers(name, tmp_path):
    def make():
        return WRAPPERS[name](gym.make("Pendulum-v1", max_episode_steps=20))

    check_goes_on(registered(make), tmp_path)


class Drifting(gym.Env):
    """A walk with the wind, which has random numbers of its own; another way home each time."""

    observation_space = gym.spaces.Dict(at=gym.spaces.Box(-np.inf, np.inf, (2,), np.float64))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, config=None):
        self.wind = np.random.default_rng(1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.wind = np.random.default_rng([seed, 1])
        self.position = self.np_random.normal(size=2)
        self.end = 5 + self.np_random.integers(10)
        return {"at": self.position.copy()}, {}

    def step(self, action):
        self.position += self.wind.normal(size=2) + action
        self.end -= 1
        return {"at": self.position.copy()}, 1.0, bool(self.end == 0), False, {}


class Telling(Drifting):
    def get_env_state(self):
        return {"position": self.position, "end": int(self.end), "wind": rng_state(self.wind)}

    def set_env_state(self, state):
        self.position, self.end = state["position"], state["end"]
        set_rng_state(self.wind, state["wind"])


class Delay(gym.Wrapper):
    """Each action is the one before it, of this or the last episode."""

    last = 0

    def step(self, action):
        last, self.last = self.last, int(action)
        return self.env.step(last)


class TellingDelay(Delay):
    def get_env_state(self):
        return self.last

    def set_env_state(self, state):
        self.last = state


class ManyWalks(VectorEnv):
    """All walks at once, of one generator: SAME_STEP autoreset."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 (gymnasium's way)

    def __init__(self, config):
        self.num_envs = config["num_envs"]
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
        self.single_action_space = gym.spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.normal(size=(self.num_envs, 1))
        return self.x.copy(), {}

    def step(self, actions):
        self.x += actions[:, None]
        done = self.x[:, 0] > 5
        self.x[done] = self.np_random.normal(size=(done.sum(), 1))
        return self.x.copy(), done.astype(float), done, np.zeros_like(done), {}

    def get_env_state(self):
        return {"x": self.x}

    def set_env_state(self, state):
        self.x = state["x"]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_env_of_ones_own(mode, tmp_path):
    check_goes_on(maker(Telling, mode), tmp_path)


def test_a_wrapper_of_ones_own(tmp_path):
    check_goes_on(registered(lambda: TellingDelay(Telling())), tmp_path)


def test_a_vector_env_of_ones_own(tmp_path):
    check_goes_on(maker(ManyWalks), tmp_path)


@pytest.mark.parametrize("env", ["CartPole-v1", Telling])
@pytest.mark.parametrize("mode", ["sync", "vector_entry_point"])
def test_without_the_random_numbers_it_would_not_be_so(env, mode, tmp_path):
    def forget(state):
        for one in state.get("states", [state]):
            one["rng"] = None

    with pytest.raises(AssertionError, match="Arrays are not equal"):
        check_goes_on(maker(env, mode), tmp_path, change=forget)


class MyCartPole(CartPoleEnv):
    """Might keep anything."""


class Silent(Telling):
    def get_env_state(self):
        return None


@pytest.mark.parametrize(
    "creator",
    [
        Drifting,
        Silent,
        MyCartPole,
        lambda: Delay(gym.make("CartPole-v1")),
        lambda: TellingDelay(Drifting()),
    ],
)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_what_is_not_known_is_not_saved(creator, mode):
    env = registered(creator, mode)()
    env.reset(seed=0)
    assert get_env_state(env) is None
    env.step(env.action_space.sample())
    env.close()


def test_a_reset_that_is_due_is_not_saved():
    env = SyncVectorEnv([lambda: gym.make("CartPole-v1")])  # NEXT_STEP
    env.reset(seed=0)
    assert get_env_state(env) is None


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({"a": [1, {2}]}, "the state of Odd holds a set, which is not plain data"),
        ({"a": np.array([None])}, "the state of Odd holds a ndarray, which is not plain data"),
        ({1: 2}, "the state of Odd has the key 1, where plain data have text"),
    ],
)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_only_plain_data_are_taken(data, complaint, mode):
    class Odd(Telling):
        def get_env_state(self):
            return data

    env = maker(Odd, mode)()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=complaint):
        get_env_state(env)
    env.close()


@pytest.mark.parametrize(
    ("there", "here", "complaint"),
    [
        (maker("CartPole-v1"), maker("CartPole-v1", num_envs=3), "2 x .* not of 3 x CartPole-v1"),
        (maker("CartPole-v1"), maker("CartPole-v1", "sync"), "not of .* in TimeLimit"),
        (maker("Acrobot-v1"), maker("Pendulum-v1"), r"Acrobot-v1 .* \(6,\), and not of .*\(3,\)"),
        (maker("Acrobot-v1"), maker(Drifting), "not of .*SyncVectorEnv.*, which can't be restored"),
    ],
)
def test_states_of_other_envs_are_refused(there, here, complaint):
    there, here = there(), here()
    there.reset(seed=0)
    here.reset(seed=0)
    with pytest.raises(ValueError, match=complaint):
        set_env_state(here, get_env_state(there))
    there.close()
    here.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_env_that_refuses_a_state_can_still_begin_anew(mode):
    class Choosy(Telling):
        def set_env_state(self, state):
            raise KeyError("pressure")

    env = maker(Choosy, mode)()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"the state of 2 x .*Choosy .* can't be .*'pressure'"):
        set_env_state(env, get_env_state(env))
    env.reset()
    env.step(env.action_space.sample())
    env.close()


def test_states_of_another_game_are_refused():
    pytest.importorskip("procgen")
    there, here = (maker("procgen-maze-v0", num_levels=k)() for k in (0, 5))
    there.reset(seed=0)
    here.reset(seed=0)
    with pytest.raises(ValueError, match="states are not of maze with the options of this env"):
        set_env_state(here, get_env_state(there))
    there.close()
    here.close()
