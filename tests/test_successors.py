"""PPG's successors: DCPG's delayed value function, PPG-EWMA, DrAC, and SB3's `target_kl`.

As in test_learner.py: with SGD of learning rate 1 and one minibatch, an epoch moves each parameter
by minus its gradient, and what it should be is written out in float64.
"""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns

from rllib_ppg import PPGConfig
from rllib_ppg.data.minibatches import Segments
from rllib_ppg.learning.augmented_pass import draw_random_numbers
from rllib_ppg.losses import L_clip, L_clip_decoupled, L_KL_decoupled
from rllib_ppg.networks.rl_module import PPGTorchRLModule
from tests.support.learners import (
    ACT,
    IMAGES,
    REAL,
    N,
    SGDLearner,
    T,
    aux_phase,
    inverted,
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

ALL = {
    "vf_phase": "auxiliary",
    "proximal": "ewma",
    "adv_ewma_decay": 0.5,
    "target_kl": 0.05,
    "arch": "shared",
    "e_pi": 2,
}


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

    def forward_all(self, rollout):
        """The log-probabilities of all actions, masked ones too."""
        with torch.no_grad():
            out = self.module.forward_train({Columns.OBS: torch.tensor(rollout.obs).double()})
        pi = distribution(out[Columns.ACTION_DIST_INPUTS], ACT)
        return pi.log_prob(torch.tensor(rollout.actions))

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


def average_of(history, beta):
    """A module with the weighted average of the parameters and buffers of those before it."""
    share = beta ** np.arange(len(history))[::-1]
    average = copy.deepcopy(history[-1])
    states = [module.state_dict() for module in history]
    mean = {
        name: sum(w * state[name] for w, state in zip(share / share.sum(), states, strict=True))
        for name in states[0]
    }
    average.load_state_dict(mean)
    return average


@pytest.mark.parametrize("kl_penalty", [0.0, 0.5])
@pytest.mark.parametrize(("importance_max", "target_kl"), [(1.05, None), (None, 0.018)])
def test_ewma_phases(kl_penalty, importance_max, target_kl):
    """Two iterations, an auxiliary phase after which the average begins anew, and one more."""
    beta, decay = 0.7, 0.6
    learner = make_learner(
        SGDLearner, proximal="ewma", proximal_decay=beta, adv_ewma_decay=decay, e_pi=3, e_v=3,
        importance_max=importance_max, kl_penalty=kl_penalty, normalize_rewards=False,
        clip_param=0.05, double=True, e_aux=1, target_kl=target_kl,
    )  # fmt: skip
    history, all_A, stored, policy_steps = [reference_module(learner)], [], [], []
    for i in range(3):
        rollout = make_rollout(seed=i)
        it = Reference(learner, rollout)
        all_A.append(it.raw_A.numpy())
        weights = np.concatenate([np.full(len(x), decay ** (i - k)) for k, x in enumerate(all_A)])
        mean = np.average(np.concatenate(all_A), weights=weights)
        var = np.average((np.concatenate(all_A) - mean) ** 2, weights=weights)
        A = (it.raw_A - mean) / (math.sqrt(var) + 1e-8)
        policy_steps.append(0)
        for e in range(3):
            with torch.no_grad():
                pi_prox, _ = it.forward(module=average_of(history, beta))
                logp_prox = pi_prox.log_prob(it.actions)
            pi, V = it.forward()
            logp = pi.log_prob(it.actions)
            loss = 0.5 * (V - it.V_targ).square().mean()
            ratio = (logp - it.logp_old).exp()
            log_r = ratio.log().detach()
            if target_kl is None or (log_r.exp() - 1 - log_r).mean() <= 1.5 * target_kl:
                assert policy_steps[-1] == e  # it does not begin again
                policy_steps[-1] += 1
                above = (ratio > (importance_max or math.inf)).double().mean()
                if importance_max:
                    ratio = ratio * (importance_max / ratio.detach()).clamp(max=1.0)
                if kl_penalty:
                    objective = ratio * A - kl_penalty * 0.5 * (logp - logp_prox) ** 2
                else:
                    r = (logp - logp_prox).exp()
                    clipped = r.clamp(0.95, 1.05)
                    kept = torch.where(r * A <= clipped * A, r, clipped)
                    # p_prox / p_old is a number: the bound does not depend on what is trained.
                    objective = kept * (ratio / r).detach() * A
                loss = loss - objective.mean() - 0.01 * pi.entropy().mean()
            it.step(loss)
            if policy_steps[-1] == e + 1:
                history.append(copy.deepcopy(it.module))
        metrics, (info,), (block,) = policy_phase(learner, rollout)
        stored.append((info, block))
        it.assert_reached(learner)
        if importance_max:
            expected = pytest.approx(above.item())
            assert metrics["importance_clip_fraction"] == expected
        if i == 1:
            aux_phase(learner, stored)
            history = [reference_module(learner)]
    assert (min(policy_steps) < 3) == (target_kl is not None)


def test_an_average_of_one_is_the_policy_itself():
    """With proximal_decay=0 nothing is ever clipped, as r = 1 at each step."""
    learner = make_learner(proximal="ewma", proximal_decay=0.0, e_pi=4, e_v=4, lr=1e-2)
    metrics, _, _ = policy_phase(learner, make_rollout())
    assert metrics["clip_fraction"] == 0
    assert metrics["approx_kl"] == 0


def test_buffers_are_averaged_too():
    learner = make_learner(
        SGDLearner, proximal="ewma", proximal_decay=0.5,
        env_runners={"observation_filter": "MeanStdFilter"},
    )  # fmt: skip
    ones, mean = np.ones(3, np.float32), np.array([1.0, 2.0, 3.0], np.float32)
    for k in range(3):  # the average begins with the first
        learner.set_observation_filter(DEFAULT_MODULE_ID, k * mean, ones)
        policy_phase(learner, make_rollout())
    average = learner.trained[DEFAULT_MODULE_ID].proximal.module
    assert not average.training
    # Statistics 0, 0, 1 and 2 with the weights 1/8, 1/4, 1/2 and 1.
    expected = mean * (0.5 * 1 + 1 * 2) / (1 / 8 + 1 / 4 + 1 / 2 + 1)
    np.testing.assert_allclose(average.observation_filter.mean, expected, rtol=1e-6)


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


def test_what_counts_is_the_minibatch():
    """Not the epoch so far: the first minibatch is near to pi_old, the second one is not."""
    rollout = make_rollout()
    segments = Segments([np.arange(N)], N, T, T)
    _, second = segments.epoch((1, 0), 2)
    learner = make_learner(SGDLearner, target_kl=0.4, num_minibatches=2, double=True)
    logp = Reference(learner, rollout).forward_all(rollout).numpy().ravel()
    logp[second] -= 1.0  # a KL of e - 2 = .72 there, and half of it over both
    logp = logp.reshape(rollout.logp.shape).astype(np.float32)
    metrics, _, _ = policy_phase(learner, replace(rollout, logp=logp))
    assert metrics["policy_epochs_done"] == 0.5


def test_a_policy_that_stops_needs_no_value_function_to_train():
    learner = make_learner(target_kl=1e-9, vf_loss_coeff=0.0)
    before = parameters(learner)
    policy_phase(learner, make_rollout())
    for name, p in parameters(learner).items():
        assert torch.equal(p, before[name])


class WithoutSampledKL(SGDLearner):
    def policy_and_value_loss(self, module, batch):
        terms = super().policy_and_value_loss(module, batch)
        del terms["sampled_kl"]
        return terms


def test_an_own_loss_has_to_have_the_term_that_target_kl_looks_at():
    error = (
        r"target_kl needs the term 'sampled_kl', which policy_and_value_loss\(\) does not return"
    )
    with pytest.raises(ValueError, match=error):
        make_learner(WithoutSampledKL, target_kl=0.1)


@pytest.mark.parametrize(("act", "target_kl", "lr"), [(ACT, 0.01, 3e-3), (REAL, 0.02, 5e-4)])
def test_auto_is_a_limit_for_each_dimension_of_the_actions(act, target_kl, lr):
    def trained(setting):
        learner = make_learner(act=act, target_kl=setting, lr=lr, e_pi=20, num_minibatches=2)
        module, rollout = learner.module[DEFAULT_MODULE_ID], make_rollout(act=act)
        with torch.no_grad():  # the policy is the one that acted
            out = module.forward_train({Columns.OBS: torch.tensor(rollout.obs.reshape(N * T, -1))})
        pi = module.get_train_action_dist_cls().from_logits(out[Columns.ACTION_DIST_INPUTS])
        actions = torch.tensor(rollout.actions).flatten(0, 1)
        logp = pi.logp(actions).reshape(N, T).numpy()
        metrics, _, _ = policy_phase(learner, replace(rollout, logp=logp))
        return metrics["policy_epochs_done"], parameters(learner)

    (done, got), (expected_done, expected) = trained("auto"), trained(target_kl)
    assert 0 < done == expected_done < 20
    for name, p in expected.items():
        assert torch.equal(got[name], p)
    assert trained(target_kl / 2)[0] < done < trained(2 * target_kl)[0]


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


class AllOutputs(PPGTorchRLModule):
    """One of a user's own: it returns all that it has, and does not say what its networks share."""

    def setup(self):
        super().setup()
        del self.arch

    def _forward_train(self, batch, **kwargs):
        self.arch = self.model_config["arch"]
        out = super()._forward_train(batch)
        del self.arch
        return out


def test_an_own_module_with_one_encoder_is_kept_where_it_was():
    learner = make_learner(module_class=AllOutputs, arch="shared", vf_phase="auxiliary")
    metrics, _, _ = policy_phase(learner, make_rollout())
    assert "vf_clone_loss" in metrics


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


@pytest.mark.parametrize("settings", [{"e_v": 2}, {"vf_phase": "auxiliary"}])
def test_drac_trains_what_an_epoch_trains(settings):
    """Also with a module that returns more than it is asked for."""
    learner = make_learner(
        SGDLearner, obs=IMAGES, augmentation=inverted, augmentation_phase="both",
        module_class=AllOutputs, **settings,
    )  # fmt: skip
    losses = learner.trained[DEFAULT_MODULE_ID].losses
    names = {p: name for name, p in learner.module[DEFAULT_MODULE_ID].named_parameters()}
    assert ("value_loss" in losses) == ("e_v" in settings)
    for loss, (_, buffer) in losses.items():
        if loss in ("policy_loss", "value_loss"):
            part = "pi" if loss == "policy_loss" else "vf"
            assert {names[p].split(".")[0] for p in buffer.parameters} == {f"{part}_encoder", part}


def test_a_state_has_numbers_of_its_own_in_each_epoch_of_the_policy_phase():
    seen = []

    def watch(images, u):
        seen.append(u.clone())
        return images

    learner = make_learner(obs=IMAGES, augmentation=watch, augmentation_phase="both", e_pi=2, e_v=1)
    rollout = make_rollout(obs=IMAGES)
    rollout.valid[:] = True
    for seed in (1, 2):
        policy_phase(learner, rollout, seed=seed)
    numbers = np.concatenate([u.numpy() for u in seen if len(u) == rollout.valid.size])
    assert len(numbers) == 2 * 3 * rollout.valid.size
    assert len(np.unique(numbers)) == numbers.size


def test_numbers_are_those_of_a_row_wherever_it_is():
    whole = draw_random_numbers(range(6), T, (1, 0)).reshape(6, T, -1)
    part = draw_random_numbers([1, 4], T, (1, 0)).reshape(2, T, -1)
    np.testing.assert_array_equal(part, whole[[1, 4]])
    assert draw_random_numbers([], T, (1, 0)).shape == (0, whole.shape[-1])


# -- All of them -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "training",
    [
        ALL,
        {**ALL, "vf_phase": "both", "arch": "dual", "kl_penalty": 0.5},
        {
            "obs": IMAGES,
            "augmentation": "random_crop",
            "augmentation_phase": "both",
            "proximal": "ewma",
        },
    ],
    ids=["DCPG and EWMA", "EWMA with a penalty", "DrAC and EWMA"],
)
def test_micro_batches_do_not_change_the_result(training):
    training = {"double": True, "e_aux": 1, "num_minibatches": 2, **training}
    obs = training.get("obs")
    rollout = make_rollout() if obs is None else make_rollout(obs=obs)
    expected, _, _ = phases(make_learner(SGDLearner, **training), rollout)
    got, _, _ = phases(make_learner(SGDLearner, micro_batch_size=5, **training), rollout)
    for name, p in expected.items():
        torch.testing.assert_close(got[name], p, rtol=1e-9, atol=1e-12, msg=name)


AVERAGES = {"proximal": "ewma", "adv_ewma_decay": 0.5, "e_pi": 2, "e_v": 2, "lr": 1e-2}


def assert_goes_on_alike(*learners):
    for learner in learners:
        policy_phase(learner, make_rollout(seed=3))
    for name, p in parameters(learners[0]).items():
        assert torch.equal(parameters(learners[1])[name], p), name


def test_a_state_has_the_averages():
    first, other = make_learner(**AVERAGES), make_learner(seed=1, **AVERAGES)
    for i in range(2):
        policy_phase(first, make_rollout(seed=i))
    policy_phase(other, make_rollout(seed=5))
    other.set_state(first.get_state())
    assert_goes_on_alike(first, other)
    make_learner().set_state(first.get_state())  # which does not keep averages
    assert "averages" not in first.get_state(components="rl_module")  # for env runners


def test_averages_begin_anew_where_a_checkpoint_has_none():
    other = make_learner(SGDLearner, seed=1, **AVERAGES)
    policy_phase(other, make_rollout(seed=5))
    other.set_state(make_learner(SGDLearner).get_state())
    assert_goes_on_alike(other, make_learner(SGDLearner, **AVERAGES))


def test_averages_begin_anew_with_weights_that_are_loaded_alone(tmp_path):
    source = make_learner(seed=1)
    source.save_to_path(tmp_path)
    learner = make_learner(**AVERAGES)
    learner.restore_from_path(tmp_path / "rl_module", component="rl_module")
    assert_goes_on_alike(learner, make_learner(seed=1, **AVERAGES))


def test_an_average_is_restored_with_other_heads():
    losses = {"value": 1.0, "reward": {"hidden": 4}}
    first, other = make_learner(**AVERAGES), make_learner(aux_losses=losses, **AVERAGES)
    policy_phase(first, make_rollout())
    state = first.trained[DEFAULT_MODULE_ID].get_averages()
    other.trained[DEFAULT_MODULE_ID].set_averages(state)
    there, here = (x.trained[DEFAULT_MODULE_ID].proximal.module for x in (first, other))
    for name, p in there.named_parameters():
        assert torch.equal(here.get_parameter(name), p)
    first.trained[DEFAULT_MODULE_ID].set_averages(other.trained[DEFAULT_MODULE_ID].get_averages())


@pytest.mark.parametrize(
    ("training", "error"),
    [
        ({"vf_phase": "aux"}, "vf_phase is one of both, auxiliary, not 'aux'"),
        ({"vf_phase": "auxiliary", "n_pi": 0}, "would leave the value function untrained"),
        ({"vf_phase": "auxiliary", "vf_true_weight": 0}, "a vf_true_weight above 0"),
        ({"proximal": "emwa"}, "proximal is one of .* did you mean 'ewma'"),
        ({"proximal_decay": 1.0}, "proximal_decay is at least 0 and below 1, not 1.0"),
        ({"adv_ewma_decay": float("nan")}, "adv_ewma_decay is at least 0 and below 1, not nan"),
        ({"importance_max": 0.5}, "importance_max is None or a number of at least 1, not 0.5"),
        ({"target_kl": 0}, "target_kl is None or 'auto' or a positive number, not 0"),
        ({"kl_target": 0.01}, "no setting 'kl_target': set kl_penalty to penalise the KL"),
        ({"augmentation_phase": "both"}, "augmentation_phase='both' needs an augmentation"),
    ],
)
def test_wrong_settings(training, error):
    with pytest.raises(ValueError, match=error):
        PPGConfig().environment("CartPole-v1").training(**training).validate()
