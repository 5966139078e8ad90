"""The real thing on several Ray nodes: jobs, roles, nodes that come and go, other shapes."""

import csv
import shlex
import subprocess

import numpy as np
import pytest
import ray
import yaml
from gymnasium.spaces import Box
from ray.job_submission import JobSubmissionClient

from rllib_ppg import PPGCallback, PPGConfig
from tests.support.algorithms import only_module
from tests.support.command import run
from tests.support.envs import AnySpaces
from tests.support.nodes import (
    RAY,
    Live,
    Nodes,
    growing_cluster,
    locations,
    path_with_python,
    started,
)

pytestmark = pytest.mark.cluster

# As Ray calls them.
RUNNER_ACTOR = "BatchedEnvRunner"
LEARNER_ACTOR = "create_executable_class.<locals>._WrappedExecutable"

EXPERIMENT = {
    "run": "PPG",
    "env": "CartPole-v1",
    "checkpoint_config": {"checkpoint_at_end": True},
    "config": {
        "num_env_runners": 2,
        "num_learners": 1,
        "num_envs_per_env_runner": 4,
        "rollout_fragment_length": 64,
        "segment_length": 16,
        "n_pi": 2,
        "e_aux": 2,
        "seed": 5,
    },
}


@pytest.fixture
def nodes(monkeypatch, tmp_path):
    path_with_python(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # of the results
    with Nodes() as nodes:
        yield nodes


def write(folder, **changes):
    file = folder / "exp.yaml"
    file.write_text(yaml.safe_dump({"cart": EXPERIMENT | changes}))
    return file


# -- rllib submit ---------------------------------------------------------------------------------


def test_a_job_runs_on_nodes_of_its_roles_and_writes_to_the_storage_path(nodes, tmp_path):
    learner = nodes.add_learner(num_cpus=3)
    runners = [nodes.add_env_runner(num_cpus=1) for _ in range(2)]
    file = write(tmp_path, stop={"training_iteration": 5})
    done = run(
        *("submit", file, "--address", nodes.job_server, "--storage-path", tmp_path / "results"),
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "auxiliary phase 2" in done.stdout
    (folder,) = (tmp_path / "results" / "cart").glob("PPG_*")
    assert len(list(csv.reader((folder / "progress.csv").open()))) == 1 + 5
    assert yaml.safe_load((folder / "config.yaml").read_text())["cart"]["config"]["seed"] == 5
    assert (folder / "checkpoint_000000" / "rllib_checkpoint.json").is_file()

    ran_on = {
        name: set(nodes.actors(name, "DEAD")) for name in (RUNNER_ACTOR, "PPG", LEARNER_ACTOR)
    }
    assert ran_on[RUNNER_ACTOR] == {runner.node_id for runner in runners}
    assert ran_on["PPG"] == ran_on[LEARNER_ACTOR] == {learner.node_id}


def test_a_job_goes_on_without_its_terminal(nodes, tmp_path):
    nodes.add_learner(num_cpus=3)
    nodes.add_env_runner()
    file = write(tmp_path, stop={"time_total_s": 600})
    to_server = ("--address", nodes.job_server)
    with Live("submit", file, *to_server) as first:
        job = first.until("submitted").split()[1]
        first.until("iteration 2 ")
        first.interrupt()
        assert first.end() == 130
        assert f"rllib submit --attach {job} --address {nodes.job_server}\n" in first.lines[-2]
        assert f"ray job stop {job}" in first.lines[-1]
    client = JobSubmissionClient(nodes.job_server)
    assert client.get_job_status(job) == "RUNNING"
    with Live("submit", "--attach", job, *to_server) as second:
        second.until("iteration 2 ")  # from its beginning
        client.stop_job(job)
        assert second.end() == 130


def test_a_failed_job_has_its_exit_code(nodes, tmp_path):
    nodes.add_learner(num_cpus=3)
    file = write(tmp_path, stop={"training_iteration": 1})
    done = run("submit", file, "--address", nodes.job_server)
    assert done.returncode == 2
    assert "0 of 2 places are there that this run asks for by ppg_env_runner" in done.stdout


# -- rllib train --ray-address --------------------------------------------------------------------


def test_a_ray_client_shows_what_the_head_prints(nodes, tmp_path):
    nodes.add_learner(num_cpus=3)
    nodes.add_env_runner()
    done = run(
        *("train", "file", write(tmp_path, stop={"training_iteration": 3})),
        *("--ray-address", f"ray://127.0.0.1:{nodes.client_port}"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "iteration 3/3" in done.stdout
    assert "auxiliary phase 1" in done.stdout
    assert list((tmp_path / "home/ray_results/cart").glob("PPG_*/checkpoint_000000"))


def test_training_goes_on_when_a_node_dies_and_uses_the_one_that_comes(nodes, tmp_path):
    nodes.add_learner(num_cpus=3)
    first, _ = [nodes.add_env_runner(num_cpus=1) for _ in range(2)]
    file = write(tmp_path, stop={"time_total_s": 600})
    with Live("train", "file", file, "--ray-address", nodes.address) as live:
        live.until("iteration 3 ")
        nodes.kill(first)
        alone = live.until("1 of 2 env runners")
        later = live.until("auxiliary phase")
        assert "256 states" in later or int(alone.split()[1]) > 3
        new = nodes.add_env_runner(num_cpus=1)
        while "of 2 env runners" in live.until("steps/s"):
            pass
        assert new.node_id in nodes.actors(RUNNER_ACTOR)
        live.interrupt()
        assert live.end() == 130


def test_a_lost_learner_node_costs_what_came_after_the_checkpoint(nodes, tmp_path):
    first = nodes.add_learner(num_cpus=3)
    nodes.add_env_runner()
    file = write(tmp_path, stop={"time_total_s": 600}, max_failures=1)
    words = ("train", "file", file, "--ray-address", nodes.address, "--checkpoint-freq", 1)
    with Live(*words) as live:
        live.until("iteration 4 ")
        nodes.add_learner(num_cpus=3)
        nodes.kill(first)
        reached = max(number(line) for line in live.lines if line.startswith("iteration"))
        again = number(live.until("iteration", "steps/s"))
        while again < reached:  # what was still on its way when the node died
            again = number(live.until("iteration", "steps/s"))
        live.until(f"iteration {reached + 2} ")
        live.interrupt()
        assert live.end() == 130


def number(line):
    return int(line.split()[1].split("/")[0])


# -- The replay list ------------------------------------------------------------------------------


class Frames(AnySpaces):
    """Observations that are too large to travel within Ray's messages."""

    def __init__(self, config=None):
        super().__init__({"observation_space": Box(0, 255, (64, 64, 3), np.uint8)})


class Places(PPGCallback):
    """Notes where the replay list's blocks are after each auxiliary epoch."""

    seen = []  # noqa: RUF012

    def on_aux_epoch_end(self, *, algorithm, **kwargs):
        self.seen.append(places(algorithm))


def places(algo):
    """(the nodes that a block is on, the node of the learner that uses it), of all blocks."""
    on = [ray.get_runtime_context().get_node_id()]
    if not algo.learner_group.is_local:
        found = algo.learner_group.foreach_learner(
            lambda learner: ray.get_runtime_context().get_node_id()
        )
        on = [result.get() for result in found]
    entries = [entry for entries in only_module(algo).replay.iterations for entry in entries]
    assert entries
    return [
        (nodes, on[entry.learner])
        for nodes, entry in zip(locations([e.ref for e in entries]), entries, strict=True)
    ]


def frames_config(num_learners):
    return (
        PPGConfig()
        .environment(Frames)
        .env_runners(num_env_runners=2, num_envs_per_env_runner=4, rollout_fragment_length=32)
        .learners(num_learners=num_learners)
        .rl_module(model_config={"impala_channels": (1,), "impala_dense": 4})
        .training(n_pi=3, e_aux=2, num_minibatches=2, num_aux_minibatches=2)
        .callbacks(Places)
        .debugging(seed=1)
    )


def test_states_stay_with_their_learner_also_on_a_cluster_of_another_shape(
    nodes, tmp_path, monkeypatch
):
    learners = [nodes.add_learner(), nodes.add_learner()]
    for _ in range(2):
        nodes.add_env_runner(num_cpus=1)
    monkeypatch.setattr(Places, "seen", [])
    ray.init(address=nodes.address, logging_level="ERROR", log_to_driver=False)
    try:
        algo = frames_config(num_learners=2).build_algo()
        for _ in range(2):
            algo.train()
        ids = {learner.node_id for learner in learners}
        assert {own for _, own in places(algo)} == ids
        assert all(on == {own} for on, own in places(algo))
        saved = algo.save_to_path(tmp_path / "saved")
        algo.train()
        assert len(Places.seen) == 1 + 2
        # A checkpoint's reader, this process, is on the head; what it has read may be there still.
        head = ray.get_runtime_context().get_node_id()
        assert all(own in on <= {own, head} for seen in Places.seen for on, own in seen)
        algo.stop()

        other = frames_config(num_learners=1).build_algo()
        other.restore_from_path(saved)
        restored = places(other)
        assert len(restored) == 2 * 2 * 4  # iterations x env runners x rows, each a block
        assert all(own in on for on, own in restored)
        assert len({own for _, own in restored}) == 1
        result = other.train()
        assert result["ppg"]["num_aux_phases_lifetime"] == 1
        assert result["ppg"]["replay_states"] == 3 * 2 * 4 * 32
        other.stop()
    finally:
        ray.shutdown()


# -- What a cluster is not to do ------------------------------------------------------------------


def test_nodes_with_disks_of_their_own_are_refused_as_storage(nodes, tmp_path):
    nodes.add_learner(num_cpus=3)
    shared, own = tmp_path / "shared", tmp_path / "own"
    own.mkdir()
    in_namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*in_namespace, "true"], capture_output=True).returncode:
        pytest.skip("unshare makes no namespaces here")
    ray_start = [RAY, "start", "--address", nodes.address, "--num-cpus=2", "--block"]
    ray_start += ["--resources", '{"ppg_env_runner": 1000}']
    # What this node sees at `own` is another file system.
    script = f"mount -t tmpfs none {own} && exec {shlex.join(ray_start)}"
    with started([*in_namespace, "sh", "-c", script]):
        file = write(tmp_path, stop={"training_iteration": 1})
        words = ("train", "file", file, "--ray-address", nodes.address, "--storage-path")
        refused = run(*words, own)
        assert refused.returncode == 2
        assert f"results would go to {own}, a local disk and not the same folder" in refused.stderr
        assert list(own.iterdir()) == []
        accepted = run(*words, shared)
        assert accepted.returncode == 0, accepted.stderr


# -- A cluster that grows -------------------------------------------------------------------------


def test_a_head_alone_gets_the_nodes_that_a_run_asks_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    subprocess.run([RAY, "get-auth-token", "--generate"], check=True, capture_output=True)
    with growing_cluster(tmp_path) as address:
        file = write(tmp_path, stop={"training_iteration": 3})
        words = ("train", "file", file, "--ray-address", address, "--storage-path")
        refused = run(*words, tmp_path / "results")
        assert refused.returncode == 2
        assert "added nodes would have another one" in refused.stderr
        done = run(*words, f"file://{tmp_path}/results", timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "auxiliary phase 1" in done.stdout
