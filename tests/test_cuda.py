"""What the learner does on a GPU, against the CPU; run wherever there is one."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from rllib_ppg.learning import batches
from tests.support.learners import make_learner, make_rollout, phases

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

SPACES = [gym.spaces.Box(-1, 1, (3,)), gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)]


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """cuDNN's default, TF32, is further from the CPU than Adam's first steps let one compare."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("obs", SPACES, ids=["vectors", "images"])
@pytest.mark.parametrize("arch", ["dual", "detach", "shared"])
@pytest.mark.parametrize("resident", [True, False], ids=["resident", "pinned"])
def test_both_phases_do_on_a_gpu_what_they_do_on_a_cpu(obs, arch, resident, monkeypatch):
    kwargs = {"obs": obs, "arch": arch, "e_v": 2, "num_minibatches": 2, "e_aux": 2, "lr": 1e-4}
    rollout = make_rollout(obs=obs)
    expected, metrics_cpu, aux_cpu = phases(make_learner(**kwargs), rollout)
    if not resident:
        monkeypatch.setattr(batches, "_GPU_RESIDENT_PART", 0.0)
        kwargs["micro_batch_size"] = 5  # several batches ahead of each other
    learner = make_learner(gpus=1, **kwargs)
    assert all(p.is_cuda for p in learner.module[DEFAULT_MODULE_ID].parameters())
    got, metrics, aux = phases(learner, rollout)
    for name, p in got.items():
        torch.testing.assert_close(p.cpu(), expected[name], rtol=1e-3, atol=1e-4, msg=name)
    assert metrics == pytest.approx(metrics_cpu, rel=1e-2, abs=1e-3)
    assert aux[-1] == pytest.approx(aux_cpu[-1], rel=1e-2, abs=1e-3)


def test_the_observation_filter_on_a_gpu():
    learner = make_learner(gpus=1, env_runners={"observation_filter": "MeanStdFilter"})
    learner.set_observation_filter(DEFAULT_MODULE_ID, np.full(3, 2.0), np.full(3, 4.0))
    filter_ = learner.module[DEFAULT_MODULE_ID].observation_filter
    out = filter_(torch.full((1, 3), 6.0, device=filter_.mean.device))
    assert out.tolist() == [[1.0, 1.0, 1.0]]
    phases(learner, make_rollout())


def test_bfloat16_on_a_gpu():
    kwargs = {"obs": SPACES[1], "e_aux": 1, "num_minibatches": 2}
    rollout = make_rollout(obs=SPACES[1])
    _, metrics, aux = phases(make_learner(gpus=1, **kwargs), rollout)
    precisions = {"policy_precision": "bfloat16", "aux_precision": "bfloat16"}
    parameters, metrics_b, aux_b = phases(make_learner(gpus=1, **precisions, **kwargs), rollout)
    assert all(p.dtype == torch.float32 for p in parameters.values())
    assert metrics_b["vf_loss"] == pytest.approx(metrics["vf_loss"], rel=0.05)
    assert aux_b[0]["aux/vf_aux_loss"] == pytest.approx(aux[0]["aux/vf_aux_loss"], rel=0.05)


def test_a_restored_learner_on_a_gpu_goes_on_as_the_first():
    kwargs = {"obs": SPACES[1], "e_aux": 1, "gpus": 1}
    learner, restored = make_learner(**kwargs), make_learner(**kwargs, seed=1)
    phases(learner, make_rollout(obs=SPACES[1]))
    restored.set_state(pickle.loads(pickle.dumps(learner.get_state())))
    after = [phases(x, make_rollout(seed=1, obs=SPACES[1]))[0] for x in (learner, restored)]
    for name, p in after[0].items():
        torch.testing.assert_close(p, after[1][name], rtol=1e-3, atol=1e-4, msg=name)
