"""Roles of nodes, the storage that they share, and rollouts that are lost with a node."""

import subprocess

import pytest
import ray
from ray.rllib.core import DEFAULT_MODULE_ID

from rllib_ppg import PPG, PPGConfig
from rllib_ppg.data.rollout import SampledRollout
from rllib_ppg.resources import capacity, node_roles, shared_storage
from tests.support.algorithms import only_module, several

ON_ROLES = {
    "custom_resources_for_main_process": {"ppg_learner": 1},
    "custom_resources_per_learner": {"ppg_learner": 1},
    "custom_resources_per_env_runner": {"ppg_env_runner": 1, "fast_disk": 2},
}
WITHOUT = {
    "custom_resources_for_main_process": {},
    "custom_resources_per_learner": {},
    "custom_resources_per_env_runner": {"fast_disk": 2},
}


def asked(config):
    return {setting: getattr(config, setting) for setting in ON_ROLES}


def test_an_evaluation_with_resources_of_its_own_keeps_its_role(monkeypatch):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"ppg_roles": 1})
    own = {"custom_resources_per_env_runner": {"fast_disk": 1}}
    config = PPGConfig().evaluation(evaluation_config=own)
    evaluation = node_roles.with_node_roles(config).get_evaluation_config_object()
    assert evaluation.custom_resources_per_env_runner == {"fast_disk": 1, "ppg_env_runner": 1}


@pytest.mark.parametrize("offers, asks", [({"ppg_roles": 1}, ON_ROLES), ({}, WITHOUT)])
@pytest.mark.parametrize("saved_on", [ON_ROLES, WITHOUT])
def test_actors_ask_for_the_roles_that_the_cluster_at_hand_has(monkeypatch, offers, asks, saved_on):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0, **offers})
    given = PPGConfig().update_from_dict(saved_on)
    given.freeze()
    placed = node_roles.with_node_roles(given)
    assert asked(placed) == asks
    assert asked(given) == saved_on


def test_a_trial_reserves_places_of_its_roles(monkeypatch):
    have = {"CPU": 8.0, "ppg_roles": 1, "ppg_learner": 1000, "ppg_env_runner": 1000}
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: have)
    monkeypatch.setattr(ray, "nodes", lambda: [node(**have, object_store_memory=1e12)])
    monkeypatch.setattr(capacity, "has_autoscaler", lambda: False)
    config = {"env": "CartPole-v1", "num_env_runners": 1, "num_learners": 1, "segment_length": 1}
    main, runner, learner = PPG.default_resource_request(config).bundles
    assert main == learner == {"CPU": 1, "ppg_learner": 1}
    assert runner == {"CPU": 1, "ppg_env_runner": 1}


@pytest.mark.parametrize(
    "cpus, enough",
    [((4, 2), True), ((5, 1), False), ((0, 6), False)],  # of the nodes for learners, env runners
)
def test_nodes_of_a_role_have_the_cpus_that_it_takes(monkeypatch, cpus, enough):
    nodes = [
        node(ppg_roles=1),
        node(ppg_learner=1000, CPU=cpus[0], object_store_memory=1e12),
        node(ppg_env_runner=1000, CPU=cpus[1]),
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(capacity, "has_autoscaler", lambda: False)
    bundles = [{"CPU": 1, "ppg_learner": 1}] * 2 + [{"CPU": 1, "ppg_env_runner": 1}] * 2
    config = PPGConfig().env_runners(num_env_runners=2).learners(num_learners=1)
    if enough:
        return capacity.check_resources(config, bundles, replay_bytes=1)
    with pytest.raises(ValueError, match=r"asks for 2 CPUs .* nodes that offer ppg_.* have [01]:"):
        capacity.check_resources(config, bundles, replay_bytes=1)


def node(alive=True, labels=None, **offers):
    return {"Alive": alive, "Labels": labels or {}, "Resources": offers}


@pytest.mark.parametrize(
    "nodes, store",
    [
        ([node(object_store_memory=3), node(object_store_memory=4)], 7),
        ([node(object_store_memory=3), node(alive=False, object_store_memory=4)], 3),
        (
            [
                node(ppg_roles=1, object_store_memory=1),
                node(ppg_learner=1000, object_store_memory=10),
                node(ppg_learner=1000, object_store_memory=20),
                node(ppg_env_runner=1000, object_store_memory=100),
            ],
            30,
        ),
    ],
)
def test_a_replay_list_lies_with_the_learners(monkeypatch, nodes, store):
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert node_roles.learner_store_bytes() == store


@pytest.mark.parametrize("labels, grows", [({}, False), ({"ray.io/node-group": "head"}, True)])
def test_nodes_of_a_launcher_may_be_joined_by_others(cluster, monkeypatch, labels, grows):
    monkeypatch.setattr(ray, "nodes", lambda: [node(labels=labels)])
    assert capacity.has_autoscaler() is grows


# -- Storage --------------------------------------------------------------------------------------


def test_one_node_may_write_to_its_disk(cluster, tmp_path):
    shared_storage.check_shared(str(tmp_path / "results"))


@pytest.mark.parametrize("kind, refused", [("ext4", True), ("overlay", True), ("nfs4", False)])
def test_a_cluster_that_grows_needs_more_than_its_heads_disk(cluster, monkeypatch, kind, refused):
    monkeypatch.setattr(shared_storage, "has_autoscaler", lambda: True)
    monkeypatch.setattr(shared_storage, "_ask", lambda node, name, look: kind)
    shared_storage.check_shared("s3://bucket/results")
    if not refused:
        return shared_storage.check_shared("/mnt/results")
    with pytest.raises(ValueError, match="would go to /mnt/results, a local disk"):
        shared_storage.check_shared("/mnt/results")


def test_the_file_system_is_the_nearest_mount_s(tmp_path):
    found = subprocess.run(
        ["df", "--output=fstype", tmp_path], capture_output=True, text=True, check=True
    )
    assert shared_storage._file_system(str(tmp_path / "not/yet/there")) == found.stdout.split()[-1]
    assert shared_storage._file_system("/proc/self/results") == "proc"


# -- Lost rollouts --------------------------------------------------------------------------------


@pytest.fixture
def lost(cluster):
    """A reference to an object that is no more."""

    @ray.remote(num_cpus=0)
    class Owner:
        def put(self):
            return [ray.put(0)]

    owner = Owner.remote()
    (ref,) = ray.get(owner.put.remote())
    ray.kill(owner)  # and what it has put
    return ref


@pytest.mark.parametrize("num_learners", [0, pytest.param(2, marks=pytest.mark.long)])
def test_rollouts_that_are_lost_are_left_out(build, monkeypatch, lost, num_learners):
    algo = build(several(num_learners, runners=2))
    sample = algo._env_runners._sample

    def lose_one(env_steps):
        rollouts = sample(env_steps)
        if len(only_module(algo).replay) == 0:
            rollouts[1].shards[DEFAULT_MODULE_ID][0] = lost
        return rollouts

    monkeypatch.setattr(algo._env_runners, "_sample", lose_one)
    first = algo.train()
    steps = first["num_env_steps_sampled_lifetime"]
    assert first["ppg"]["num_rollouts"] == 1
    assert first["ppg"]["replay_states"] == steps > 0
    second = algo.train()
    assert second["ppg"]["num_rollouts"] == 2
    assert second["ppg"]["num_aux_phases_lifetime"] == 1


def test_an_iteration_without_any_rollout_is_none(build, monkeypatch, lost):
    algo = build(several(0, runners=1))
    sample = algo._env_runners._sample

    samples = []

    def lose_the_first(env_steps):
        samples.append(sample(env_steps))
        if len(samples) > 1:
            return samples[-1]
        return [
            SampledRollout(rollout.summary, {DEFAULT_MODULE_ID: [lost]}) for rollout in samples[0]
        ]

    monkeypatch.setattr(algo._env_runners, "_sample", lose_the_first)
    result = algo.train()
    assert len(samples) == 2
    assert result["ppg"]["num_rollouts"] == 1
    assert only_module(algo).replay.states == result["num_env_steps_sampled_lifetime"]


@pytest.mark.faults
def test_a_run_waits_for_env_runners_that_have_all_died(build):
    algo = build(several(0, runners=2))
    algo.train()
    for runner in algo.env_runner_group._worker_manager.actors().values():
        ray.kill(runner, no_restart=False)
    before = algo.training_iteration
    result = algo.train()
    assert result["training_iteration"] == before + 1
    assert result["ppg"]["num_rollouts"] >= 1


def test_a_run_ends_if_nobody_starts_its_env_runners_again(build):
    config = several(0, runners=1).fault_tolerance(
        restart_failed_env_runners=False, ignore_env_runner_failures=True
    )
    algo = build(config)
    for runner in algo.env_runner_group._worker_manager.actors().values():
        ray.kill(runner)
    with pytest.raises(RuntimeError, match="all env runners have died"):
        algo.train()
