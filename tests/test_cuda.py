"""What the learner does on a GPU, against the CPU; run wherever there is one."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from tests.test_learner import make_learner, make_rollout, phases

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

SPACES = [gym.spaces.Box(-1, 1, (3,)), gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)]


@pytest.mark.parametrize("obs", SPACES, ids=["vectors", "images"])
@pytest.mark.parametrize("arch", ["dual", "detach", "shared"])
def test_both_phases_do_on_a_gpu_what_they_do_on_a_cpu(obs, arch):
    kwargs = {"obs": obs, "arch": arch, "e_v": 2, "num_minibatches": 2, "e_aux": 2, "lr": 1e-4}
    rollout = make_rollout(obs=obs)
    expected, metrics_cpu, aux_cpu = phases(make_learner(**kwargs), rollout)
    learner = make_learner(gpus=1, **kwargs)
    assert all(p.is_cuda for p in learner.module[DEFAULT_MODULE_ID].parameters())
    got, metrics, aux = phases(learner, rollout)
    for name, p in got.items():
        torch.testing.assert_close(p.cpu(), expected[name], rtol=1e-3, atol=1e-4, msg=name)
    assert metrics == pytest.approx(metrics_cpu, rel=1e-2, abs=1e-3)
    assert aux[-1] == pytest.approx(aux_cpu[-1], rel=1e-2, abs=1e-3)


def test_the_observation_filter_on_a_gpu():
    learner = make_learner(gpus=1, env_runners={"observation_filter": "MeanStdFilter"})
    learner.set_observation_filter(np.full(3, 2.0), np.full(3, 4.0))
    filter_ = learner.module[DEFAULT_MODULE_ID].observation_filter
    out = filter_(torch.full((1, 3), 6.0, device=filter_.mean.device))
    assert out.tolist() == [[1.0, 1.0, 1.0]]
    phases(learner, make_rollout())
