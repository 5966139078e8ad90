"""The end of an algorithm, and calls that it does not take: after `stop`, and of the old API."""

import os
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from rllib_ppg import PPG, load_policy
from tests.support.algorithms import small


class Stuck(gym.Env):
    """An env whose second step takes for ever."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, config=None):
        self.is_stuck = (config or {}).get("is_stuck", False)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        while self.is_stuck:
            time.sleep(1)
        return np.zeros(2, np.float32), 1.0, True, False, {}


def test_stop_does_not_wait_for_an_evaluation_that_does_not_end(build, caplog):
    config = small(Stuck, runners=0).evaluation(
        evaluation_interval=1,
        evaluation_num_env_runners=1,
        evaluation_sample_timeout_s=0.1,
        evaluation_config={"env_config": {"is_stuck": True}},
    )
    algo = build(config)
    algo.evaluate()
    caplog.clear()
    before = time.monotonic()
    algo.stop()
    assert time.monotonic() - before < 10
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.fixture(scope="module")
def stopped(build_for_module):
    algo = build_for_module(small(runners=0))
    algo.stop()
    return algo


@pytest.mark.parametrize(
    "method",
    ["train", "evaluate", "save", "save_to_path", "get_state", "get_weights", "get_module"],
)
def test_after_stop_all_is_an_error_in_one_sentence(stopped, method):
    with pytest.raises(ValueError, match=r"has been stopped: build another one, or restore"):
        getattr(stopped, method)()


def test_stopping_twice(stopped):
    stopped.stop()


@pytest.mark.parametrize(
    ("method", "instead"),
    [
        ("compute_single_action", r"load_policy\(path\).predict\(obs\)"),
        ("compute_actions", r"load_policy\(path\).predict\(obs\)"),
        ("get_policy", r"get_module\(\)"),
        ("export_policy_model", "rllib export"),
        ("export_policy_checkpoint", "save_to_path"),
        ("add_policy", "policies="),
        ("remove_policy", "policies_to_train="),
    ],
)
def test_the_old_api_s_methods_name_the_new_ones(method, instead):
    algo = PPG.__new__(PPG)
    with pytest.raises(
        ValueError, match=rf"^{method}\(\) is of RLlib's old API stack: .*{instead}"
    ):
        getattr(algo, method)("x")


def test_the_old_api_s_workers():
    algo = PPG.__new__(PPG)
    with pytest.raises(AttributeError, match="workers is now env_runner_group"):
        _ = algo.workers
    with pytest.raises(AttributeError, match="is now eval_env_runner_group"):
        _ = algo.evaluation_workers


def test_paths_as_people_write_them(build, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    algo = build(small(runners=0))
    places = {
        "relative/a": tmp_path / "relative/a",
        "~/b c": tmp_path / "home/b c",
        Path("~/d 100%#?"): tmp_path / "home/d 100%#?",
    }
    for path, place in places.items():
        algo.save_to_path(path)
        assert (place / "ppg_checkpoint.json").is_file()
        algo.restore_from_path(path)
        load_policy(path)
        PPG.from_checkpoint(path).stop()
    algo.save("~/e")
    algo.restore("~/e")
    assert (tmp_path / "home/e/ppg_checkpoint.json").is_file()
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_policy(Path("~/nowhere"))
    assert not (tmp_path / "~").exists()


WITHOUT_STOP = """
import ray
from tests.support.algorithms import small

ray.init(address="local", num_cpus=3, include_dashboard=False, logging_level="ERROR")
algo = small(runners=1).learners(num_learners=1).build_algo()
algo.train()
print("trained", flush=True)
"""


@pytest.mark.faults
def test_a_script_may_end_without_stop():
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_STOP],
        capture_output=True,
        text=True,
        timeout=280,
        env=env,
    )
    assert (ended.returncode, ended.stdout) == (0, "trained\n")
    assert "Traceback" not in ended.stderr  # of a group that would start another Ray
