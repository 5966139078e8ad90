"""The losses against the paper's formulas, written out in plain Python for single states."""

import math

import pytest
import torch
from ray.rllib.core.distribution.torch.torch_distribution import TorchCategorical, TorchDiagGaussian

from rllib_ppg.losses import L_KL, L_aux, L_clip, L_value, clone_KL

pytestmark = pytest.mark.unit


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective"),
    [
        (1.0, 2.0, 2.0),
        (1.5, 2.0, 1.2 * 2.0),  # a gain beyond 1 + epsilon is clipped
        (1.5, -2.0, 1.5 * -2.0),  # a loss is not
        (0.5, 2.0, 0.5 * 2.0),
        (0.5, -2.0, 0.8 * -2.0),
    ],
)
def test_L_clip_is_pessimistic(ratio, advantage, objective):
    logp_old = f64(-1.3)
    logp = logp_old + math.log(ratio)
    got = L_clip(logp, logp_old, f64(advantage), clip_param=0.2)
    assert got.item() == pytest.approx(objective, rel=1e-12)


def test_L_clip_has_no_gradient_where_it_is_clipped():
    logp = f64(math.log(1.5), math.log(1.1)).requires_grad_()
    L_clip(logp, f64(0.0, 0.0), f64(1.0, 1.0), clip_param=0.2).sum().backward()
    # d/dlogp of r A is r A: 0 where clipped, 1.1 inside.
    assert logp.grad.tolist() == pytest.approx([0.0, 1.1])


def test_L_KL_penalises_instead_of_clipping():
    log_r = math.log(2.0)
    got = L_KL(f64(log_r), f64(0.0), f64(3.0), kl_penalty=0.7)
    assert got.item() == pytest.approx(2.0 * 3.0 - 0.7 * 0.5 * log_r**2, rel=1e-12)


def test_value_losses_are_half_squared_errors():
    V, V_targ = f64(1.0, -2.0), f64(4.0, 0.5)
    assert L_value(V, V_targ).tolist() == pytest.approx([4.5, 3.125])
    assert L_aux(V, V_targ).tolist() == pytest.approx([4.5, 3.125])


def test_clone_KL_of_categoricals_goes_from_old_to_new():
    p, q = [0.7, 0.2, 0.1], [0.05, 0.05, 0.9]
    expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    reverse = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    old, new = (TorchCategorical.from_logits(torch.log(f64(*x))[None]) for x in (p, q))
    assert clone_KL(old, new).item() == pytest.approx(expected, rel=1e-12)
    assert abs(expected - reverse) > 0.1  # so that the direction matters here


def test_clone_KL_of_gaussians_sums_over_action_dimensions():
    m0, s0 = (0.3, -1.0), (0.5, 2.0)
    m1, s1 = (0.0, 1.0), (1.5, 1.0)
    expected = sum(
        math.log(b / a) + (a**2 + (m - n) ** 2) / (2 * b**2) - 0.5
        for m, a, n, b in zip(m0, s0, m1, s1, strict=True)
    )

    def gaussian(mean, std):
        return TorchDiagGaussian.from_logits(torch.cat([f64(*mean), torch.log(f64(*std))])[None])

    got = clone_KL(gaussian(m0, s0), gaussian(m1, s1))
    assert got.shape == (1,)
    assert got.item() == pytest.approx(expected, rel=1e-12)
