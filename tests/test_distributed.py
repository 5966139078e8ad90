"""Several learners: the same result as one, one copy of every state, and one error for all."""

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import psutil
import pytest
import ray
import torch
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError, WorkerCrashedError
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.tune.utils import flatten_dict

from rllib_ppg.checkpoint.folder import draft, local_copy, read_manifest
from rllib_ppg.checkpoint.replay_files import load_replay, save_replay
from rllib_ppg.data.minibatches import interleave_row_ids, shard_cuts
from rllib_ppg.data.replay import ReplayBlock, ReplayEntry, ReplayList
from rllib_ppg.data.rollout import ModuleSummary, RolloutSummary, SampledRollout
from rllib_ppg.data.running_moments import Moments
from rllib_ppg.driver.learner_pool import LearnerLostError, failure_of
from rllib_ppg.learner import PPGTorchLearner
from rllib_ppg.learning.collectives import CollectiveError
from rllib_ppg.learning.replay_reader import BlockReader
from tests.support.algorithms import learner_states, only_module, several
from tests.support.comparison import check_same, timeless
from tests.support.learners import OBS, Float64Module, make_rollout

METRICS = (
    "policy_loss", "vf_loss", "vf_clone_loss", "entropy", "vf_explained_var", "approx_kl",
    "sampled_kl", "importance_clip_fraction", "policy_epochs_done", "target_kl_stopped",
)  # fmt: skip


def run_phases(algo, *env_runner_rows, obs=OBS):
    """A policy phase of two iterations and an auxiliary phase on rollouts that do not change.

    Returns what the learners hold after each of the three, all metrics, and the replay list.
    """
    states = []
    for i in range(2):
        rollouts = []
        n = max(algo.config.num_learners, 1)
        for j, numbers in enumerate(interleave_row_ids(env_runner_rows)):
            r = make_rollout(seed=10 * i + j, rows=len(numbers), obs=obs)
            shards = r.split(shard_cuts(numbers, sum(env_runner_rows), n))
            of_module = ModuleSummary([len(s) for s in shards], Moments.of(r.rewards[r.valid]))
            summary = RolloutSummary({}, [], {DEFAULT_MODULE_ID: of_module})
            rollouts.append(SampledRollout(summary, {DEFAULT_MODULE_ID: shards}))
        algo._policy_phase(only_module(algo), rollouts)
        states.append(learner_states(algo))
    iterations = [
        [(e.learner, list(e.info.rows)) for e in it] for it in only_module(algo).replay.iterations
    ]
    algo._auxiliary_phase(only_module(algo))
    of_module = algo.metrics.peek(("learners", DEFAULT_MODULE_ID))
    metrics = {name: of_module[name] for name in METRICS if name in of_module} | flatten_dict(
        of_module["aux"]
    )
    return [*states, learner_states(algo)], metrics, iterations


@pytest.mark.parametrize(
    "num_learners",
    [pytest.param(1, marks=pytest.mark.long), 2, pytest.param(3, marks=pytest.mark.long)],
)
def test_any_number_of_learners_does_what_one_does(build, num_learners):
    def double(num_learners):
        config = several(num_learners, e_v=2, segment_length=4)
        return config.rl_module(rl_module_spec=RLModuleSpec(module_class=Float64Module))

    one, many = build(double(0)), build(double(num_learners))
    # Uneven shards, env runners of one row, and with two rows in all: learners that get none.
    for env_runner_rows in [(6,), (5, 2), (1, 1, 1), (2,)]:
        expected_states, expected_metrics, _ = run_phases(one, *env_runner_rows)
        states, metrics, iterations = run_phases(many, *env_runner_rows)
        for (weights, grads), (w_expected, g_expected) in zip(states, expected_states, strict=True):
            assert grads.keys() == g_expected.keys()
            for name in grads:
                for g, expected in zip(grads[name], g_expected[name], strict=True):
                    assert np.abs(g - expected).max() <= 1e-5 * np.abs(expected).max(), name
            for name, w in weights.items():
                np.testing.assert_allclose(w, w_expected[name], rtol=1e-5, atol=1e-7)
        assert metrics == pytest.approx(expected_metrics, rel=1e-4, abs=1e-6)
        for blocks in iterations:  # each row is with one learner, and once
            assert {learner for learner, _ in blocks} <= set(range(num_learners))
            held = sorted(r for _, rows in blocks for r in rows)
            assert held == list(range(sum(env_runner_rows)))
            share = [sum(len(r) for k, r in blocks if k == n) for n in range(num_learners)]
            assert max(share) - min(share) <= 1
    first, *others = many.learner_group.foreach_learner(
        lambda learner: learner.module[DEFAULT_MODULE_ID].state_dict()
    )
    for other in others:
        for name, w in first.get().items():
            assert torch.equal(w, other.get()[name])


AUX_LOSSES = {
    "value": {"target": "presleep", "center": True},
    "reward": {"hidden": 8},
    "dynamics": {"hidden": 8},
    "inverse_dynamics": {"hidden": 8},
}


SUCCESSORS = {
    "vf_phase": "auxiliary",
    "arch": "shared",
    "proximal": "ewma",
    "adv_ewma_decay": 0.5,
    "target_kl": 0.01,
    "e_pi": 2,
}


@pytest.mark.parametrize("num_learners", [2, pytest.param(3, marks=pytest.mark.long)])
def test_auxiliary_losses_and_successors_do_not_depend_on_the_number_of_learners(
    build, num_learners
):
    def double(num_learners):
        config = several(num_learners, segment_length=4, aux_losses=AUX_LOSSES, **SUCCESSORS)
        return config.rl_module(rl_module_spec=RLModuleSpec(module_class=Float64Module))

    one, two = build(double(0)), build(double(num_learners))
    for env_runner_rows in [(5, 2), (1,)]:  # with one row in all, a learner gets none
        expected_states, expected_metrics, _ = run_phases(one, *env_runner_rows)
        states, metrics, _ = run_phases(two, *env_runner_rows)
        for name, w in states[-1][0].items():
            np.testing.assert_allclose(w, expected_states[-1][0][name], rtol=1e-5, atol=1e-7)
        assert metrics == pytest.approx(expected_metrics, rel=1e-4, abs=1e-6)


@pytest.mark.long
def test_augmentation_does_not_depend_on_the_number_of_learners(build):
    images = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    settings = {"augmentation": "random_crop", "augmentation_phase": "both", "e_v": 2}

    def double(num_learners):
        config = several(num_learners, aux_losses={"augmentation_consistency": 0.1}, **settings)
        config.environment(env_config={"observation_space": images})
        spec = RLModuleSpec(module_class=Float64Module)
        spec.model_config = {"impala_channels": (4,), "impala_dense": 16}
        return config.rl_module(rl_module_spec=spec)

    one, two = build(double(0)), build(double(2))
    expected_states, expected_metrics, _ = run_phases(one, 5, 2, obs=images)
    states, metrics, _ = run_phases(two, 5, 2, obs=images)
    for name, w in states[-1][0].items():
        np.testing.assert_allclose(w, expected_states[-1][0][name], rtol=1e-5, atol=1e-7)
    assert metrics == pytest.approx(expected_metrics, rel=1e-4, abs=1e-6)


@pytest.mark.long
def test_in_float32_learners_agree_up_to_steps_of_adam_on_rounding(build):
    """Where a gradient is nothing but rounding, Adam makes a step of the learning rate of it."""
    lr = 1e-4
    one, many = (build(several(n, lr=lr, aux_lr=lr)) for n in (0, 2))
    steps = 2 * several(0).e_aux * 2  # of the auxiliary phase
    expected_states, _, _ = run_phases(one, 5, 2)
    states, _, _ = run_phases(many, 5, 2)
    for i, (weights, _) in enumerate(states):
        for name, w in weights.items():
            atol = 2 * lr * steps if i == len(states) - 1 else lr
            np.testing.assert_allclose(w, expected_states[i][0][name], rtol=0, atol=atol)


# -- One copy of every state ------------------------------------------------------------------

STATE = 12_288  # bytes of an observation, as many as Procgen's


def object_store_bytes():
    return (
        ray.cluster_resources()["object_store_memory"]
        - ray.available_resources()["object_store_memory"]
    )


def assert_eventually(condition, seconds=20):
    """Ray counts the store's bytes now and then: asks again until they are as they should be."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.long
def test_the_replay_list_is_one_copy_and_not_in_the_driver(build):
    config = several(2, runners=1, envs=32, n_pi=5, num_minibatches=1)
    config.environment(env_config={"observation_space": gym.spaces.Box(0, 255, (STATE,), np.uint8)})
    config.rl_module(model_config={"fcnet_hiddens": [4]})
    config.env_runners(rollout_fragment_length=64)
    algo = build(config)
    for _ in range(5):
        algo.train()
    # The phase is over; what is left is 2 MB of the learners' own state.
    assert len(only_module(algo).replay) == 0
    assert_eventually(lambda: object_store_bytes() < 3e6)
    before = object_store_bytes()
    algo.train()
    driver, private = psutil.Process(), psutil.Process().memory_full_info().uss
    for i in range(1, 5):
        states = i * 32 * 64 * STATE
        # What is there are the states; the 2 % are for targets, masks and pickling.
        assert_eventually(lambda n=states: 1.0 <= (object_store_bytes() - before) / n <= 1.02)
        algo.train()
    assert driver.memory_full_info().uss - private < 0.1 * states
    # The phase is over; what is left is 2 MB of the learners' own state.
    assert len(only_module(algo).replay) == 0
    assert_eventually(lambda: object_store_bytes() - before < 2**20)


# -- Restoring into other numbers -------------------------------------------------------------


def replay_rows(algo):
    """{(iteration, row): (V_targ, learner)} of the replay list."""
    return {
        (i, int(row)): (ray.get(e.ref).columns["V_targ"][k].tolist(), e.learner)
        for i, entries in enumerate(only_module(algo).replay.iterations)
        for e in entries
        for k, row in enumerate(e.info.rows)
    }


@pytest.mark.parametrize(
    "others",
    [
        pytest.param([(2, 0, 6), (0, 2, 3)], id="quick"),
        pytest.param([(2, 0, 6), (3, 0, 6)], id="three learners", marks=pytest.mark.long),
    ],
)
def test_a_checkpoint_fits_other_numbers_of_learners_and_env_runners(build, tmp_path, others):
    algo = build(several(2, n_pi=3))
    for _ in range(2):
        algo.train()
    path, saved = algo.save_to_path(tmp_path / "checkpoint"), replay_rows(algo)
    assert len(saved) == 2 * 6
    weights, moments = learner_states(algo)
    algo.train()
    for num_learners, runners, envs in others:
        same = num_learners == 2  # live, and an iteration and an auxiliary phase ahead
        other = algo if same else build(several(num_learners, runners=runners, envs=envs, n_pi=3))
        other.restore_from_path(path)
        rows = replay_rows(other)
        assert {row: V_targ for row, (V_targ, _) in rows.items()} == {
            row: V_targ for row, (V_targ, _) in saved.items()
        }
        if same:
            assert rows == saved  # each learner has its own states again
        assert {learner for _, learner in rows.values()} == set(range(max(num_learners, 1)))
        restored_weights, restored_moments = learner_states(other)
        for name, w in weights.items():
            np.testing.assert_array_equal(restored_weights[name], w)
        for name, arrays in moments.items():
            for m, expected in zip(restored_moments[name], arrays, strict=True):
                np.testing.assert_array_equal(m, expected)
        result = other.train()  # the third iteration, and the auxiliary phase
        assert result["training_iteration"] == 3
        assert result["ppg"]["num_aux_phases_lifetime"] == 1
        other.stop()


@ray.remote(num_cpus=0)
class Silent:
    def block(self):
        signal.pause()


def test_a_block_that_never_comes_is_an_error(cluster):
    """Ray waits without end for a spilled block whose file is gone."""
    actor = Silent.remote()
    with pytest.raises(RuntimeError, match=r"did not arrive within 0.5 s \(collective_timeout_s\)"):
        BlockReader([actor.block.remote()], 2**20, timeout_s=0.5)[0]
    ray.kill(actor)


def test_a_learner_reports_a_lost_rollout_before_it_counts_as_stuck(cluster):
    actor = Silent.remote()
    learner = SimpleNamespace(config=SimpleNamespace(collective_timeout_s=3.0))
    began = time.monotonic()
    assert PPGTorchLearner.fetch(learner, [ray.put(0), actor.block.remote()]) == [1]
    assert time.monotonic() - began < 3.0
    ray.kill(actor)


def test_rows_of_small_blocks_are_dealt_out_evenly(cluster, tmp_path):
    """Six blocks of one row each, saved by three learners and loaded for two."""
    saved = ReplayList(n_pi=1)
    blocks = [
        ReplayBlock(np.full((1, 4), i), np.ones((1, 4)), {"V_targ": np.zeros((1, 4))})
        for i in range(6)
    ]
    saved.append(
        [ReplayEntry(ray.put(b), b.info(np.array([i])), i % 3) for i, b in enumerate(blocks)]
    )
    path, disk = str(tmp_path / "saved"), LocalFileSystem()
    with draft(disk, path) as new:
        new.finish(replay=save_replay(saved, new, "module"), networks={})
    loaded = ReplayList(n_pi=1)
    manifest = read_manifest(disk, path)
    load_replay(
        loaded,
        manifest["replay"],
        disk,
        path,
        manifest["files"],
        num_learners=2,
        put=lambda block, _: ray.put(block),
    )
    assert [sum(len(info.rows) for *_, info in loaded.of_learner(k)) for k in range(2)] == [3, 3]
    rows = {
        int(info.rows[0]): ref
        for k in range(2)
        for ref, _, info in loaded.of_learner(k)
        if len(info.rows)
    }
    assert {row: ray.get(ref).obs[0, 0] for row, ref in rows.items()} == {i: i for i in range(6)}


# -- One error for all ------------------------------------------------------------------------


class Failing(PPGTorchLearner):
    """The second learner fails, at the place and in the way that the env_config says."""

    def policy_and_value_loss(self, module, batch):
        terms = super().policy_and_value_loss(module, batch)
        return terms if batch["obs"] is module.placeholder["obs"] else self._fail("policy", terms)

    def presleep(self, phase):
        self._fail("presleep", {})
        super().presleep(phase)

    def aux_loss(self, module, batch):
        terms = super().aux_loss(module, batch)
        return terms if batch["obs"] is module.placeholder["obs"] else self._fail("aux", terms)

    def _fail(self, phase, terms):
        how = self.config.env_config.get(phase)
        if self._learner_index != 1 or how is None:
            return terms
        if how == "raise":
            raise ArithmeticError("the second learner can't count")
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "hang":
            signal.pause()
        return {name: term * float("nan") for name, term in terms.items()}


class FailingOnce(Failing):
    """Fails where a file of the phase's name is, and removes it first."""

    def _fail(self, phase, terms):
        marked = Path(self.config.learner_config_dict["folder"], phase)
        if self._learner_index == 1 and marked.exists():
            how = marked.read_text()
            marked.unlink()
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif how == "hang":
                signal.pause()
            time.sleep(1.0)  # it is slow
        return terms


def kill_learner(algo, k):
    (pid,) = (r.get() for r in algo.learner_group.foreach_learner(pid_if, remote_actor_ids=[k]))
    os.kill(pid, signal.SIGKILL)


def pid_if(learner):
    return os.getpid()


def check_that_nothing_is_lost(build, tmp_path, disturb):
    """Compares four iterations with the same ones when nobody disturbs.

    Args:
        disturb: By the iteration, what is done before it, to the algorithm or by a file among
            the marks that `FailingOnce` looks for.
    """
    marks = tmp_path / "marks"
    marks.mkdir()
    config = several(2, learner=FailingOnce, n_pi=2, lr=[[0, 1e-2], [300, 1e-4]])
    config.training(collective_timeout_s=3, learner_config_dict={"folder": str(marks)})
    algo = build(config.environment("CartPole-v1"))
    start = algo.save_to_path(tmp_path / "start")
    outcomes = []
    for disturbances in ({}, disturb):
        algo.restore_from_path(start)
        metrics = []
        for i in range(4):
            disturbances.get(i, lambda algo, marks: None)(algo, marks)
            result = algo.train()
            metrics.append(timeless(result["learners"]))
            assert result["training_iteration"] == i + 1
        assert result["ppg"]["num_aux_phases_lifetime"] == 2
        assert not list(marks.iterdir())  # all has happened
        outcomes.append((learner_states(algo), metrics))
    check_same(*outcomes)


def in_phase(phase, how):
    return lambda algo, marks: (marks / phase).write_text(how)


@pytest.mark.faults
def test_a_phase_begins_again_when_a_learner_dies_in_it(build, tmp_path):
    """And waits for one that is slower than the others."""
    disturb = {1: in_phase("aux", "kill"), 3: in_phase("aux", "slow")}
    check_that_nothing_is_lost(build, tmp_path, disturb)


@pytest.mark.faults
def test_learners_die_and_hang_in_both_phases_and_between_iterations(build, tmp_path):
    disturb = {
        0: in_phase("policy", "kill"),
        1: in_phase("aux", "hang"),
        2: lambda algo, marks: kill_learner(algo, 0),
        3: in_phase("aux", "kill"),
    }
    check_that_nothing_is_lost(build, tmp_path, disturb)


@pytest.mark.faults
def test_new_learners_go_on_from_what_was_restored(build, tmp_path):
    config = several(1, runners=1)
    algo = build(config)
    algo.train()
    algo.save_to_path(tmp_path / "first")
    rows = replay_rows(algo)
    algo.train()
    kill_learner(algo, 0)  # which is seen while the checkpoint is restored
    algo.restore_from_path(tmp_path / "first")
    assert replay_rows(algo) == rows
    saved = learner_states(algo)
    kill_learner(algo, 0)
    algo.save_to_path(tmp_path / "second")
    other = build(config)
    other.restore_from_path(tmp_path / "second")
    check_same(learner_states(other), saved)


def test_a_death_is_seen_whatever_ray_calls_it(cluster):
    """Lack of memory, a lost node, a crash: not all of Ray's errors are a RayActorError."""
    crash = ray.remote(max_retries=0)(lambda: os._exit(1)).remote()
    ray.wait([crash])
    assert isinstance(failure_of(crash), WorkerCrashedError)
    assert not isinstance(failure_of(crash), RayActorError)


def raise_object_lost():
    raise ObjectLostError("00", None, "")


def test_an_error_of_ray_that_is_raised_in_an_actor_is_no_death(cluster):
    raised = ray.remote(max_retries=0)(raise_object_lost).remote()
    ray.wait([raised])
    assert isinstance(failure_of(raised), RayTaskError)


@pytest.mark.parametrize(
    ("phase", "how", "error", "message"),
    [
        ("policy", "raise", ArithmeticError, "the second learner can't count"),
        pytest.param(
            *("aux", "raise", ArithmeticError, "the second learner can't count"),
            marks=pytest.mark.faults,
        ),
        pytest.param(
            *("policy", "kill", RuntimeError, r"learner 1 of 2 died in policy_phase\(\)"),
            marks=pytest.mark.faults,
        ),
        pytest.param(
            *("aux", "kill", RuntimeError, r"learner 1 of 2 died in aux_epoch\(\)"),
            marks=pytest.mark.long,
        ),
        pytest.param(
            *("aux", "hang", CollectiveError, "collective_timeout_s=2"),
            marks=pytest.mark.long,
        ),
        pytest.param(
            *("presleep", "hang", LearnerLostError, r"learner 1 of 2 hangs in presleep\(\)"),
            marks=pytest.mark.faults,
        ),
        ("policy", "nan", FloatingPointError, "NaN or infinite gradient of .* policy phase"),
    ],
)
def test_a_learner_that_fails_ends_all_with_its_error(build, phase, how, error, message):
    config = several(2, learner=Failing, n_pi=1)
    config.training(collective_timeout_s=2 if how == "hang" else 300)
    config.environment(env_config={phase: how})
    algo = build(config)
    start = time.perf_counter()
    with pytest.raises(error, match=message):
        algo.train()
    assert time.perf_counter() - start < 100  # and not the time-out
    # Where all have raised, as for a NaN, they live and have equal weights.
    if how == "nan":
        assert len(algo.learner_group.foreach_learner(lambda learner: 0)) == 2


@pytest.mark.long
def test_a_checkpoint_in_a_bucket_is_restored_from_a_folder_here(build, tmp_path):
    """RLlib would look on this machine's disk for what it sends to learners on other nodes."""
    saved = build(several(2))
    saved.train()
    saved.save_to_path(tmp_path / "bucket" / "saved")
    (tmp_path / "bucket/saved/replay/default_policy/0000.npy").rename(tmp_path / "0000.npy")
    bucket = SubTreeFileSystem(str(tmp_path / "bucket"), LocalFileSystem())
    with local_copy(bucket, "saved", without="replay") as folder:
        here = {p.relative_to(folder) for p in Path(folder).rglob("*") if p.is_file()}
        there = tmp_path / "bucket/saved"
        assert here == {p.relative_to(there) for p in there.rglob("*") if p.is_file()}
        assert all((Path(folder) / p).read_bytes() == (there / p).read_bytes() for p in here)
    assert not Path(folder).exists()

    (tmp_path / "0000.npy").rename(tmp_path / "bucket/saved/replay/default_policy/0000.npy")
    restored = build(several(2))
    restored.restore_from_path("saved", filesystem=bucket)
    assert only_module(restored).replay.states == only_module(saved).replay.states > 0
    for a, b in zip(*(learner_states(algo)[0].values() for algo in (saved, restored)), strict=True):
        np.testing.assert_array_equal(a, b)
