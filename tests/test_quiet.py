"""What other packages print, where a user can't act on it, does not reach the user."""

import subprocess
import sys

import pytest

SCRIPT = """
import logging
import os
import gymnasium as gym
import numpy as np
from rllib_ppg import PPGConfig
from rllib_ppg.envs.vector_env import make_vector_env
from rllib_ppg.networks.rl_module import PPGTorchRLModule
from ray.tune.utils.util import UtilMonitor

logging.basicConfig()
config = PPGConfig().environment("HalfCheetah-v5").env_runners(num_envs_per_env_runner=1)
env = make_vector_env(config)
env.reset(seed=0)
for _ in range(2):
    env.envs[0].unwrapped.data.qvel[:] = 1e11
    env.step(np.zeros((1, 6), np.float32))
spaces = {"default_policy": (env.single_observation_space, env.single_action_space)}
config.get_multi_rl_module_spec(spaces=spaces).build()
UtilMonitor(start=True).stop()
print(os.listdir("."))
"""


@pytest.mark.long  # a process of its own
def test_a_script_prints_what_its_user_can_act_on(tmp_path):
    """MuJoCo's and RLlib's own deprecated parts, and tools that no run needs, are not mentioned."""
    pytest.importorskip("mujoco", reason="an extra")
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert ended.stdout.strip() == "[]", ended.stderr  # no MUJOCO_LOG.TXT
    lines = ended.stderr.strip().splitlines()
    assert len(lines) == 1, ended.stderr
    assert "simulation is unstable" in lines[0] and "logged once" in lines[0]
