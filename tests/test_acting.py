"""Drawing actions: their frequencies and log-probabilities are the policy's."""

import numpy as np
import pytest
import torch
from ray.rllib.core.distribution.torch.torch_distribution import (
    TorchCategorical,
    TorchDiagGaussian,
)

from rllib_ppg import PPGConfig
from rllib_ppg.inference.action_sampling import draw
from rllib_ppg.sampling.env_runner import BatchedEnvRunner

pytestmark = pytest.mark.unit


def RNG():
    return np.random.default_rng(0)


def test_frequencies_and_logp_of_discrete_actions():
    pi = np.array([0.5, 0.3, 0.15, 0.05, 0.0])
    B = 200_000
    with np.errstate(divide="ignore"):
        logits = torch.from_numpy(np.log(pi) + 3.0).expand(B, -1)
    actions, logp = draw(TorchCategorical, logits, RNG())
    frequencies = np.bincount(actions, minlength=5) / B
    assert frequencies[4] == 0
    assert frequencies[:4] == pytest.approx(pi[:4], abs=4 * np.sqrt(0.25 / B))
    assert np.exp(logp) == pytest.approx(pi[actions])
    neighbours = np.mean(actions[1:] == actions[:-1])  # independent from state to state
    assert neighbours == pytest.approx((pi**2).sum(), abs=4 * np.sqrt(0.25 / B))


def test_moments_and_logp_of_gaussian_actions():
    mean, log_std, B = np.array([0.5, -2.0]), np.array([-1.0, 0.7]), 100_000
    inputs = torch.tensor([*mean, *log_std]).float().expand(B, -1)
    actions, logp = draw(TorchDiagGaussian, inputs, RNG())
    assert actions.dtype == logp.dtype == np.float32
    assert actions.mean(0) == pytest.approx(mean, abs=4 * np.exp(0.7) / np.sqrt(B))
    assert actions.std(0) == pytest.approx(np.exp(log_std), rel=0.02)
    assert np.corrcoef(actions.T)[0, 1] == pytest.approx(0.0, abs=4 / np.sqrt(B))
    density = np.prod(
        np.exp(-0.5 * ((actions - mean) / np.exp(log_std)) ** 2)
        / (np.exp(log_std) * np.sqrt(2 * np.pi)),
        axis=1,
    )
    assert np.exp(logp) == pytest.approx(density, rel=1e-4, abs=1e-7)


def test_mode():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    actions, logp = draw(TorchCategorical, logits, None)
    assert actions.tolist() == [1, 0]
    assert np.exp(logp) == pytest.approx(
        [np.exp(2) / (1 + np.exp(2) + np.e), np.exp(3) / (np.exp(3) + 2)]
    )
    mean, log_std = [0.5, -1.0], [0.0, np.log(2.0)]
    actions, logp = draw(TorchDiagGaussian, torch.tensor([mean + log_std]), None)
    assert actions == pytest.approx(np.array([mean]))
    assert logp == pytest.approx([-np.log(2 * np.pi) - np.log(2.0)])


def test_a_policy_that_is_nan_is_said():
    config = PPGConfig().environment("CartPole-v1").env_runners(num_envs_per_env_runner=2)
    runner = BatchedEnvRunner(config=config, worker_index=1)
    with torch.no_grad():
        next(runner.module.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN or infinite log-probability from env 0"):
        runner.sample_rollout(1)
    runner.stop()
