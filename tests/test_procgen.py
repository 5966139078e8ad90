"""Behaviour of the Procgen envs, mostly against Procgen's own gym3 interface."""

import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from rllib_ppg.envs import procgen
from rllib_ppg.envs.procgen import GAMES, MODES, ProcgenEnv, ProcgenVectorEnv, normalized_return

pytest.importorskip("procgen")
procgen.register()
RNG = np.random.default_rng(0)


def raw_steps(actions, **options):
    """Steps Procgen's own interface; returns frames [T+1, N, ...], rewards and firsts [T, N]."""
    engine = procgen._import_engine_class()(num=actions.shape[1], **options)
    observed = [engine.observe()]
    for action in actions:
        engine.act(action)
        observed.append(engine.observe())
    engine.close()
    rewards, frames, firsts = zip(*observed, strict=True)
    return (
        np.stack([frame["rgb"] for frame in frames]),
        np.stack(rewards[1:]),
        np.stack(firsts[1:]),
    )


def steps(env, actions):
    """Steps a vector env; returns frames, rewards and terminated, [T, N, ...]."""
    frames, rewards, terminated, truncated, infos = zip(*map(env.step, actions), strict=True)
    assert not np.any(truncated) and not any(infos)
    return np.stack(frames), np.stack(rewards), np.stack(terminated)


def first_frames(seed=3, num_envs=4, game="coinrun", **options):
    env = ProcgenVectorEnv(game, num_envs, **options)
    frames, _ = env.reset(seed=seed)
    env.close()
    return frames


@pytest.mark.parametrize("game", GAMES)
def test_every_game_runs(game):
    env = gym.make_vec(f"procgen-{game}-v0", num_envs=4, num_threads=0)
    assert isinstance(env, ProcgenVectorEnv) and env.num_envs == 4
    first, infos = env.reset(seed=1)
    assert first in env.observation_space and first.dtype == np.uint8 and infos == {}
    # Four envs with one seed show four levels, and another game shows other frames. (Leaper shows
    # only part of its level at the start, and different levels can look the same there.)
    assert len({frame.tobytes() for frame in first}) > 1
    assert not np.array_equal(first, first_frames(1, game=GAMES[GAMES.index(game) - 1]))
    frames, rewards, terminated = steps(env, RNG.integers(15, size=(30, 4)))
    assert rewards.dtype == np.float32 and terminated.dtype == bool
    assert frames[-1] in env.observation_space and not np.array_equal(frames[-1], first)
    env.close()
    env.close()


def test_spaces():
    env = ProcgenVectorEnv("maze", 3)
    assert env.single_observation_space == gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    assert env.single_action_space == gym.spaces.Discrete(15)
    assert env.observation_space.shape == (3, 64, 64, 3)
    assert env.action_space == gym.spaces.MultiDiscrete([15, 15, 15])
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP


@pytest.mark.parametrize("num_threads", [0, 2])
def test_same_frames_rewards_and_ends_as_procgen(num_threads):
    # Leaper ends often under random play, and pays at the end of an episode.
    actions = RNG.integers(15, size=(400, 8))
    options = {"distribution_mode": "easy", "num_levels": 5, "start_level": 7}
    raw = raw_steps(actions, env_name="leaper", rand_seed=11, num_threads=0, **options)
    env = ProcgenVectorEnv("leaper", 8, num_threads=num_threads, **options)
    first, _ = env.reset(seed=11)
    assert np.array_equal(first, raw[0][0])
    frames, rewards, terminated = steps(env, actions)
    assert np.array_equal(frames, raw[0][1:])
    assert np.array_equal(rewards, raw[1])
    assert np.array_equal(terminated, raw[2])
    assert terminated.sum() > 10 and rewards.sum() > 0
    assert not rewards[~terminated].any()  # the reward of the ended episode comes with its end


def test_frame_at_an_end_is_the_next_level():
    env = ProcgenVectorEnv("leaper", 1, num_levels=1, distribution_mode="easy")
    first, _ = env.reset(seed=0)
    frames, _, terminated = steps(env, np.full((200, 1), 5))
    assert terminated.any()
    assert all(np.array_equal(frame, first) for frame in frames[terminated[:, 0]])


def test_frames_are_the_callers():
    env = ProcgenVectorEnv("starpilot", 2)
    first, _ = env.reset(seed=0)
    kept = first.copy()
    frame = env.step(np.array([7, 7]))[0]
    frame_kept = frame.copy()
    env.step(np.array([1, 1]))
    assert np.array_equal(first, kept) and np.array_equal(frame, frame_kept)
    frame[:] = 0
    assert env.step(np.array([1, 1]))[0].any()


def test_seeds():
    assert np.array_equal(first_frames(3), first_frames(3))
    assert not np.array_equal(first_frames(3), first_frames(4))
    assert np.array_equal(first_frames(3), first_frames(None, rand_seed=3))
    assert np.array_equal(first_frames(3 + 2**31), first_frames(3))  # more than the engine takes
    assert not np.array_equal(first_frames(None), first_frames(None))


def test_reset():
    env = ProcgenVectorEnv("coinrun", 2)
    first, _ = env.reset(seed=5)
    new, _ = env.reset()
    assert not any(np.array_equal(a, b) for a, b in zip(first, new, strict=True))
    assert np.array_equal(env.reset(seed=5)[0], first)
    assert np.array_equal(env.reset()[0], new)  # follows from the seed too


def test_options_change_the_frames():
    plain = first_frames(num_levels=1)
    assert (plain == plain[0]).all()  # one level
    assert np.array_equal(plain, first_frames(seed=8, num_levels=1))
    for options in (
        {"start_level": 1},
        {"distribution_mode": "easy"},
        {"use_backgrounds": False},
        {"use_monochrome_assets": True},
        {"use_generated_assets": True},
        {"center_agent": False},
        {"paint_vel_info": True},
    ):
        assert not np.array_equal(plain, first_frames(num_levels=1, **options)), options
    assert len({frame.tobytes() for frame in first_frames(num_envs=32, num_levels=3)}) == 3


def test_every_option_reaches_the_engine():
    options = {
        name: not default if isinstance(default, bool) else 1
        for name, default in procgen.OPTIONS.items()
        if name != "distribution_mode"
    }
    env = ProcgenVectorEnv("coinrun", 2, **options)
    env.reset()
    assert {name: env._engine.options[name] for name in options} == options


@pytest.mark.parametrize("mode", ["extreme", "memory", "exploration"])
def test_modes(mode):
    for game in MODES[mode]:
        frames = first_frames(game=game, distribution_mode=mode)
        if mode == "exploration":  # one level for all
            assert (frames == frames[0]).all()
    missing = next(game for game in GAMES if game not in MODES[mode])
    with pytest.raises(ValueError, match=f"{missing} has no {mode} mode; these games have: "):
        ProcgenVectorEnv(missing, distribution_mode=mode)


@pytest.mark.parametrize("num_threads", [0, 2])
def test_state_restores_exactly(num_threads):
    env = ProcgenVectorEnv("leaper", 8, distribution_mode="easy", num_threads=num_threads)
    env.reset(seed=2)
    actions = RNG.integers(15, size=(300, 8))
    frames, _, _ = steps(env, actions[:100])
    saved = env.get_state()
    expected = steps(env, actions[100:])
    assert expected[2].sum() > 8  # the levels that follow are restored too
    other = ProcgenVectorEnv("leaper", 8, distribution_mode="easy")  # never reset
    for restored in (env, other):
        assert np.array_equal(restored.set_state(saved), frames[-1])
        assert restored.get_state() == saved
        for a, b in zip(steps(restored, actions[100:]), expected, strict=True):
            assert np.array_equal(a, b)


def test_state_at_the_end_of_an_episode():
    env = ProcgenVectorEnv("leaper", 1, distribution_mode="easy")
    env.reset(seed=0)
    terminated = [False]
    while not terminated[0]:
        frame, _, terminated, _, _ = env.step(np.array([5]))
    other = ProcgenVectorEnv("leaper", 1, distribution_mode="easy")
    assert np.array_equal(other.set_state(env.get_state()), frame)
    assert np.array_equal(other.step(np.array([5]))[0], env.step(np.array([5]))[0])


def test_refuses_foreign_states():
    """The engine would abort the process, or take over the other env's options."""
    env = ProcgenVectorEnv("leaper", 1)
    env.reset()
    for game, options in (("maze", {}), ("leaper", {"num_levels": 9}), ("ninja", {})):
        other = ProcgenVectorEnv(game, 1, **options)
        other.reset()
        with pytest.raises(ValueError, match="states are not of"):
            other.set_state(env.get_state())
    with pytest.raises(ValueError, match="not of leaper"):
        env.set_state([b"junk"])
    with pytest.raises(ValueError, match="takes 1 states, not 2"):
        env.set_state(env.get_state() * 2)
    generated = ProcgenVectorEnv("leaper", 1, use_generated_assets=True)
    generated.reset()
    with pytest.raises(ValueError, match="cannot save"):
        generated.get_state()
    with pytest.raises(ValueError, match="cannot save"):
        generated.set_state(env.get_state())


@pytest.mark.parametrize(
    ("game", "options", "sentence"),
    [
        ("conrun", {}, "'conrun' is not a Procgen game; did you mean 'coinrun'?"),
        (
            "maze",
            {"num_level": 3},
            "'num_level' is not a Procgen option; did you mean 'num_levels'?",
        ),
        ("maze", {"distribution_mode": "hrd"}, "'hrd' is not a Procgen mode; did you mean 'hard'?"),
        ("maze", {"num_levels": -1}, "num_levels must be an integer from 0 to 2"),
        ("maze", {"start_level": -1, "num_levels": 1}, "start_level must be an integer"),
        ("maze", {"num_threads": -1}, "num_threads must be an integer"),
        ("maze", {"rand_seed": 2**31}, "rand_seed must be an integer"),
        ("maze", {"num_levels": 2.0}, "num_levels must be an integer"),
        ("maze", {"num_levels": None}, "num_levels must be an integer"),
        ("maze", {"num_levels": True}, "num_levels must be an integer"),
        ("maze", {"center_agent": "no"}, "center_agent must be True or False, not 'no'"),
        ("maze", {"num_envs": 0}, "num_envs must be at least 1"),
        ("maze", {"render_mode": "human"}, "render_mode must be None or 'rgb_array'"),
        ("maze", {"start_level": 500}, "start_level=500 has no effect with num_levels=0"),
        ("maze", {"start_level": 2**31 - 1, "num_levels": 1}, "start_level + num_levels must be"),
        ("maze", {"distribution_mode": "exploration", "num_levels": 1}, "one fixed level"),
    ],
)
def test_errors(game, options, sentence):
    with pytest.raises(ValueError) as error:
        ProcgenVectorEnv(game, **options)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_misuse():
    env = ProcgenVectorEnv("maze", 2)
    for call in (lambda: env.step(np.zeros(2, int)), env.render, env.get_state):
        with pytest.raises(gym.error.ResetNeeded):
            call()
    env.reset()
    for actions in ([-1, 0], [0, 15], [0], [[0], [0]]):
        with pytest.raises(ValueError, match="step takes 2 actions from 0 to 14"):
            env.step(np.array(actions))
    engine = env._engine
    env.close()
    assert engine.closed
    with pytest.raises(gym.error.ClosedEnvironmentError):
        env.reset()


def test_render():
    env = gym.make_vec("procgen-maze-v0", num_envs=2, render_mode="rgb_array")
    first, _ = env.reset(seed=0)
    pictures = env.render()
    assert [(p.shape, p.dtype) for p in pictures] == [((512, 512, 3), np.uint8)] * 2
    assert not np.array_equal(*pictures)
    assert np.array_equal(first, first_frames(0, 2, "maze"))  # rendering leaves frames alone
    env = ProcgenVectorEnv("maze")
    env.reset()
    assert env.render() is None


def test_make_and_check_env():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make("procgen-coinrun-v0", render_mode="rgb_array", distribution_mode="easy")
        first, _ = env.reset(seed=3)
        assert np.array_equal(first, first_frames(3, 1, distribution_mode="easy")[0])
        assert env.render().shape == (512, 512, 3)
        for _ in range(300):
            frame, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            assert isinstance(reward, float) and terminated in (True, False) and not truncated
            if terminated:
                assert np.array_equal(env.reset()[0], frame)
        env.close()
        check_env(gym.make("procgen-coinrun-v0").unwrapped)


def test_reset_of_a_single_env():
    env = ProcgenEnv("leaper", distribution_mode="easy")
    vector = ProcgenVectorEnv("leaper", 1, distribution_mode="easy")
    assert np.array_equal(env.reset(seed=1)[0], vector.reset(seed=1)[0][0])
    ends = 0
    for action in np.full(300, 5):
        frame, reward, terminated, _, _ = env.step(action)
        frames, rewards, firsts, _, _ = vector.step(np.array([action]))
        assert np.array_equal(frame, frames[0]) and (reward, terminated) == (rewards[0], firsts[0])
        if terminated:  # no episode is skipped
            ends += 1
            frame[:] = 0  # the env's own copy stays
            assert np.array_equal(env.reset()[0], frames[0])
    assert ends > 3
    terminated = False
    while not terminated:
        frame, _, terminated, _, _ = env.step(5)
    assert np.array_equal(env.reset()[0], frame)
    assert not np.array_equal(env.reset()[0], frame)  # a second reset is a new episode
    while not env.step(5)[2]:
        pass
    first = vector.reset(seed=1)[0][0]
    assert np.array_equal(env.reset(seed=1)[0], first)  # and so is one with a seed


@pytest.mark.parametrize("autoreset_mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_sync_vector_env(autoreset_mode):
    env = gym.make_vec(
        "procgen-leaper-v0",
        num_envs=4,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": autoreset_mode},
        distribution_mode="easy",
    )
    last, _ = env.reset(seed=0)
    assert last.shape == (4, 64, 64, 3)
    ended = np.zeros(4, bool)
    ends = 0
    for _ in range(100):
        frames, _, terminated, _, infos = env.step(np.full(4, 5))
        if autoreset_mode is AutoresetMode.SAME_STEP:  # the reset goes on to the next episode
            for i in terminated.nonzero()[0]:
                assert np.array_equal(frames[i], infos["final_obs"][i])
        else:
            assert np.array_equal(frames[ended], last[ended])
        ended, last = terminated, frames.copy()
        ends += terminated.sum()
    assert ends > 3
    env.close()


def test_time_limit_ends_an_episode():
    env = gym.make("procgen-maze-v0", max_episode_steps=3)
    first, _ = env.reset(seed=0)
    assert [env.step(4)[3] for _ in range(3)] == [False, False, True]
    assert not np.array_equal(env.reset()[0], first)


def test_register():
    before = dict(gym.registry)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        procgen.register()
    assert dict(gym.registry) == before
    assert {f"procgen-{game}-v0" for game in GAMES} <= set(before)
    with pytest.raises(ValueError, match="did you mean 'num_levels'"):
        gym.make("procgen-maze-v0", numlevels=3)


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_nothing_on_stderr_and_nothing_imported_early():
    result = run_python(
        "import sys, gymnasium; from rllib_ppg.envs import procgen; procgen.register()\n"
        "print('procgen' in sys.modules, 'gym' in sys.modules)\n"
        "env = gymnasium.make('procgen-maze-v0'); env.reset(seed=0); env.step(0)\n"
        "env = gymnasium.make_vec('procgen-maze-v0', num_envs=2); env.reset(seed=0)\n"
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "False False\n", "")


def test_says_which_package_is_missing(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "procgen")
    with pytest.raises(
        ValueError, match=r"pip install 'procgen' on Python 3\.10, 'procgen-mirror'"
    ):
        ProcgenVectorEnv("maze")


def test_default_num_threads(monkeypatch):
    cpus = 2
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(cpus), raising=False)
    assert [procgen._default_num_threads(n) for n in (1, 8, 16, 64)] == [0, 0, 2, 2]
    cpus = 64
    assert [procgen._default_num_threads(n) for n in (1, 64)] == [0, 4]
    cpus = 1
    assert procgen._default_num_threads(64) == 0


def test_normalized_return():
    assert normalized_return("coinrun", "hard", 7.5) == 0.5
    assert normalized_return("starpilot", "easy", 64.0) == 1.0
    assert normalized_return("starpilot", "hard", 1.5) == 0.0
    for game, hard in (("jumper", 1.0), ("leaper", 1.5)):
        assert normalized_return(game, "easy", 3.0) == normalized_return(game, "hard", hard) == 0.0
    assert normalized_return("fruitbot", "hard", 13.35) == pytest.approx(0.5)
    assert normalized_return("bigfish", "hard", 50.0) == 1.25  # not clipped
    both = normalized_return("heist", "easy", np.array([3.5, 10.0]))
    assert both.tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match="'memory' is not a mode with published return ranges"):
        normalized_return("heist", "memory", 1.0)
    with pytest.raises(ValueError, match="'hist' is not a Procgen game; did you mean 'heist'"):
        normalized_return("hist", "hard", 1.0)
