"""PPG on a live Ray: the phase clock, who holds what, checkpoints, Tune, and what stops a run."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
import tree
from ray.rllib.core import DEFAULT_MODULE_ID

from rllib_ppg import PPG, PPGCallback, PPGConfig
from rllib_ppg.data.compression import Compressed
from tests.support.algorithms import learner_metrics, only_module, small, weights
from tests.support.comparison import assert_equal
from tests.support.envs import Counting, NextStepCounting


@pytest.fixture(scope="module")
def at_start(build_for_module, tmp_path_factory):
    """Makes a function that brings one algorithm, built once, back to where it was then."""

    def make(config):
        algo = build_for_module(config)
        start = algo.save_to_path(tmp_path_factory.mktemp("start") / "checkpoint")

        def bring_back():
            algo.restore_from_path(start)
            return algo

        return bring_back

    return make


@pytest.fixture(scope="module")
def with_local_learner(at_start):
    return at_start(small(runners=2))


@pytest.fixture(scope="module")
def with_remote_learner(at_start):
    return at_start(small(runners=2).learners(num_learners=1))


@pytest.fixture
def two_runners(with_local_learner):
    """An algorithm with two env runners that has not trained."""
    return with_local_learner()


@pytest.fixture
def remote_learner(with_remote_learner):
    """The same with a learner in a process of its own."""
    return with_remote_learner()


def runner_weights(algo):
    def get(runner):
        return {k: v.cpu().numpy() for k, v in runner.module.state_dict().items()}

    return algo.env_runner_group.foreach_env_runner(get)


class Epochs(PPGCallback):
    def on_aux_epoch_end(self, *, algorithm, metrics_logger, module_id, epoch, num_epochs):
        metrics_logger.log_value("aux_epochs_seen", epoch, reduce="max", window=10)
        metrics_logger.log_value("e_aux_seen", num_epochs, reduce="max", window=10)


def test_phase_clock(build):
    algo = build(small(n_pi=3, runners=0).callbacks(Epochs))
    results = [algo.train() for _ in range(6)]
    assert [r["ppg"]["policy_iteration"] for r in results] == [1, 2, 3, 1, 2, 3]
    assert [r["ppg"]["num_aux_phases_lifetime"] for r in results] == [0, 0, 1, 1, 1, 2]
    assert ["aux" in learner_metrics(r) for r in results] == [False, False, True] * 2
    assert [r["ppg"]["replay_states"] for r in results[3:]] == [
        sum(r["env_runners"]["num_env_steps_sampled"] for r in results[3:i]) for i in (4, 5, 6)
    ]
    assert results[2]["aux_epochs_seen"] == results[2]["e_aux_seen"] == 2
    steps = [s["step"] for s in optimizer_states(algo, "aux")]
    assert set(map(int, steps)) == {2 * 2 * 2 * 3}  # phases x E_aux x minibatches x N_pi
    aux = learner_metrics(results[5])["aux"]
    terms = {"vf_aux_loss", "vf_loss", "clone_kl", "vf_aux_explained_var"}
    assert set(aux) == terms | {"epoch_1", "epoch_2", "saturated_units"}
    assert set(aux["epoch_1"]) == terms
    assert {
        "policy_loss",
        "vf_loss",
        "entropy",
        "vf_explained_var",
        "clip_fraction",
        "approx_kl",
    } <= (set(learner_metrics(results[0])))
    timers = {"env_runner_sampling_timer", "policy_phase", "auxiliary_phase", "synch_weights"}
    assert timers <= set(results[5]["timers"])


def optimizer_states(algo, name):
    state = algo.learner_group.get_state("learner/optimizer")["learner"]["optimizer"]
    return state[f"{DEFAULT_MODULE_ID}_{name}"]["state"]["state"].values()


@pytest.mark.parametrize("learner", ["two_runners", "remote_learner"])
def test_env_runners_follow_the_learner_and_hold_the_policy_only(request, learner):
    algo = request.getfixturevalue(learner)
    for _ in range(2):  # the second iteration ends in an auxiliary phase
        before = weights(algo)
        algo.train()
        after = weights(algo)
        assert any((before[k] != after[k]).any() for k in before)
        for held in runner_weights(algo):
            assert_equal(held, weights(algo, ("pi_encoder", "pi")))


def test_a_remote_learner_does_what_a_local_one_does(two_runners, remote_learner):
    local, remote = two_runners, remote_learner
    remote.learner_group.set_weights(local.learner_group.get_weights())
    remote._force_weights()
    for _ in range(3):
        a, b = local.train(), remote.train()
        assert (
            a["env_runners"]["num_env_steps_sampled"] == b["env_runners"]["num_env_steps_sampled"]
        )
        for key in ("policy_loss", "vf_loss", "entropy", "vf_explained_var"):
            assert learner_metrics(a)[key] == pytest.approx(learner_metrics(b)[key], rel=1e-3), key
    assert_equal(weights(local), weights(remote), rtol=1e-3, atol=1e-5)


def test_without_remote_env_runners(build):
    algo = build(small(runners=0))
    results = [algo.train() for _ in range(2)]
    assert results[-1]["ppg"]["num_aux_phases_lifetime"] == 1
    assert results[-1]["num_env_steps_sampled_lifetime"] > 0


def test_states_are_in_the_object_store_and_the_driver_has_references(two_runners):
    algo = two_runners
    algo.train()
    [entries] = only_module(algo).replay.iterations
    assert len(entries) == 2
    assert all(isinstance(e.ref, ray.ObjectRef) for e in entries)
    blocks = [ray.get(e.ref) for e in entries]
    assert all(b.obs.shape == (4, 16, 4) for b in blocks)
    assert [e.info.states for e in entries] == [int(b.valid.sum()) for b in blocks]
    assert [list(e.info.rows) for e in entries] == [[0, 2, 4, 6], [1, 3, 5, 7]]


@pytest.mark.parametrize("off", [{"n_pi": 0}, {"e_aux": 0}])
def test_without_auxiliary_phases_it_is_ppo(build, off):
    algo = build(small(runners=0, **off))
    results = [algo.train() for _ in range(3)]
    assert len(only_module(algo).replay) == 0
    assert not any("aux" in learner_metrics(r) for r in results)
    before = build(small(runners=0, **off))
    assert_equal(weights(algo, ["vf_aux"]), weights(before, ["vf_aux"]))  # same seed, never trained


def test_reward_normalisation_sees_all_env_runners(build, two_runners):
    steps = two_runners.train()["env_runners"]["num_env_steps_sampled"]
    assert steps > 4 * 16  # more than one of them has
    count = only_module(two_runners).reward_norm.moments.count
    assert count == pytest.approx(steps, abs=1e-3)  # and the prior's 1e-4
    off = build(small(Counting, runners=0, normalize_rewards=False))
    off.train()
    assert only_module(off).reward_norm.scale == pytest.approx(1.0)


def test_episode_metrics_are_over_the_last_hundred_episodes(build):
    class Growing(Counting):
        def step(self, action):
            obs, _, *rest = super().step(action)
            return obs, float(self.episode), *rest

    config = small(Growing, runners=2)
    config.environment(env_config={"length": 2})
    algo = build(config)
    means = [algo.train()["env_runners"]["episode_return_mean"] for _ in range(3)]
    # Episodes 1..8 of each env end in iteration one, 9..16 in the next; each returns 2x its number.
    assert means[0] == pytest.approx(2 * np.mean(range(1, 9)))
    envs, env_runners = range(4), range(2)
    iterations = (range(1, 9), range(9, 17))
    ended = [
        2 * e for iteration in iterations for _ in env_runners for e in iteration for _ in envs
    ]
    last_hundred = ended[-100:]
    assert means[1] == pytest.approx(np.mean(last_hundred))
    long = small(Counting, runners=0)
    long.environment(env_config={"length": 20})
    algo = build(long)
    seen = [algo.train()["env_runners"].get("episode_return_mean") for _ in range(4)]
    assert seen == [None, 20, 20, 20]  # also in iterations in which no episode ends


def test_checkpoint_in_the_middle_of_a_phase(two_runners, tmp_path):
    algo = two_runners
    for _ in range(3):
        algo.train()
    path = algo.save_to_path(tmp_path / "checkpoint")
    restored = PPG.from_checkpoint(path)
    try:
        assert_equal(weights(restored), weights(algo))
        assert only_module(restored).reward_norm.moments == only_module(algo).reward_norm.moments
        assert list(restored._episodes.episodes) == list(algo._episodes.episodes)
        (saved,), (loaded,) = (
            only_module(algo).replay.iterations,
            only_module(restored).replay.iterations,
        )
        for a, b in zip(saved, loaded, strict=True):
            np.testing.assert_array_equal(ray.get(a.ref).obs, ray.get(b.ref).obs)
            np.testing.assert_array_equal(
                ray.get(a.ref).columns["V_targ"], ray.get(b.ref).columns["V_targ"]
            )
            np.testing.assert_array_equal(a.info.rows, b.info.rows)
        for name in ("default_optimizer", "aux"):
            for a, b in zip(
                optimizer_states(algo, name), optimizer_states(restored, name), strict=True
            ):
                np.testing.assert_array_equal(a["exp_avg"], b["exp_avg"])
        for held in runner_weights(restored):
            assert_equal(held, weights(algo, ("pi_encoder", "pi")))
        a, b = algo.train(), restored.train()
        assert b["training_iteration"] == a["training_iteration"] == 4
        assert b["ppg"]["policy_iteration"] == 2
        assert b["ppg"]["num_aux_phases_lifetime"] == 2
        assert b["num_env_steps_sampled_lifetime"] == pytest.approx(
            a["num_env_steps_sampled_lifetime"], abs=64
        )
    finally:
        restored.stop()


def test_an_older_checkpoint_moves_a_live_algorithm_back(two_runners, tmp_path):
    algo = two_runners
    algo.train()
    old = weights(algo)
    path = algo.save_to_path(tmp_path / "old")
    for _ in range(2):
        algo.train()
    algo.restore_from_path(path)
    assert_equal(weights(algo), old)
    assert len(only_module(algo).replay) == 1
    for held in runner_weights(algo):
        assert_equal(held, weights(algo, ("pi_encoder", "pi")))
    algo.train()
    for held in runner_weights(algo):
        assert_equal(held, weights(algo, ("pi_encoder", "pi")))


def test_weights_set_from_outside_are_followed(two_runners):
    algo = two_runners
    for _ in range(3):
        algo.train()
    algo.learner_group.set_weights(algo.learner_group.get_weights())
    algo.train()
    for held in runner_weights(algo):
        assert_equal(held, weights(algo, ("pi_encoder", "pi")))


def test_a_remote_learners_checkpoint(build, remote_learner, tmp_path):
    algo = remote_learner
    algo.train()
    path, saved = algo.save_to_path(tmp_path / "checkpoint"), weights(algo)
    other = build(small(runners=0))  # other numbers of learners and env runners
    other.restore_from_path(path)
    assert_equal(weights(other), saved)
    assert other.train()["ppg"]["num_aux_phases_lifetime"] == 1
    longer = small(runners=0).env_runners(rollout_fragment_length=32)
    with pytest.raises(ValueError, match="rollout_fragment_length=16, not 32"):
        build(longer).restore_from_path(path)


@pytest.mark.parametrize("then", [None, "lz4"])
def test_a_checkpoint_of_compressed_observations(build, tmp_path, then):
    """It holds them as they are, for a run with or without compression."""
    algo = build(small(replay_compression="lz4", runners=0))
    algo.train()
    path = algo.save_to_path(tmp_path / "checkpoint")
    restored = build(small(runners=0, replay_compression=then))
    restored.restore_from_path(path)
    (saved,), (loaded,) = (
        only_module(algo).replay.iterations,
        only_module(restored).replay.iterations,
    )
    for a, b in zip(saved, loaded, strict=True):
        kept = ray.get(b.ref)
        assert isinstance(kept.obs, Compressed) == (then == "lz4")
        np.testing.assert_array_equal(kept.decompressed().obs, ray.get(a.ref).decompressed().obs)
    assert restored.train()["ppg"]["num_aux_phases_lifetime"] == 1


def test_what_is_no_checkpoint(build, tmp_path):
    algo = build(small(runners=0))
    with pytest.raises(ValueError, match="is not a checkpoint"):
        algo.restore_from_path(tmp_path)
    path = Path(algo.save_to_path(tmp_path / "saved"))
    (path / "ppg_checkpoint.json").unlink()
    with pytest.raises(ValueError, match=r"no ppg_checkpoint.json .*saving was cut off"):
        algo.restore_from_path(path)


def test_get_module_acts(build):
    algo = build(small(runners=0))
    algo.train()
    out = algo.get_module().forward_inference({"obs": torch.zeros(1, 4)})
    assert out["action_dist_inputs"].shape == (1, 2)


def test_stored_states_outlive_the_next_rollout(build):
    """The env runner, here in the same process, writes each rollout into the same memory."""
    sampled = []
    config = small(runners=0, n_pi=3).callbacks(
        on_sample_end=lambda *, samples, **_: sampled.append(samples[0].obs.copy())
    )
    algo = build(config)
    for _ in range(2):
        algo.train()
    assert not np.array_equal(*sampled)
    for obs, (entry,) in zip(sampled, only_module(algo).replay.iterations, strict=True):
        np.testing.assert_array_equal(ray.get(entry.ref).obs, obs)


def test_too_few_cpus_is_said_at_once(cluster):
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"asks for 9 CPUs.*has 8.*set num_env_runners=8"):
        small(runners=9).build_algo()
    with pytest.raises(ValueError, match=r"asks for 1 GPUs.*has 0.*num_gpus_per_learner"):
        small().learners(num_learners=1, num_gpus_per_learner=1).build_algo()
    assert time.perf_counter() - start < 10


def test_too_large_a_replay_list_is_said_at_once(cluster):
    config = (
        PPGConfig()
        .environment("procgen-coinrun-v0")
        .env_runners(num_env_runners=1, num_envs_per_env_runner=64)
    )
    with pytest.raises(ValueError, match=r"takes 6.4 GB.*has 0.3 GB.*n_pi=1 .*replay_may_spill"):
        config.build_algo()
    request = PPG.default_resource_request(config.training(replay_may_spill=True))
    assert len(request.bundles) == 2


def test_nan_observations_stop_the_run_and_name_the_env(build):
    config = small(Counting)
    config.environment(env_config={"nan_at": 18})
    algo = build(config)
    algo.train()
    before = weights(algo)
    with pytest.raises(ValueError, match="NaN or infinite observation from env 0 of env runner 1"):
        algo.train()
    assert_equal(weights(algo), before)


@pytest.mark.faults
def test_training_goes_on_when_an_env_runner_dies(build):
    algo = build(small(Counting, runners=2))
    algo.train()
    ray.kill(algo.env_runner_group._worker_manager.actors()[1], no_restart=False)
    result = algo.train()
    assert result["env_runners"]["num_env_steps_sampled"] in (4 * 16, 2 * 4 * 16)
    assert algo.train()["ppg"]["num_aux_phases_lifetime"] == 1


class Stuck(Counting):
    """The first env runner's first env waits in its step 20 for someone to open the pipe."""

    def __init__(self, context):
        super().__init__()
        waits = (context.worker_index, context.vector_index) == (1, 0)
        self.pipe = context["pipe"] if waits else None

    def step(self, action):
        if self.pipe and self.life == 20:
            self.pipe, pipe = None, self.pipe
            open(pipe).close()
        return super().step(action)


@pytest.mark.long
def test_training_goes_on_without_a_stuck_env_runner_until_it_answers(build, tmp_path):
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    config = small(Stuck, runners=2).env_runners(num_envs_per_env_runner=2, sample_timeout_s=2)
    config.fault_tolerance(env_runner_health_probe_timeout_s=0.5)
    config.environment(env_config={"pipe": pipe})
    algo = build(config)
    steps = [algo.train()["env_runners"]["num_env_steps_sampled"] for _ in range(3)]
    assert steps == [2 * 2 * 16, 2 * 16, 2 * 16]
    with open(pipe, "w"):
        pass
    for _ in range(20):
        if algo.train()["env_runners"]["num_env_steps_sampled"] == 2 * 2 * 16:
            break
    else:
        pytest.fail("the env runner never came back into service")
    for held in runner_weights(algo):
        assert_equal(held, weights(algo, ("pi_encoder", "pi")))


def test_next_step_envs_train(build):
    result = build(small(NextStepCounting, runners=0)).train()
    # Episodes of 5 steps and a reset: steps 0..15 of a row hold resets at 5 and 11.
    assert result["env_runners"]["num_env_steps_sampled"] == 4 * 14
    assert learner_metrics(result)["num_module_steps_trained"] == 4 * 14


def test_procgen_through_two_auxiliary_phases(build):
    config = small("procgen-coinrun-v0", e_aux=1).rl_module(
        model_config={"impala_channels": (4, 8), "impala_dense": 16}
    )
    config.environment(env_config={"distribution_mode": "easy"})
    algo = build(config)
    results = [algo.train() for _ in range(4)]
    assert results[-1]["ppg"]["num_aux_phases_lifetime"] == 2
    frames = 2 * 4 * 16  # states of two iterations, of 64 x 64 x 3 bytes, targets and masks
    assert results[-1]["ppg"]["replay_bytes"] == frames * (64 * 64 * 3 + 4 + 1)
    aux = learner_metrics(results[-1])["aux"]
    assert np.isfinite(tree.flatten(aux)).all() and 0 <= aux["clone_kl"] < 0.1
