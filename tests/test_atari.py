"""Atari's envs against ale_py's own."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from rllib_ppg import PPGConfig
from rllib_ppg.envs import atari
from rllib_ppg.envs.vector_env import make_vector_env

ale_py = pytest.importorskip("ale_py")
RNG = np.random.default_rng(0)


def steps(env, actions, seed=3):
    """All states, rewards, ends and infos of a vector env stepped with `actions` [T, N]."""
    first, _ = env.reset(seed=seed)
    states, *others = zip(*map(env.step, actions), strict=True)
    env.close()
    return np.stack([first, *states]), *others


def test_every_game_of_ale_py_has_an_id():
    theirs = {s.kwargs["game"] for s in gym.registry.values() if s.namespace == "ALE"}
    assert theirs == set(atari.GAMES)
    assert all(f"atari-{game}-v5" in gym.registry for game in theirs)


@pytest.mark.parametrize("colour", [False, True])
def test_states_are_ale_pys_with_the_newest_frame_last(colour):
    actions = RNG.integers(0, 4, (60, 2))
    options = {"grayscale": not colour, "max_num_frames_per_episode": 100}
    ours = gym.make_vec("atari-breakout-v5", num_envs=2, **options)
    theirs = gym.make_vec(
        "ALE/Breakout-v5", 2, vectorization_mode="vector_entry_point",
        autoreset_mode=AutoresetMode.SAME_STEP, **options,
    )  # fmt: skip
    assert ours.single_observation_space.shape == (84, 84, 12 if colour else 4)
    states, rewards, terminated, truncated, infos = steps(ours, actions)
    raw, raw_rewards, raw_terminated, raw_truncated, raw_infos = steps(theirs, actions)
    assert states[0] in ours.observation_space
    C = 3 if colour else 1
    for k in range(4):  # the k-th frame of a stack
        np.testing.assert_array_equal(
            states[..., k * C : (k + 1) * C], raw[:, :, k].reshape(61, 2, 84, 84, C)
        )
    np.testing.assert_array_equal(rewards, raw_rewards)
    np.testing.assert_array_equal(terminated, raw_terminated)
    np.testing.assert_array_equal(truncated, raw_truncated)
    assert np.any(truncated)
    for info, raw_info in zip(infos, raw_infos, strict=True):
        assert ("final_obs" in info) == ("final_obs" in raw_info)
        if "final_obs" in info:
            newest = raw_info["final_obs"][:, 3].reshape(2, 84, 84, C)
            np.testing.assert_array_equal(info["final_obs"][..., -C:], newest)


def test_one_env_shows_what_the_vector_env_shows():
    env = gym.make("atari-pong-v5", max_num_frames_per_episode=60, render_mode="rgb_array")
    check_env(env.unwrapped, skip_render_check=True)
    many = gym.make_vec("atari-pong-v5", num_envs=1, max_num_frames_per_episode=60)
    state, _ = env.reset(seed=5)
    states, _ = many.reset(seed=5)
    np.testing.assert_array_equal(state, states[0])
    for t in range(30):
        action = np.int64(t % 6)
        state, reward, terminated, truncated, _ = env.step(action)
        states, rewards, many_terminated, many_truncated, infos = many.step(np.array([action]))
        assert (reward, terminated, truncated) == (rewards[0], *many_terminated, *many_truncated)
        if truncated:
            np.testing.assert_array_equal(state, infos["final_obs"][0])
            break
        np.testing.assert_array_equal(state, states[0])
    assert truncated
    picture = env.render()
    assert picture.shape == (84, 84, 3) and picture.dtype == np.uint8 and picture.any()


def test_seeds_repeat_episodes():
    def play(seed):
        env = gym.make_vec("atari-breakout-v5", num_envs=2, max_num_frames_per_episode=100)
        return steps(env, np.full((60, 2), 1), seed)[0]

    np.testing.assert_array_equal(play(1), play(1))
    assert not np.array_equal(play(1), play(2))


def test_rewards_are_clipped_unless_told_not_to():
    def best(**options):
        env = gym.make_vec("atari-ms_pacman-v5", num_envs=4, **options)
        return np.max(steps(env, np.full((100, 4), 3))[1])

    assert best() == 1
    assert best(reward_clipping=False) == 10


@pytest.mark.parametrize(
    ("env", "options", "complaint"),
    [
        ("atari-pong-v5", {"graysale": True}, "no option 'graysale'; did you mean 'grayscale'"),
        ("atari-pong-v5", {"batch_size": 2}, "no option 'batch_size'"),
        ("ALE/Pong-v5", {}, "atari-pong-v5 is the same with the frames last"),
        ("atari-pongg-v5", {}, "did you mean 'atari-pong-v5'"),
    ],
)
def test_what_would_go_wrong_is_refused(env, options, complaint):
    config = PPGConfig().environment(env, env_config=options)
    with pytest.raises(ValueError, match=complaint):
        make_vector_env(config)
    with pytest.raises(ValueError, match=complaint):
        config.validate()
