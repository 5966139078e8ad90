"""A run gets its fair share of a machine that other programs use, too."""

import os
import re
import subprocess
import sys

import pytest
import ray

import rllib_ppg  # noqa: F401 (before Ray is started)

PASSIVE = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# Ray is started before, as on a cluster: its workers do not inherit what the import sets.
RUN = """
import ray
ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False,
         object_store_memory=200 * 2**20)
from ray import tune
from rllib_ppg import PPGConfig
config = (
    PPGConfig()
    .environment("CartPole-v1")
    .env_runners(num_env_runners=1, num_envs_per_env_runner=2, rollout_fragment_length=16)
    .evaluation(evaluation_interval=1, evaluation_num_env_runners=1, evaluation_duration=1)
    .learners(num_learners=1)
    .training(segment_length=1, num_minibatches=1, n_pi=0)
)
run = tune.RunConfig(stop={"training_iteration": 1}, verbose=0, storage_path=STORAGE)
[result] = tune.Tuner("PPG", param_space=config, run_config=run).fit()
assert result.error is None, result.error
"""
IMPORT = "import rllib_ppg, torch"
COMMAND = "from rllib_ppg_cli import main; main(['evaluate', '/nowhere'])"


def run(code, **variables):
    """Runs a program; OpenMP shows its settings on stderr where it is loaded."""
    env = {name: value for name, value in os.environ.items() if name not in PASSIVE}
    env |= {"OMP_DISPLAY_ENV": "VERBOSE"} | variables
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )


def spin_counts(text):
    """How often threads of GNU's OpenMP look for work before they sleep; 300,000 is its default."""
    return [int(count) for count in re.findall("GOMP_SPINCOUNT = '(.*)'", text)]


@pytest.mark.long
def test_each_process_of_a_run_waits_passively(ray_folder, tmp_path):
    done = run(f"STORAGE = {str(tmp_path)!r}{RUN}", RAY_TMPDIR=str(ray_folder))
    assert spin_counts(done.stderr) == [0]
    logs = [path.read_text() for path in ray_folder.rglob("worker-*.err")]
    assert [count for log in logs for count in spin_counts(log)] == [0] * 4  # with the trial's


def test_workers_of_ray_are_not_nicer_than_the_driver(cluster):
    assert ray.get(ray.remote(lambda: os.nice(0)).remote()) == os.nice(0)


@pytest.mark.unit
def test_the_command_waits_passively():
    assert spin_counts(run(COMMAND).stderr) == [0]


@pytest.mark.unit
def test_a_users_own_values_win():
    assert spin_counts(run(IMPORT, GOMP_SPINCOUNT="77").stderr) == [77]
    [count] = spin_counts(run(IMPORT, OMP_WAIT_POLICY="ACTIVE").stderr)
    assert count > 10**6
