"""A run that was stopped goes on bit for bit as the one that was not."""

import zlib

import numpy as np
import pytest
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from torch import nn

from rllib_ppg import PPGConfig
from rllib_ppg.networks.rl_module import PPGTorchRLModule
from tests.support.algorithms import only_module
from tests.support.comparison import check_same, timeless
from tests.support.envs import AnySpaces, Counting

ITERATIONS = 5  # with N_pi = 2: auxiliary phases end iterations 2 and 4


def rollout_checksum(*, samples, metrics_logger, **_):
    (rollout,) = samples
    columns = (rollout.obs, rollout.actions, rollout.logp, rollout.rewards, rollout.terminated)
    crc = 0
    for column in (*columns, rollout.truncated, rollout.valid, rollout.last_obs):
        crc = zlib.crc32(np.ascontiguousarray(column).tobytes(), crc)
    metrics_logger.log_value("rollout_crc", crc, reduce="max", window=1)


def small(env="CartPole-v1", **training):
    settings = {"n_pi": 2, "e_aux": 2, "num_minibatches": 2, "num_aux_minibatches": 2}
    return (
        PPGConfig()
        .environment(env)
        .env_runners(num_env_runners=1, num_envs_per_env_runner=4, rollout_fragment_length=32)
        .rl_module(model_config={"fcnet_hiddens": [32, 32]})
        .callbacks(on_sample_end=rollout_checksum)
        .training(**settings | training)
        .debugging(seed=3)
    )


def learners_weights(algo):
    def of(learner):
        return {
            k: v.cpu().numpy().copy()
            for k, v in learner.module[DEFAULT_MODULE_ID].state_dict().items()
        }

    return [r.get() for r in algo.learner_group.foreach_learner(of)]


def check_exact(build, config, tmp_path, iterations=3, starts=(1,)):
    """Compares runs that resume after `starts` iterations with the run that was not stopped."""
    algo = build(config)
    after = []
    algo.save_to_path(tmp_path / "0")
    for i in range(1, iterations + 1):
        result = timeless(algo.train())
        after.append((result, learners_weights(algo)))
        algo.save_to_path(tmp_path / str(i))
    assert len({result["env_runners"]["rollout_crc"] for result, _ in after}) == iterations
    algo.stop()
    other = build(config)
    # Also the later ones first, into an algorithm that has trained on.
    for start in reversed(starts):
        other.restore_from_path(tmp_path / str(start))
        for i, (result, weights) in enumerate(after[start:], start=start + 1):
            place = f"from {start}, iteration {i}: "
            trained = timeless(other.train())
            check_same(learners_weights(other), weights, place + "weights")
            check_same(trained, result, place)
    return other


class Dropout(PPGTorchRLModule):
    """Draws from its process's random numbers while it learns."""

    def setup(self):
        super().setup()
        self.dropout = nn.Dropout(0.1)

    def _forward_train(self, batch, **kwargs):
        return super()._forward_train({**batch, "obs": self.dropout(batch["obs"])}, **kwargs)


@pytest.mark.parametrize("num_learners", [0, pytest.param(2, marks=pytest.mark.long)])
def test_in_the_middle_of_a_phase(build, tmp_path, num_learners):
    losses = {"value": 1.0, "reward": 0.5, "dynamics": 0.5, "inverse_dynamics": 0.5}
    averages = {"proximal": "ewma", "adv_ewma_decay": 0.5, "vf_phase": "auxiliary"}
    config = small(aux_losses=losses, **averages, target_kl=0.01, arch="shared").env_runners(
        num_env_runners=2 if num_learners < 2 else 1
    )
    check_exact(build, config.learners(num_learners=num_learners), tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("num_learners", [0, 1, 2])
def test_after_any_iteration(build, tmp_path, num_learners):
    config = small().env_runners(num_env_runners=2 if num_learners < 2 else 1)
    config.learners(num_learners=num_learners)
    check_exact(build, config, tmp_path, ITERATIONS, range(ITERATIONS))


@pytest.mark.parametrize(
    ("iterations", "starts"),
    [(3, [1]), pytest.param(ITERATIONS, range(ITERATIONS), marks=pytest.mark.long)],
    ids=["one iteration", "any iteration"],
)
def test_random_numbers_filter_and_schedules(build, tmp_path, iterations, starts):
    config = small("Pendulum-v1", lr=[[0, 1e-3], [600, 1e-5]], entropy_coeff=[[0, 0.1], [600, 0.0]])
    config.env_runners(observation_filter="MeanStdFilter", gym_env_vectorize_mode="async")
    config.env_runners(num_envs_per_env_runner=2)  # a process each
    config.rl_module(rl_module_spec=RLModuleSpec(module_class=Dropout))
    check_exact(build, config.learners(num_learners=1), tmp_path, iterations, starts)


def test_procgen(build, tmp_path):
    config = small("procgen-starpilot-v0", e_aux=1, replay_compression="lz4")
    config.training(augmentation="random_crop", augmentation_phase="both")
    config.env_runners(num_env_runners=0)
    config.rl_module(model_config={"impala_channels": (4, 8), "impala_dense": 16})
    check_exact(build, config, tmp_path, starts=range(3))


@pytest.mark.long
def test_envs_that_cannot_be_saved_begin_new_episodes(build, tmp_path, caplog):
    config = small(Counting).environment(env_config={"length": 50})
    algo = build(config)
    algo.train()
    algo.save_to_path(tmp_path / "1")
    expected = learners_weights(algo)
    algo.stop()
    other = build(config)
    other.restore_from_path(tmp_path / "1")
    assert "1 of 1 env runners start new episodes" in caplog.text
    assert "can't be saved exactly" in caplog.text
    check_same(learners_weights(other), expected)
    other.train()
    # Episodes of 50 steps: had they gone on from step 32, some would have ended by now.
    assert not other._episodes.episodes


def test_new_episodes_are_not_those_of_the_run_s_start(build, tmp_path):
    config = small(AnySpaces).env_runners(num_env_runners=0)
    algo = build(config)
    first = []
    algo.env_runner.env.reset = lambda reset=algo.env_runner.env.reset, **kw: (
        first.append(reset(**kw)) or first[-1]
    )
    algo.train()
    algo.save_to_path(tmp_path / "1")
    other = build(config)
    other.restore_from_path(tmp_path / "1")
    other.env_runner._reset()
    assert not np.array_equal(other.env_runner._obs, first[0][0])


@pytest.mark.long
def test_more_env_runners_than_before(build, tmp_path, caplog):
    algo = build(small())
    algo.train()
    algo.save_to_path(tmp_path / "1")
    algo.stop()
    other = build(small().env_runners(num_env_runners=2))
    other.restore_from_path(tmp_path / "1")
    assert "1 of 2 env runners start new episodes" in caplog.text
    crcs = other.train()["env_runners"]["rollout_crc"]
    # That was the second iteration of N_pi = 2.
    assert crcs and only_module(other).replay.rows_per_iteration() == []
