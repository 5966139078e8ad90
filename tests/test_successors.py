"""PPG's successors: DCPG's delayed value function, PPG-EWMA, DrAC, and SB3's `target_kl`.

As in test_learner.py: with SGD of learning rate 1 and one minibatch, an epoch moves each parameter
by minus its gradient, and what it should be is written out in float64.
"""

import copy
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns

from rllib_ppg import PPGConfig
from rllib_ppg.losses import L_clip, L_clip_decoupled, L_KL_decoupled
from tests.support.learners import (
    ACT,
    SGDLearner,
    aux_phase,
    make_learner,
    make_rollout,
    parameters,
    phases,
    policy_phase,
)
from tests.support.references import (
    ATOL,
    RTOL,
    distribution,
    mean_gradients,
    reference_module,
    reference_targets,
)

pytestmark = pytest.mark.unit

IMAGES = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
ALL = {
    "vf_phase": "auxiliary",
    "proximal": "ewma",
    "adv_ewma_decay": 0.5,
    "target_kl": 0.05,
    "arch": "shared",
    "e_pi": 2,
}


def inverted(images, u):
    return 255 - images


class Reference:
    """An iteration of the policy phase on one rollout, by hand."""

    def __init__(self, learner, rollout):
        self.module = reference_module(learner)
        self.ok = rollout.valid
        self.obs = torch.tensor(rollout.obs[self.ok])
        if rollout.obs.dtype != np.uint8:
            self.obs = self.obs.double()
        self.actions = torch.tensor(rollout.actions[self.ok])
        self.logp_old = torch.tensor(rollout.logp[self.ok]).double()
        rewards = rollout.rewards.astype(np.float64)
        V, A, V_targ = reference_targets(self.module, rollout, rewards)
        self.V_old, self.raw_A, self.V_targ = (torch.tensor(x[self.ok]) for x in (V, A, V_targ))
        self.A = (self.raw_A - self.raw_A.mean()) / (self.raw_A.std(correction=0) + 1e-8)

    def forward(self, obs=None, module=None):
        out = (module or self.module).forward_train({Columns.OBS: self.obs if obs is None else obs})
        return distribution(out[Columns.ACTION_DIST_INPUTS], ACT), out[Columns.VF_PREDS]

    def surrogate(self, pi):
        r = (pi.log_prob(self.actions) - self.logp_old).exp()
        return torch.minimum(r * self.A, r.clamp(0.8, 1.2) * self.A).mean()

    def step(self, loss):
        mean_gradients(self.module, loss)
        with torch.no_grad():
            for p in self.module.parameters():
                if p.grad is not None:
                    p -= p.grad

    def assert_reached(self, learner):
        after = parameters(learner)
        for name, p in self.module.named_parameters():
            torch.testing.assert_close(after[name], p.detach(), rtol=RTOL, atol=ATOL, msg=name)


# -- PPG-EWMA ----------------------------------------------------------------------------------


def test_decoupled_objectives():
    rng = np.random.default_rng(0)
    logp, old, prox = rng.normal(-1.0, 0.5, (3, 200))
    A = rng.normal(size=200)
    prob, p_old, p_prox = np.exp(logp), np.exp(old), np.exp(prox)
    p_old = np.maximum(p_old, prob / 1.5)  # pi / pi_old is at most 1.5
    clipped = np.clip(prob / p_prox, 0.8, 1.2)
    expected = p_prox / p_old * np.minimum(prob / p_prox * A, clipped * A)
    tensors = [torch.tensor(x) for x in (logp, old, prox, A)]
    got = L_clip_decoupled(*tensors, 0.2, 1.5)
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    expected = prob / p_old * A - 0.3 * 0.5 * (logp - prox) ** 2
    got = L_KL_decoupled(*tensors, 0.3, 1.5)
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    logp, old, _, A = tensors
    torch.testing.assert_close(
        L_clip_decoupled(logp, old, old, A, 0.2, None), L_clip(logp, old, A, 0.2)
    )
    wide = L_clip_decoupled(logp, old, old, A, 1.0, None)  # where 1 - epsilon is 0
    torch.testing.assert_close(wide, L_clip(logp, old, A, 1.0))


@pytest.mark.parametrize("kl_penalty", [0.0, 0.5])
@pytest.mark.parametrize("importance_max", [1.05, None])
def test_ewma_phases(kl_penalty, importance_max):
    """Two iterations, an auxiliary phase after which the average begins anew, and one more."""
    beta, decay = 0.7, 0.6
    learner = make_learner(
        SGDLearner, proximal="ewma", proximal_decay=beta, adv_ewma_decay=decay, e_pi=3, e_v=3,
        importance_max=importance_max, kl_penalty=kl_penalty, normalize_rewards=False,
        clip_param=0.05, double=True, e_aux=1,
    )  # fmt: skip
    history, all_A, stored = [reference_module(learner)], [], []
    for i in range(3):
        rollout = make_rollout(seed=i)
        it = Reference(learner, rollout)
        all_A.append(it.raw_A.numpy())
        weights = np.concatenate([np.full(len(x), decay ** (i - k)) for k, x in enumerate(all_A)])
        mean = np.average(np.concatenate(all_A), weights=weights)
        var = np.average((np.concatenate(all_A) - mean) ** 2, weights=weights)
        A = (it.raw_A - mean) / (math.sqrt(var) + 1e-8)
        for _ in range(3):
            prox = copy.deepcopy(it.module)
            share = np.array([beta ** (len(history) - 1 - k) for k in range(len(history))])
            share /= share.sum()
            with torch.no_grad():
                for p, *past in zip(
                    prox.parameters(), *(m.parameters() for m in history), strict=True
                ):
                    p.copy_(sum(w * x for w, x in zip(share, past, strict=True)))
                logp_prox = it.forward(module=prox)[0].log_prob(it.actions)
            pi, V = it.forward()
            logp = pi.log_prob(it.actions)
            ratio = (logp - it.logp_old).exp()
            if importance_max:
                ratio = ratio * (importance_max / ratio.detach()).clamp(max=1.0)
            if kl_penalty:
                objective = ratio * A - kl_penalty * 0.5 * (logp - logp_prox) ** 2
            else:
                r = (logp - logp_prox).exp()
                kept = torch.where((r * A) <= (r.clamp(0.95, 1.05) * A), r, r.clamp(0.95, 1.05))
                # p_prox / p_old is a number: the bound does not depend on what is trained.
                objective = kept * (ratio / r).detach() * A
            loss = -objective.mean() - 0.01 * pi.entropy().mean()
            it.step(loss + 0.5 * (V - it.V_targ).square().mean())
            history.append(copy.deepcopy(it.module))
        _, (info,), (block,) = policy_phase(learner, rollout)
        stored.append((info, block))
        it.assert_reached(learner)
        if i == 1:
            aux_phase(learner, stored)
            history = [reference_module(learner)]


def test_an_average_of_one_is_the_policy_itself():
    """With proximal_decay=0 nothing is ever clipped, as r = 1 at each step."""
    learner = make_learner(proximal="ewma", proximal_decay=0.0, e_pi=4, e_v=4, lr=1e-2)
    metrics, _, _ = policy_phase(learner, make_rollout())
    assert metrics["clip_fraction"] == 0
    assert metrics["approx_kl"] == 0


# -- target_kl ---------------------------------------------------------------------------------


@pytest.mark.parametrize("e_v", [10, 1])
def test_the_policy_stops_at_target_kl_and_the_value_function_goes_on(e_v):
    target_kl = 0.02
    learner = make_learner(
        SGDLearner, target_kl=target_kl, e_pi=10, e_v=e_v, normalize_rewards=False, double=True
    )
    rollout = make_rollout()
    it, done = Reference(learner, rollout), 0
    for e in range(10):
        pi, V = it.forward()
        log_r = pi.log_prob(it.actions) - it.logp_old
        may = bool(((log_r.exp() - 1) - log_r).mean() <= 1.5 * target_kl) and done == e
        loss = 0.5 * (V - it.V_targ).square().mean() if e < e_v else torch.zeros(())
        if may:
            done += 1
            loss = loss - it.surrogate(pi) - 0.01 * pi.entropy().mean()
        if loss.requires_grad:
            it.step(loss)
    assert 0 < done < 10
    metrics, _, _ = policy_phase(learner, rollout)
    it.assert_reached(learner)
    assert metrics["policy_epochs_done"] == done
    assert metrics["target_kl_stopped"] == 1


def test_the_policy_may_stop_within_an_epoch():
    learner = make_learner(
        target_kl=0.02, e_pi=6, e_v=6, num_minibatches=3, lr=1e-2, segment_length=2
    )
    metrics, _, _ = policy_phase(learner, make_rollout())
    steps = {
        name: int(learner.get_optimizer(DEFAULT_MODULE_ID).state[p]["step"])
        for name, p in learner.module[DEFAULT_MODULE_ID].named_parameters()
        if p in learner.get_optimizer(DEFAULT_MODULE_ID).state
    }
    (of_policy,) = {n for name, n in steps.items() if name.startswith("pi")}
    (of_value,) = {n for name, n in steps.items() if name.startswith("vf")}
    assert of_value == 18
    assert of_policy % 3
    assert metrics["policy_epochs_done"] == pytest.approx(of_policy / 3)


def test_a_high_target_kl_changes_nothing():
    expected, metrics, _ = phases(make_learner(e_pi=2), make_rollout())
    got, with_target, _ = phases(make_learner(e_pi=2, target_kl=100.0), make_rollout())
    for name, p in expected.items():
        assert torch.equal(got[name], p)
    assert with_target["target_kl_stopped"] == 0
    assert with_target["policy_epochs_done"] == 2
    own = {"sampled_kl", "target_kl_stopped", "policy_epochs_done"}
    assert with_target.keys() - metrics.keys() == own


# -- DCPG --------------------------------------------------------------------------------------


@pytest.mark.parametrize("coeff", [1.5, 0.0])
def test_a_delayed_value_function_stays_where_it_was(coeff):
    learner = make_learner(
        SGDLearner, vf_phase="auxiliary", vf_clone_coeff=coeff, arch="shared", e_pi=3, e_v=2,
        normalize_rewards=False, double=True, e_aux=1, aux_losses={"reward": {"hidden": 4}},
    )  # fmt: skip
    rollout = make_rollout()
    it = Reference(learner, rollout)
    for _ in range(3):
        pi, V = it.forward()
        clone = 0.5 * (V - it.V_old).square().mean()
        it.step(-it.surrogate(pi) - 0.01 * pi.entropy().mean() + coeff * clone)
    metrics, (info,), (block,) = policy_phase(learner, rollout)
    it.assert_reached(learner)
    if coeff:
        assert metrics["vf_clone_loss"] == pytest.approx(clone.item(), rel=1e-5)
    assert "vf_loss" not in metrics
    (aux,) = aux_phase(learner, [(info, block)])
    V_targ = torch.tensor(block.columns["V_targ"][block.valid])
    expected = 0.5 * (it.forward()[1] - V_targ).square().mean().item()
    assert aux["aux/vf_loss"] == pytest.approx(expected, rel=1e-5)


def test_with_two_networks_the_value_network_does_not_move_in_the_policy_phase():
    learner = make_learner(vf_phase="auxiliary", e_aux=1)
    for _ in range(2):  # also with momentum from the auxiliary phase
        before = parameters(learner)
        _, (info,), (block,) = policy_phase(learner, make_rollout())
        for name, p in parameters(learner).items():
            assert torch.equal(p, before[name]) != name.startswith("pi"), name
        aux_phase(learner, [(info, block)])


# -- DrAC --------------------------------------------------------------------------------------


@pytest.mark.parametrize("e_v", [1, 2])
def test_drac_in_the_policy_phase(e_v):
    learner = make_learner(
        SGDLearner, obs=IMAGES, augmentation=inverted, augmentation_phase="both",
        augmentation_coeff=0.3, e_v=e_v, normalize_rewards=False, double=True,
    )  # fmt: skip
    rollout = make_rollout(obs=IMAGES)
    it = Reference(learner, rollout)

    def losses():
        pi, V = it.forward()
        other_pi, other_V = it.forward(obs=255 - it.obs)
        log_p = pi.logits.detach()
        kl = (log_p.exp() * (log_p - other_pi.logits)).sum(1).mean()
        value = 0.5 * (V - it.V_targ).square().mean()
        G_V = (V.detach() - other_V).square().mean()
        policy = -it.surrogate(pi) - 0.01 * pi.entropy().mean() + 0.3 * kl
        return policy, value + 0.3 * G_V, kl, G_V

    if e_v == 1:
        policy, value, kl, G_V = losses()
        it.step(policy + value)
    else:
        for _ in range(e_v):
            _, value, _, G_V = losses()
            it.step(value)
        policy, _, kl, _ = losses()
        it.step(policy)
    metrics, _, _ = policy_phase(learner, rollout)
    it.assert_reached(learner)
    assert metrics["augmentation_kl"] == pytest.approx(kl.item(), rel=1e-5)
    assert metrics["augmentation_vf_loss"] == pytest.approx(G_V.item(), rel=1e-5)


def test_a_state_has_numbers_of_its_own_in_each_epoch_of_the_policy_phase():
    seen = []

    def watch(images, u):
        seen.append(u.clone())
        return images

    learner = make_learner(obs=IMAGES, augmentation=watch, augmentation_phase="both", e_pi=2, e_v=1)
    rollout = make_rollout(obs=IMAGES)
    rollout.valid[:] = True
    policy_phase(learner, rollout)
    numbers = np.concatenate([u.numpy() for u in seen if len(u) == rollout.valid.size])
    assert len(numbers) == 3 * rollout.valid.size
    assert len(np.unique(numbers)) == numbers.size


# -- All of them -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "training",
    [
        ALL,
        {**ALL, "vf_phase": "both", "arch": "dual", "kl_penalty": 0.5},
        {"obs": IMAGES, "augmentation": "random_crop", "augmentation_phase": "both"},
    ],
    ids=["DCPG and EWMA", "EWMA with a penalty", "DrAC"],
)
def test_micro_batches_do_not_change_the_result(training):
    training = {"double": True, "e_aux": 1, "num_minibatches": 2, **training}
    obs = training.get("obs")
    rollout = make_rollout() if obs is None else make_rollout(obs=obs)
    expected, _, _ = phases(make_learner(SGDLearner, **training), rollout)
    got, _, _ = phases(make_learner(SGDLearner, micro_batch_size=5, **training), rollout)
    for name, p in expected.items():
        torch.testing.assert_close(got[name], p, rtol=1e-9, atol=1e-12, msg=name)


def test_a_state_has_the_averages_and_one_without_begins_anew():
    settings = {"proximal": "ewma", "adv_ewma_decay": 0.5, "e_pi": 2, "lr": 1e-2}
    first, other = make_learner(**settings), make_learner(seed=1, **settings)
    for i in range(2):
        policy_phase(first, make_rollout(seed=i))
    state = first.get_state()
    policy_phase(other, make_rollout(seed=5))
    other.set_state(state)
    for learner in (first, other):
        policy_phase(learner, make_rollout(seed=3))
    for name, p in parameters(first).items():
        assert torch.equal(parameters(other)[name], p), name
    plain = make_learner(seed=2)
    other.set_state(plain.get_state())
    average = other.trained[DEFAULT_MODULE_ID].proximal.module
    for p, expected in zip(average.parameters(), parameters(plain).values(), strict=True):
        assert torch.equal(p, expected)
    plain.set_state(state)  # which has averages that it does not keep


@pytest.mark.parametrize(
    ("training", "error"),
    [
        ({"vf_phase": "aux"}, "vf_phase is one of both, auxiliary, not 'aux'"),
        ({"vf_phase": "auxiliary", "n_pi": 0}, "would leave the value function untrained"),
        ({"vf_phase": "auxiliary", "vf_true_weight": 0}, "a vf_true_weight above 0"),
        ({"proximal": "emwa"}, "proximal is one of .* did you mean 'ewma'"),
        ({"proximal_decay": 1.0}, "proximal_decay is at least 0 and below 1, not 1.0"),
        ({"adv_ewma_decay": float("nan")}, "adv_ewma_decay is at least 0 and below 1, not nan"),
        ({"target_kl": 0}, "target_kl is None or a positive number, not 0"),
        ({"kl_target": 0.01}, "did you mean 'target_kl'"),
        ({"augmentation_phase": "both"}, "augmentation_phase='both' needs an augmentation"),
    ],
)
def test_wrong_settings(training, error):
    with pytest.raises(ValueError, match=error):
        PPGConfig().environment("CartPole-v1").training(**training).validate()
