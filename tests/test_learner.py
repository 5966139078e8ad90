"""The learner's phases, without Ray: what they train, against gradients written out in float64.

With SGD of learning rate 1 and one minibatch, a phase moves each parameter by minus its gradient.
Where results are compared, the networks are float64 too. Advantages and value targets stay float32,
so that results agree to a few of its roundings (2**-24 = 6e-8 each), on every CPU.
"""

import pickle
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from torch.distributions import Categorical, kl_divergence

from rllib_ppg.learning import batches
from rllib_ppg.learning.trained_module import TrainedModule
from rllib_ppg.networks.rl_module import PPGTorchRLModule
from tests.support.learners import (
    ACT,
    REAL,
    N,
    SGDLearner,
    T,
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
    assert_moved_by,
    distribution,
    mean_gradients,
    reference_module,
    reference_targets,
)

pytestmark = pytest.mark.unit


def moved(before, after):
    return {name.split(".")[0] for name, p in before.items() if not torch.equal(p, after[name])}


@pytest.mark.parametrize("act", [ACT, REAL], ids=["discrete", "real"])
@pytest.mark.parametrize("kl_penalty", [0.0, 0.5])
@pytest.mark.parametrize("arch", ["dual", "detach", "shared"])
def test_policy_phase_gradient(arch, kl_penalty, act):
    learner = make_learner(
        SGDLearner,
        act=act, arch=arch, kl_penalty=kl_penalty, entropy_coeff=0.03, vf_loss_coeff=0.7,
        double=True,
    )  # fmt: skip
    module, before, r = reference_module(learner), parameters(learner), make_rollout(act=act)
    scale = 0.2
    rewards = np.clip(r.rewards.astype(np.float64) / scale, -10, 10)
    assert (np.abs(r.rewards / scale) > 10).any()  # so that the clipping shows
    values, A, V_targ = reference_targets(module, r, rewards)
    ok = r.valid
    A = (A - A[ok].mean()) / (A[ok].std() + 1e-8)

    out = module.forward_train({Columns.OBS: torch.tensor(r.obs[ok]).double()})
    pi = distribution(out[Columns.ACTION_DIST_INPUTS], act)
    log_r = pi.log_prob(torch.tensor(r.actions[ok])) - torch.tensor(r.logp[ok]).double()
    ratio, adv = log_r.exp(), torch.tensor(A[ok])
    if kl_penalty:
        surrogate = ratio * adv - kl_penalty * 0.5 * log_r**2
    else:
        surrogate = torch.minimum(ratio * adv, ratio.clamp(0.8, 1.2) * adv)
    mse = (out[Columns.VF_PREDS] - torch.tensor(V_targ[ok])) ** 2
    loss = -surrogate.mean() - 0.03 * pi.entropy().mean() + 0.7 * 0.5 * mse.mean()
    gradients = mean_gradients(module, loss)

    metrics, _, (block,) = policy_phase(learner, r, reward_scale=scale)
    assert_moved_by(before, parameters(learner), gradients)
    np.testing.assert_allclose(block.columns["V_targ"], V_targ, rtol=RTOL, atol=ATOL)
    expected = {
        "policy_loss": -surrogate.mean(),
        "vf_loss": 0.5 * mse.mean(),
        "entropy": pi.entropy().mean(),
        "clip_fraction": ((ratio - 1).abs() > 0.2).double().mean(),
        "approx_kl": 0.5 * (log_r**2).mean(),
        "vf_explained_var": 1 - (V_targ - values)[ok].var() / V_targ[ok].var(),
    }
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(float(value.item()), rel=RTOL, abs=ATOL), name


@pytest.mark.parametrize("act", [ACT, REAL], ids=["discrete", "real"])
@pytest.mark.parametrize(("beta_clone", "vf_true_weight"), [(1.0, 1.0), (0.3, 2.0), (2.0, 0.0)])
@pytest.mark.parametrize("arch", ["dual", "detach", "shared"])
def test_auxiliary_phase_gradient(arch, beta_clone, vf_true_weight, act):
    learner = make_learner(
        SGDLearner,
        act=act, arch=arch, beta_clone=beta_clone, vf_true_weight=vf_true_weight, e_aux=2,
        micro_batch_size=7, double=True,
    )  # fmt: skip
    _, (info,), (block,) = policy_phase(learner, make_rollout(act=act))
    ok, obs = block.valid, torch.tensor(block.obs[block.valid]).double()
    V_targ = torch.tensor(block.columns["V_targ"][ok]).double()
    old = reference_module(learner)
    with torch.no_grad():
        pi_old = distribution(
            old.forward_train({Columns.OBS: obs})[Columns.ACTION_DIST_INPUTS], act
        )

    def step(module):
        """One full-batch gradient step on L_joint + vf_true_weight L_value."""
        out = module.forward_train({Columns.OBS: obs}, aux_phase=True)
        kl = kl_divergence(pi_old, distribution(out[Columns.ACTION_DIST_INPUTS], act)).mean()
        aux = 0.5 * ((out["vf_aux_preds"] - V_targ) ** 2).mean()
        vf = 0.5 * ((out[Columns.VF_PREDS] - V_targ) ** 2).mean()
        loss = aux + beta_clone * kl
        gradients = mean_gradients(module, loss + vf_true_weight * vf if vf_true_weight else loss)
        with torch.no_grad():
            for p in module.parameters():
                if p.grad is not None:
                    p -= p.grad
        return gradients, {"aux/vf_aux_loss": aux, "aux/clone_kl": kl, "aux/vf_loss": vf}

    # The second epoch matters: in the first one pi = pi_old, and the clone term has no gradient.
    before = parameters(learner)
    expected = [step(old)[1] for _ in range(2)]
    metrics = aux_phase(learner, [(info, block)])
    after = parameters(learner)
    for name, p in old.named_parameters():
        torch.testing.assert_close(after[name], p, rtol=RTOL, atol=ATOL, msg=name)
    for got, want in zip(metrics, expected, strict=True):
        for name, value in want.items():
            assert got[name] == pytest.approx(value.item(), rel=RTOL, abs=ATOL), name
    if not vf_true_weight:
        assert moved(before, after) == {"pi_encoder", "pi", "vf_aux"}


@pytest.mark.parametrize("arch", ["dual", "detach", "shared"])
@pytest.mark.parametrize("e_v", [1, 3])
def test_policy_phase_leaves_the_auxiliary_head_alone(arch, e_v):
    """Also after an auxiliary phase, when there is momentum that a zero gradient would follow."""
    learner = make_learner(arch=arch, e_v=e_v, e_aux=1)
    for _ in range(2):
        before = parameters(learner)
        _, (info,), (block,) = policy_phase(learner, make_rollout())
        rest = {"vf_encoder"} if arch == "dual" else set()
        assert moved(before, parameters(learner)) == {"pi_encoder", "pi", "vf"} | rest
        before = parameters(learner)
        aux_phase(learner, [(info, block)])
        assert moved(before, parameters(learner)) == {"pi_encoder", "pi", "vf", "vf_aux"} | rest


@pytest.mark.parametrize(
    ("arch", "value_parts"), [("dual", {"vf_encoder", "vf"}), ("detach", {"vf"})]
)
def test_value_epochs_do_not_touch_the_policy(arch, value_parts, monkeypatch):
    learner = make_learner(arch=arch, e_v=2)
    # Without steps of the policy's optimiser, what moves is what the value epochs moved.
    optimizer = learner.get_optimizer(DEFAULT_MODULE_ID, "default_optimizer")
    monkeypatch.setattr(optimizer, "step", lambda: None)
    before = parameters(learner)
    policy_phase(learner, make_rollout())
    assert moved(before, parameters(learner)) == value_parts


def steps(learner, optimizer):
    states = learner.get_optimizer(DEFAULT_MODULE_ID, optimizer).state.values()
    return {int(s["step"]) for s in states}


def test_gradient_steps_are_counted_as_the_paper_counts_them():
    learner = make_learner(e_pi=2, e_v=3, num_minibatches=2, e_aux=4, num_aux_minibatches=3)
    stored = []
    for i in range(2):
        _, (info,), (block,) = policy_phase(learner, make_rollout(seed=i))
        stored.append((info, block))
    assert steps(learner, "default_optimizer") == {2 * 2 * 2}
    assert steps(learner, "value") == {2 * 3 * 2}
    metrics = aux_phase(learner, stored)
    assert len(metrics) == 4
    assert steps(learner, "aux") == {4 * 3 * 2}  # E_aux epochs x minibatches x iterations
    aux_phase(learner, stored)
    assert steps(learner, "aux") == {2 * 4 * 3 * 2}  # moments go on from phase to phase


def test_relative_adams_count_from_the_last_auxiliary_phase():
    learner = make_learner(adam_relative=True, e_v=2, e_aux=1)
    for i in range(2):
        _, (info,), (block,) = policy_phase(learner, make_rollout(seed=i))
        assert steps(learner, "default_optimizer") == {1}
        assert steps(learner, "value") == {2}
        aux_phase(learner, [(info, block)])
        assert steps(learner, "aux") == {i + 1}


def test_equal_epochs_share_one_pass_and_one_optimiser():
    learner = make_learner(e_pi=2, e_v=2, num_minibatches=3)
    policy_phase(learner, make_rollout())
    assert steps(learner, "default_optimizer") == {6}
    with pytest.raises(KeyError):
        learner.get_optimizer(DEFAULT_MODULE_ID, "value")


def test_value_targets_have_a_lambda_of_their_own():
    def policy_loss_and_targets(**training):
        metrics, _, (block,) = policy_phase(make_learner(e_v=2, **training), make_rollout())
        return metrics["policy_loss"], block.columns["V_targ"]

    policy_loss, _ = policy_loss_and_targets(lambda_=0.8)
    _, V_targ = policy_loss_and_targets(lambda_=0.95)
    got = policy_loss_and_targets(lambda_=0.8, vf_lambda=0.95)
    np.testing.assert_array_equal(got[1], V_targ)
    assert got[0] == policy_loss


def test_an_env_runner_that_returns_too_little_is_named_and_changes_nothing():
    learner, r = make_learner(), make_rollout()
    before = parameters(learner)
    columns = ("obs", "actions", "logp", "rewards", "terminated", "truncated", "valid")
    short = replace(r, **{name: getattr(r, name)[:, :-1] for name in columns})
    with pytest.raises(
        ValueError, match=rf"a rollout of \({N}, {T - 1}\) .* instead of \({N}, {T}\)"
    ):
        policy_phase(learner, short)
    for name, x in parameters(learner).items():
        assert torch.equal(x, before[name])


@pytest.mark.parametrize("micro_batch_size", [1, 5, 1000])
def test_micro_batches_do_not_change_the_result(micro_batch_size):
    kwargs = {"num_minibatches": 3, "num_aux_minibatches": 2, "e_aux": 2, "double": True}
    a, metrics_a, _ = phases(make_learner(SGDLearner, **kwargs), make_rollout())
    b, metrics_b, _ = phases(
        make_learner(SGDLearner, micro_batch_size=micro_batch_size, **kwargs), make_rollout()
    )
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=RTOL, atol=ATOL)
    assert metrics_a["policy_loss"] == pytest.approx(metrics_b["policy_loss"], rel=RTOL)


def test_it_does_not_matter_which_env_runner_brought_a_row():
    whole = make_rollout()
    shards = whole.split([0, 1, 4, N])
    kwargs = {"num_minibatches": 2, "e_aux": 1, "segment_length": 2, "double": True}
    learner = make_learner(SGDLearner, **kwargs)
    policy_phase(learner, whole)
    split = make_learner(SGDLearner, **kwargs)
    policy_phase(split, *shards)
    for name, p in parameters(learner).items():
        torch.testing.assert_close(parameters(split)[name], p, rtol=RTOL, atol=ATOL)


def clone_kl_after(beta_clone):
    learner = make_learner(
        beta_clone=beta_clone, e_aux=60, aux_lr=1e-2, num_aux_minibatches=1, double=True
    )
    _, infos, blocks = policy_phase(learner, make_rollout())
    block = blocks[0]
    batch = {Columns.OBS: torch.tensor(block.obs[block.valid])}
    module = learner.module[DEFAULT_MODULE_ID]

    def logits():
        with torch.no_grad():
            return module.forward_train(batch)[Columns.ACTION_DIST_INPUTS]

    before = Categorical(logits=logits())
    metrics = aux_phase(learner, [(infos[0], block)])
    explained = metrics[-1]["aux/vf_aux_explained_var"]
    return kl_divergence(before, Categorical(logits=logits())).mean().item(), explained


def test_beta_clone_keeps_the_policy_still():
    free, explained_free = clone_kl_after(0.0)
    held, explained_held = clone_kl_after(100.0)
    assert held < 0.02 * free
    assert explained_free > explained_held > 0.05  # and the value is distilled all the same


def test_aux_explained_variance_is_that_of_the_predictions():
    """With a learning rate of almost 0, the epoch's predictions are those after it."""
    learner = make_learner(aux_lr=1e-12, e_aux=1, num_aux_minibatches=2, double=True)
    _, (info,), (block,) = policy_phase(learner, make_rollout())
    (metrics,) = aux_phase(learner, [(info, block)])
    with torch.no_grad():
        batch = {Columns.OBS: torch.tensor(block.obs[block.valid])}
        V_aux = learner.module[DEFAULT_MODULE_ID].forward_train(batch)["vf_aux_preds"].numpy()
    V_targ = block.columns["V_targ"][block.valid].astype(np.float64)
    expected = 1 - (V_targ - V_aux).var() / V_targ.var()
    assert metrics["aux/vf_aux_explained_var"] == pytest.approx(expected, abs=ATOL)


def test_a_phase_tells_how_many_units_were_saturated_when_it_began():
    learner = make_learner(e_aux=1)
    module = learner.module[DEFAULT_MODULE_ID].unwrapped()
    layers = [layer for layer in module.pi_encoder.modules() if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        layers[0].weight *= 4
    _, (info,), (block,) = policy_phase(learner, make_rollout())
    counted = [obs[valid][::16] for obs, valid in zip(block.obs, block.valid, strict=True)]
    x, outputs = np.concatenate(counted), []
    for layer in layers:
        x = np.tanh(x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy())
        outputs.append(np.abs(x) > 0.97)
    (metrics,) = aux_phase(learner, [(info, block)])
    expected = np.concatenate(outputs, axis=1).mean()
    assert 0.05 < expected < 0.95
    assert metrics["aux/saturated_units"] == pytest.approx(expected, rel=1e-3)


def test_a_phase_ends_with_the_metrics_of_each_epoch():
    learner = make_learner(e_aux=3)
    _, (info,), (block,) = policy_phase(learner, make_rollout())
    *_, second, last = aux_phase(learner, [(info, block)])
    assert last["aux/epoch_2/clone_kl"] == second["aux/clone_kl"]
    assert last["aux/epoch_3/clone_kl"] == last["aux/clone_kl"] != second["aux/clone_kl"]
    assert "aux/epoch_4/clone_kl" not in last
    assert "aux/epoch_1/clone_kl" not in second


def test_nan_stops_before_the_step_and_names_the_place():
    learner = make_learner(num_minibatches=2)
    r = make_rollout()
    r.logp[r.valid] = np.nan
    before = parameters(learner)
    place = r"pi_encoder.* policy phase, epoch 1, minibatch 1"
    with pytest.raises(FloatingPointError, match=place):
        policy_phase(learner, r)
    assert not moved(before, parameters(learner))


def huge_rewards(scale):
    r = make_rollout()
    r.rewards[:] = scale
    return r


@pytest.mark.parametrize(
    ("scale", "what"),
    [
        (1e20, r"vf_loss is inf in the policy phase, epoch 1, minibatch 1"),  # finite gradients
        (1e38, r"policy phase, epoch 1, minibatch 1"),
    ],
)
def test_a_loss_that_is_infinite_stops_before_the_step_and_says_what_helps(scale, what):
    learner = make_learner(normalize_rewards=False)
    before = parameters(learner)
    with pytest.raises(FloatingPointError, match=f"{what}.*set normalize_rewards=True"):
        policy_phase(learner, huge_rewards(scale))
    assert not moved(before, parameters(learner))


def test_an_infinite_loss_of_the_auxiliary_phase():
    learner = make_learner(e_aux=1)
    _, (info,), (block,) = policy_phase(learner, make_rollout())
    block.columns["V_targ"][:] = 1e20
    what = "vf_aux_loss is inf in the auxiliary phase, epoch 1, minibatch 1.*lower aux_lr"
    with pytest.raises(FloatingPointError, match=what):
        aux_phase(learner, [(info, block)])


def test_a_minibatch_without_states_is_skipped():
    """As when an env runner has died and fewer rows came than there are minibatches."""
    learner = make_learner(num_minibatches=8)
    metrics, _, _ = policy_phase(learner, make_rollout(rows=3))
    assert steps(learner, "default_optimizer") == {3}
    assert all(np.isfinite(v) for v in metrics.values())


def test_an_iteration_without_transitions_changes_nothing():
    learner, rollout = make_learner(), make_rollout()
    rollout.valid[:] = False
    before = parameters(learner)
    metrics, _, _ = policy_phase(learner, rollout)
    assert moved(before, parameters(learner)) == set()
    assert metrics["policy_loss"] == metrics["vf_explained_var"] == 0


def test_learners_start_from_equal_weights_and_buffers():
    learner, copied = make_learner(), []
    module = learner.module[DEFAULT_MODULE_ID].unwrapped()
    module.register_buffer("noise", torch.rand(3))
    learner.collective.copy_from_first = lambda x: copied.append(x.data_ptr())
    learner._make_modules_ddp_if_necessary()
    assert {x.data_ptr() for x in module.state_dict().values()} == set(copied)


def test_separate_value_epochs_do_not_hang_on_the_shared_weight():
    moves = []
    for vf_loss_coeff in (0.0, 1.0):
        learner = make_learner(SGDLearner, e_v=2, vf_loss_coeff=vf_loss_coeff)
        policy_phase(learner, make_rollout())
        moves.append(parameters(learner))
    assert not moved(*moves)


def test_schedules_go_by_env_steps():
    learner = make_learner(lr=[[0, 1e-3], [1000, 0.0]], entropy_coeff=[[0, 0.2], [1000, 0.1]])
    metrics, _, _ = policy_phase(learner, make_rollout(), before=300, env_steps=500)
    assert metrics["curr_entropy_coeff"] == pytest.approx(0.17)  # of this iteration
    # Of the next one.
    assert metrics["default_optimizer_learning_rate"] == pytest.approx(5e-4)
    assert metrics["aux_learning_rate"] == pytest.approx(5e-4)  # aux_lr has no schedule


def test_gradient_clipping():
    learner = make_learner(SGDLearner, grad_clip=1e-3, double=True)
    before = parameters(learner)
    policy_phase(learner, make_rollout())
    after = parameters(learner)
    norm = torch.stack([(before[n] - after[n]).norm() for n in before]).norm().item()
    assert norm == pytest.approx(1e-3, rel=1e-5)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_bytes_of_another_type_train_the_same(dtype):
    bytes_, other = (gym.spaces.Box(0, 255, (16, 16, 3), t) for t in (np.uint8, dtype))
    rollout = make_rollout(obs=bytes_)
    converted = {k: getattr(rollout, k).astype(dtype) for k in ("obs", "last_obs", "final_obs")}
    settings = {"segment_length": 2, "num_minibatches": 2, "e_aux": 1}
    expected, _, _ = phases(make_learner(obs=bytes_, **settings), rollout)
    got, _, _ = phases(make_learner(obs=other, **settings), replace(rollout, **converted))
    for name, p in expected.items():
        assert torch.equal(got[name], p), name


def test_images_train_in_their_own_dtype():
    obs = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    learner = make_learner(obs=obs, micro_batch_size=10, e_aux=1)
    before = parameters(learner)
    _, (info,), (block,) = policy_phase(learner, make_rollout(obs=obs))
    assert block.obs.dtype == np.uint8
    assert info.nbytes == block.obs.size + 4 * N * T + N * T
    aux_phase(learner, [(info, block)])
    assert "vf_aux" in moved(before, parameters(learner))


def test_state_restores_all_optimisers():
    a = make_learner(e_v=2, e_aux=1)
    phases(a, make_rollout())
    b = make_learner(e_v=2, e_aux=1, seed=9)
    b.set_state(a.get_state())
    (pa, *_), (pb, *_) = (phases(x, make_rollout(seed=3)) for x in (a, b))
    assert not moved(pa, pb)


@pytest.mark.parametrize(
    "settings", [{"e_pi": 2, "e_v": 2}, {"e_v": 2, "e_aux": 0}, {"e_v": 2, "n_pi": 0}]
)
def test_an_optimiser_that_other_settings_have_not_leaves_the_others_as_they_were(settings):
    saved = make_learner(e_pi=1, e_v=2, e_aux=1)
    phases(saved, make_rollout())
    restored = make_learner(**settings, seed=9)
    restored.set_state(saved.get_state())
    moments = {name: x.state_dict()["state"] for name, x in saved._named_optimizers.items()}
    for name, optimizer in restored._named_optimizers.items():
        for i, of_parameter in optimizer.state_dict()["state"].items():
            for key, x in of_parameter.items():
                assert torch.equal(x, moments[name][i][key]), (name, i, key)
        assert len(optimizer.state) == len(moments[name]) > 0


def test_a_restored_image_learner_goes_on_as_the_first(tmp_path):
    """Through a file, in which channels-last moments lose their order in memory."""
    obs = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    kwargs = {"obs": obs, "e_v": 2, "e_aux": 1, "num_minibatches": 2}
    learner, restored = make_learner(**kwargs), make_learner(**kwargs, seed=1)
    phases(learner, make_rollout(obs=obs))
    restored.set_state(pickle.loads(pickle.dumps(learner.get_state())))
    after = [phases(x, make_rollout(seed=1, obs=obs)) for x in (learner, restored)]
    for name, p in after[0][0].items():
        assert torch.equal(p, after[1][0][name]), name
    assert after[0][1:] == after[1][1:]


def test_a_phase_after_one_that_failed_on_streamed_states(monkeypatch):
    """Batches that were made ahead of the step that failed are forgotten."""
    monkeypatch.setattr(batches, "_CPU_RESIDENT_BYTES", 0)
    rollout = make_rollout()
    learner, other = (make_learner(num_minibatches=3, micro_batch_size=5) for _ in range(2))
    loss = learner.policy_and_value_loss
    learner.policy_and_value_loss = lambda module, batch: {
        n: x * float("nan") for n, x in loss(module, batch).items()
    }
    learner.policy_and_value_loss.__name__ = "policy_and_value_loss"
    with pytest.raises(FloatingPointError):
        policy_phase(learner, rollout)
    learner.policy_and_value_loss = loss
    assert policy_phase(learner, rollout)[0] == policy_phase(other, rollout)[0]


class Dropping(PPGTorchRLModule):
    """Loses most of each observation in training mode."""

    def _forward_train(self, batch, **kwargs):
        obs = torch.nn.functional.dropout(batch["obs"], 0.9, self.training)
        return super()._forward_train(batch | {"obs": obs}, **kwargs)


def test_targets_are_of_networks_without_dropout():
    """V_targ and pi_old, as env runners act without dropout, too."""
    targets = []
    for module_class in (PPGTorchRLModule, Dropping):
        learner = make_learner(module_class=module_class, lr=1e-12)
        _, (info,), (block,) = policy_phase(learner, make_rollout())
        aux_phase(learner, [(info, block)], epochs=1)
        states = learner.trained[DEFAULT_MODULE_ID].aux.states
        (batch,) = states.batches([states.drop_masked(np.arange(N * T))])
        pi_old = batch["pi_old"]
        targets.append((block.columns["V_targ"], pi_old))
        assert learner.module[DEFAULT_MODULE_ID].training
    for of_plain, of_dropping in zip(*targets, strict=True):
        np.testing.assert_allclose(of_dropping, of_plain, rtol=1e-5)


class Normalising(PPGTorchRLModule):
    """Has a BatchNorm, which the policy's encoder ends in."""

    def setup(self):
        super().setup()
        self.norm = torch.nn.BatchNorm1d(16)


class Frozen(Normalising):
    """Keeps it as it is."""

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self


class Averaging(PPGTorchRLModule):
    """Keeps a running mean of what it sees."""

    def setup(self):
        super().setup()
        self.register_buffer("mean", torch.zeros(()))

    def _forward_train(self, batch, **kwargs):
        self.mean.lerp_(batch["obs"].mean(), 0.5)
        return super()._forward_train(batch, **kwargs)


def test_normalisation_over_a_batch_is_refused():
    with pytest.raises(ValueError, match=r"norm of Normalising is a BatchNorm1d.*LayerNorm"):
        make_learner(module_class=Normalising)
    make_learner(module_class=Frozen)
    learner = make_learner(module_class=Averaging)
    with pytest.raises(ValueError, match=r"Averaging changes a buffer.*one learner"):
        TrainedModule(
            DEFAULT_MODULE_ID,
            learner.module[DEFAULT_MODULE_ID],
            learner.config.copy(copy_frozen=False).learners(num_learners=2),
            torch.device("cpu"),
        )
