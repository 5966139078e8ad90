"""The env runner: what it records of envs whose every step is known."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from ray import tune
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.utils.metrics import EPISODE_LEN_MEAN, EPISODE_RETURN_MEAN, NUM_EPISODES

from rllib_ppg import PPGConfig
from rllib_ppg.data.reward_norm import RETURN_GAMMA
from rllib_ppg.envs.vector_env import make_vector_env
from rllib_ppg.sampling.env_contract import EnvStepError
from rllib_ppg.sampling.env_runner import BatchedEnvRunner
from tests.support.envs import Counting, NextStepCounting, OneArray, SameStepCounting

pytestmark = pytest.mark.unit


def make_runner(
    env=Counting, N=2, T=12, worker_index=1, seed=0, mode=None, settings=None, **env_config
):
    config = (
        PPGConfig()
        .environment(env, env_config=env_config)
        .env_runners(num_env_runners=1, num_envs_per_env_runner=N, rollout_fragment_length=T)
        .training(num_minibatches=1, num_aux_minibatches=1)
        .debugging(seed=seed)
    )
    if mode:
        config.env_runners(gym_env_vectorize_mode=mode)
    config.environment(**settings or {})
    return BatchedEnvRunner(config=config, worker_index=worker_index, num_workers=1)


def test_same_step_rollout_of_terminating_episodes():
    runner = make_runner(length=5)
    summary, r = runner.sample_rollout(1)
    assert r.obs.shape == (2, 12, 2)
    for n in range(2):
        assert r.obs[n, :, 0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
        assert np.flatnonzero(r.terminated[n]).tolist() == [4, 9]
    assert r.valid.all() and not r.truncated.any() and len(r.final_obs) == 0
    assert r.last_obs[:, 0].tolist() == [2, 2]
    assert r.env_steps() == 24
    assert summary.modules["default_policy"].rows == [2]


def test_same_step_truncation_brings_the_final_observation():
    _, r = make_runner(length=5, end="truncated").sample_rollout(1)
    assert np.flatnonzero(r.truncated[0]).tolist() == [4, 9]
    assert not r.terminated.any()
    assert r.final_index.tolist() == [[0, 4], [1, 4], [0, 9], [1, 9]]
    assert r.final_obs[:, 0].tolist() == [5, 5, 5, 5]
    assert r.final_obs[:, 1].tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize("mode", ["sync", "async", "vector_entry_point"])
@pytest.mark.parametrize("env", [OneArray, "OneArray-v0"])
def test_the_final_observation_of_an_env_that_writes_into_one_array(env, mode):
    gym.register("OneArray-v0", entry_point=lambda **config: OneArray(config))
    runner = make_runner(env, mode=mode, length=5, end="truncated")
    _, r = runner.sample_rollout(1)
    assert r.final_obs.tolist() == [[5, 1], [5, 1], [5, 2], [5, 2]]
    assert r.obs[0, :7, 0].tolist() == [0, 1, 2, 3, 4, 0, 1]
    runner.stop()


def test_the_final_observations_of_a_vector_env_that_writes_into_one_array():
    class OneFinalArray(SameStepCounting):
        final = np.zeros((2, 2), np.float32)

        def step(self, actions):
            length, episode = self.envs[0].length, self.envs[0].episode
            obs, rewards, terminated, truncated, infos = super().step(actions)
            if truncated.any():
                self.final[:] = length, episode
                infos["final_obs"] = self.final
            return obs, rewards, terminated, truncated, infos

    _, r = make_runner(OneFinalArray, length=5, end="truncated").sample_rollout(1)
    assert r.final_obs.tolist() == [[5, 1], [5, 1], [5, 2], [5, 2]]


def test_next_step_resets_are_no_transitions():
    runner = make_runner(NextStepCounting, N=2, T=9, length=3, end="truncated")
    _, r = runner.sample_rollout(1)
    assert r.obs[0, :, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert np.flatnonzero(~r.valid[0]).tolist() == [3, 7]
    assert np.flatnonzero(r.truncated[0]).tolist() == [2, 6]
    assert r.env_steps() == 2 * 7
    assert len(r.final_obs) == 0  # the next observation is the final one


def test_a_pending_reset_carries_over_to_the_next_rollout():
    runner = make_runner(NextStepCounting, N=1, T=3, length=3)
    _, first = runner.sample_rollout(1)
    _, second = runner.sample_rollout(1)
    assert first.terminated[0].tolist() == [False, False, True]
    assert first.last_obs[0, 0] == second.obs[0, 0, 0] == 3
    assert second.valid[0].tolist() == [False, True, True]
    assert second.obs[0, :, 0].tolist() == [3, 0, 1]


@pytest.mark.parametrize("env", [Counting, NextStepCounting])
def test_episodes_and_steps_are_counted_alike_in_both_modes(env):
    summary, r = make_runner(env, N=3, T=24, length=3).sample_rollout(1)
    resets = 0 if env is Counting else 6
    assert r.env_steps() == 3 * (24 - resets)
    assert [(e.length, e.ret) for e in summary.episodes] == [(3, 3.0)] * (3 * (24 - resets) // 3)
    assert summary.metrics[NUM_EPISODES].peek() == len(summary.episodes)


def test_rllibs_own_metrics_call_has_the_episodes_too():
    runner = make_runner(N=2, length=3)
    runner.sample(num_timesteps=24)
    metrics = runner.get_metrics()
    assert metrics[EPISODE_RETURN_MEAN].peek() == metrics[EPISODE_LEN_MEAN].peek() == 3


def test_the_next_rollout_starts_where_the_last_one_ended():
    runner = make_runner(length=100, T=4)
    _, a = runner.sample_rollout(1)
    _, b = runner.sample_rollout(1)
    np.testing.assert_array_equal(a.last_obs, b.obs[:, 0])


@pytest.mark.parametrize("env", [Counting, NextStepCounting])
def test_discounted_returns_restart_with_episodes_and_skip_resets(env):
    """Rewards of 1 in episodes of 3 steps: 1, 1 + g, 1 + g + g^2, and again."""
    g = RETURN_GAMMA
    episode = np.array([1.0, 1.0 + g, 1.0 + g + g * g])
    for _ in range(2):
        runner = make_runner(env, N=2, T=12, length=3)
        summary, r = runner.sample_rollout(1)
        returns = np.tile(episode, 2 * r.env_steps() // 6)
        assert summary.modules["default_policy"].returns.count == len(returns)
        assert summary.modules["default_policy"].returns.mean == pytest.approx(
            returns.mean(), rel=1e-6
        )
        assert (
            pytest.approx(len(returns) * returns.var(), rel=1e-5)
            == summary.modules["default_policy"].returns.M2
        )


def test_logp_is_that_of_the_recorded_action():
    runner = make_runner()
    _, r = runner.sample_rollout(1)
    obs = torch.from_numpy(r.obs.reshape(-1, 2))
    logits = runner.module.forward_exploration({"obs": obs})["action_dist_inputs"]
    logp = torch.log_softmax(logits, -1)[torch.arange(len(obs)), r.actions.ravel()]
    np.testing.assert_allclose(r.logp.ravel(), logp.numpy(), rtol=1e-4, atol=1e-5)
    assert len(np.unique(r.actions)) == 2


def test_without_exploration_the_likeliest_action_is_taken():
    runner = make_runner()
    (r,) = runner.sample(explore=False)
    obs = torch.from_numpy(r.obs.reshape(-1, 2))
    logits = runner.module.forward_inference({"obs": obs})["action_dist_inputs"]
    assert (r.actions.ravel() == logits.argmax(-1).numpy()).all()


def rollout_of(**kwargs):
    return make_runner("CartPole-v1", N=3, T=20, mode="sync", **kwargs).sample_rollout(1)[1]


def test_seeds():
    a, same, other = rollout_of(), rollout_of(), rollout_of(seed=1)
    np.testing.assert_array_equal(a.obs, same.obs)
    np.testing.assert_array_equal(a.actions, same.actions)
    assert not np.array_equal(a.obs, other.obs)
    assert not np.array_equal(rollout_of(seed=None).obs, rollout_of(seed=None).obs)


def test_env_runners_do_not_share_sub_env_seeds():
    """gymnasium gives sub-env i the seed s + i: neighbouring seeds would overlap."""
    first = np.concatenate([rollout_of(worker_index=w).obs[:, 0] for w in (1, 2, 3)])
    assert len(np.unique(first, axis=0)) == 9


BOX = gym.spaces.Box(np.array([-3.0, 0.0], np.float32), np.array([1.0, 10.0], np.float32))


def env_actions(**settings):
    runner = make_runner(N=1, T=64, mode="sync", settings=settings, action_space=BOX)
    _, r = runner.sample_rollout(1)
    return r.actions[0], np.array(runner.env.envs[0].unwrapped.actions)


def test_normalized_actions_reach_the_env_unsquashed():
    policy, env = env_actions(normalize_actions=True)
    expected = np.clip(BOX.low + (policy + 1) * (BOX.high - BOX.low) / 2, BOX.low, BOX.high)
    np.testing.assert_allclose(env, expected, rtol=1e-5)
    assert (np.abs(policy) > 1).any()  # what is recorded is what the policy drew


def test_clipped_and_raw_actions():
    policy, env = env_actions(normalize_actions=False, clip_actions=True)
    np.testing.assert_allclose(env, np.clip(policy, BOX.low, BOX.high))
    policy, env = env_actions(normalize_actions=False, clip_actions=False)
    np.testing.assert_array_equal(env, policy)


def test_discrete_actions_that_do_not_start_at_zero():
    runner = make_runner(N=1, T=32, action_space=gym.spaces.Discrete(2, start=5))
    runner.sample_rollout(1)
    assert set(runner.env.envs[0].unwrapped.actions) == {5, 6}


def vector_env(env, mode):
    config = PPGConfig().environment(env)
    config.env_runners(num_envs_per_env_runner=2, gym_env_vectorize_mode=mode)
    made = make_vector_env(config)
    made.close()
    return made


def test_native_vector_envs_are_used_where_there_are_some():
    native = "vector_entry_point"
    assert type(vector_env("CartPole-v1", native)).__name__ == "CartPoleVectorEnv"
    assert isinstance(vector_env(NextStepCounting, native), NextStepCounting)
    assert isinstance(vector_env("Pendulum-v1", native), SyncVectorEnv)
    assert isinstance(vector_env("CartPole-v1", "sync"), SyncVectorEnv)
    assert isinstance(vector_env("CartPole-v1", "async"), AsyncVectorEnv)
    assert isinstance(vector_env(Counting, "async"), AsyncVectorEnv)


def test_env_creators_get_their_config_and_place():
    def creator(context):
        env = Counting(context)
        env.made_with = (context["length"], context.worker_index, context.vector_index)
        return env

    tune.register_env("counting-by-name", creator)
    runner = make_runner("counting-by-name", N=3, worker_index=4, length=7)
    assert runner.env.get_attr("made_with") == ((7, 4, 0), (7, 4, 1), (7, 4, 2))
    runner.env.set_attr("stage", [1, 2, 3])  # as a curriculum's callback would
    assert [e.unwrapped.stage for e in runner.env.envs] == [1, 2, 3]


def test_rllibs_sampling_call():
    runner = make_runner(N=2, length=5)
    assert sum(r.env_steps() for r in runner.sample(num_timesteps=7)) == 8
    episodes = runner.sample(num_episodes=5)
    assert 5 <= sum(int(r.terminated.sum()) for r in episodes) <= 6
    assert episodes[0].obs[0, 0, 0] == 0
    assert sum(r.agent_steps() for r in episodes) == sum(r.env_steps() for r in episodes)
    (r,) = runner.sample(num_timesteps=40, random_actions=True, force_reset=True)
    assert len(np.unique(r.actions)) == 2 and r.obs[0, 0, 0] == 0


@pytest.mark.parametrize("nan_at", [3, 5])  # 5: the last observation of a truncated episode
def test_nan_observation_names_the_place(nan_at):
    runner = make_runner(N=1, length=5, end="truncated", nan_at=nan_at)
    with pytest.raises(ValueError, match="NaN or infinite observation from env 0 of env runner 1"):
        runner.sample_rollout(1)


@pytest.mark.parametrize("env", [Counting, NextStepCounting])
def test_nan_reward_names_the_place_and_ends_the_episodes(env, monkeypatch):
    step, lives = Counting.step, []

    def nan_once(self, action):
        obs, reward, *rest = step(self, action)
        lives.append(self.life)
        return obs, float("nan") if len(lives) == 4 else reward, *rest

    monkeypatch.setattr(Counting, "step", nan_once)
    runner = make_runner(env, N=1, length=5)
    with pytest.raises(ValueError, match=r"NaN or infinite reward from env 0 .* step 3 of the"):
        runner.sample_rollout(1)
    _, r = runner.sample_rollout(1)  # from new episodes; the interrupted ones are dropped
    assert r.obs[0, :, 0].tolist()[:5] == [0, 1, 2, 3, 4]
    assert r.valid[0, :5].all() and r.terminated[0, 4]


def test_a_failing_env_is_an_error_or_made_again():
    with pytest.raises(EnvStepError, match="the cable broke"):
        make_runner(N=1, fail_at=4).sample_rollout(1)

    class FailsOnce(Counting):
        lives = 0

        def __init__(self, config=None):
            FailsOnce.lives += 1
            super().__init__({"fail_at": 4 if FailsOnce.lives == 1 else None})

    runner = make_runner(FailsOnce, N=1, T=12)
    runner.config.restart_failed_sub_environments = True
    _, r = runner.sample_rollout(1)
    assert FailsOnce.lives == 2 and r.valid.all() and r.obs[0, 0, 0] == 0


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_env_runner_can_be_asked_again_after_its_envs_have_failed(mode):
    runner = make_runner(N=2, T=3, length=9, fail_at=4, mode=mode)
    runner.sample_rollout(1)
    with pytest.raises(EnvStepError, match="the cable broke"):
        runner.sample_rollout(1)
    _, r = runner.sample_rollout(1)
    assert r.obs[:, :, 0].tolist() == [[0, 1, 2]] * 2
    runner.stop()


def test_a_killed_process_of_an_env_is_started_again():
    """With the second of two gone, gymnasium would wait for the first when it closes them."""
    runner = make_runner(N=2, T=3, mode="async")
    runner.config.restart_failed_sub_environments = True
    runner.sample_rollout(1)
    runner.env.unwrapped.processes[1].kill()
    _, r = runner.sample_rollout(1)
    assert r.obs[:, :, 0].tolist() == [[0, 1, 2]] * 2
    runner.stop()


def test_seeds_of_episodes_are_used_once():
    """By envs that are made again, and by an env runner that Ray has restarted."""

    def first_obs(runner, env_steps):
        _, r = runner.sample_rollout(1, env_steps)
        return r.obs[:, 0].tobytes()

    class FailsInStep4(CartPoleEnv):
        def __init__(self, config=None):
            super().__init__()
            self.steps = 0

        def step(self, action):
            self.steps += 1
            assert self.steps < 4
            return super().step(action)

    runner = make_runner(FailsInStep4, N=2, T=3)
    runner.config.restart_failed_sub_environments = True
    seen = {first_obs(runner, 0), first_obs(runner, 6)}
    for env_steps in (0, 6, 12):
        seen.add(first_obs(make_runner(FailsInStep4, T=3), env_steps))
    assert len(seen) == 4  # that of a run's start comes again


def test_state_carries_weights_by_sequence_number():
    a, b = make_runner(seed=0), make_runner(seed=1)
    weights = {k: v + 1 for k, v in a.module.get_state().items()}

    def same():
        state = b.module.get_state()
        return all(np.array_equal(state[k], v) for k, v in weights.items())

    b._weights_seq_no = 5
    b.set_state({COMPONENT_RL_MODULE: weights, "weights_seq_no": 4})
    assert not same()
    b.set_state({COMPONENT_RL_MODULE: weights, "weights_seq_no": 0})
    assert same()
