"""Auxiliary losses beside the paper's: formulas, gradients, the next state, and the setting."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import nn

from rllib_ppg import AuxLoss, PPGConfig
from rllib_ppg.aux_losses.dynamics import DynamicsLoss
from rllib_ppg.aux_losses.false_transitions import draw_false_transitions
from rllib_ppg.aux_losses.inverse_dynamics import InverseDynamicsLoss
from rllib_ppg.aux_losses.reward import RewardLoss
from rllib_ppg.aux_losses.setting import build_aux_losses
from rllib_ppg.aux_losses.value import ValueLoss
from tests.support.algorithms import only_module, several
from tests.support.learners import (
    ACT,
    OBS,
    N,
    SGDLearner,
    aux_phase,
    make_learner,
    make_rollout,
    parameters,
    phases,
    policy_phase,
)

LOSSES = {
    "value": {"target": "presleep"},
    "dynamics": {"weight": 0.5, "hidden": 8},
    "reward": {"weight": 0.5, "hidden": 8},
    "inverse_dynamics": {"weight": 0.25, "hidden": 8},
}


class NormLoss(AuxLoss):
    """Keeps features small; needs no head, and shows what it is given."""

    columns = ("V_targ", "A", "V", "actions", "rewards")
    next_state = True
    presleep_values = True
    false_transitions = True
    seen = None

    def terms(self, head, batch):
        assert head is None
        if type(self).seen is not None:
            type(self).seen.append({name: x.detach().clone() for name, x in batch.items()})
        return batch["features"].square().mean(1)


OWN = f"{NormLoss.__module__}.NormLoss"


# -- Formulas ----------------------------------------------------------------------------------


def head_and_features(loss, num_features=5, states=7):
    torch.manual_seed(0)
    head = loss.build_head(num_features, OBS, ACT).double()
    features = torch.randn(states, 2 * num_features, dtype=torch.float64)
    return head, features[:, :num_features], features[:, num_features:]


def forward(head, x):
    """The head's output in numpy: linear layers, with relu between them."""
    *layers, last = [layer for layer in head if isinstance(layer, nn.Linear)]
    for layer in layers:
        x = np.maximum(x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy(), 0.0)
    return x @ last.weight.detach().numpy().T + last.bias.detach().numpy()


@pytest.mark.unit
def test_reward():
    loss = RewardLoss(hidden=4)
    head, features, _ = head_and_features(loss)
    rewards = torch.randn(7)
    expected = 0.5 * (forward(head, features.numpy())[:, 0] - rewards.numpy()) ** 2
    terms = loss.terms(head, {"features": features, "rewards": rewards})
    np.testing.assert_allclose(terms.detach().numpy(), expected, rtol=1e-6)


@pytest.mark.unit
def test_inverse_dynamics():
    loss = InverseDynamicsLoss(hidden=4)
    head, features, next_features = head_and_features(loss)
    actions = torch.randint(0, 4, (7,))
    logits = forward(head, np.concatenate([features.numpy(), next_features.numpy()], axis=1))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    batch = {"features": features, "next_features": next_features, "actions": actions}
    terms = loss.terms(head, batch)
    expected = -np.log(p[np.arange(7), actions.numpy()])
    np.testing.assert_allclose(terms.detach().numpy(), expected, rtol=1e-10)


@pytest.mark.unit
def test_dynamics():
    loss = DynamicsLoss(hidden=4)
    head, s, s_next = head_and_features(loss)
    s_false = torch.randn_like(s)
    a, a_false = torch.randint(0, 4, (2, 7))

    def D(s, a, s_next):
        x = np.concatenate([s.numpy(), np.eye(4)[a.numpy()], s_next.numpy()], axis=1)
        return 1 / (1 + np.exp(-forward(head, x)[:, 0]))

    batch = {"features": s, "actions": a, "next_features": s_next}
    batch |= {"false_actions": a_false, "false_next_features": s_false}
    expected = -np.log(D(s, a, s_next)) - 0.5 * np.log(1 - D(s, a_false, s_next))
    expected -= np.log(1 - D(s, a, s_false))
    terms = loss.terms(head, batch).detach().numpy()
    np.testing.assert_allclose(terms, expected, rtol=1e-10)


@pytest.mark.unit
def test_value_of_either_target():
    batch = {name: torch.randn(7) for name in ("vf_aux_preds", "V_targ", "V_presleep")}
    for target, column in (("V_targ", "V_targ"), ("presleep", "V_presleep")):
        expected = 0.5 * (batch["vf_aux_preds"] - batch[column]) ** 2
        torch.testing.assert_close(ValueLoss(target=target).terms(None, batch), expected)


@pytest.mark.parametrize("target", ["V_targ", "presleep"])
def test_a_centered_value_loss_learns_differences_from_the_mean(target):
    setting = {"value": {"target": target, "center": True}}
    learner = make_learner(SGDLearner, aux_losses=setting, e_aux=1)
    rollout = make_rollout()
    _, (info,), (block,) = policy_phase(learner, rollout)
    module = learner.module[DEFAULT_MODULE_ID].unwrapped()
    with torch.no_grad():
        out = module.forward_train({"obs": torch.from_numpy(rollout.obs[rollout.valid])})
    V = block.columns["V_targ"][rollout.valid] if target == "V_targ" else out["vf_preds"].numpy()
    error = 0.5 * (out["vf_aux_preds"].numpy() - (V - V.mean())) ** 2
    (metrics,) = aux_phase(learner, [(info, block)])
    assert metrics["aux/vf_aux_loss"] == pytest.approx(error.mean(), rel=1e-4)


@pytest.mark.unit
def test_false_transitions():
    actions = np.array([[0, 0, 1, 2, 0, 0, 1, 0], [3] * 8])
    drawn = [draw_false_transitions(actions, 5, np.array([7, 4]), (1, e)) for e in range(2000)]
    false_actions, steps = (np.stack(x) for x in zip(*drawn, strict=True))
    assert (false_actions != actions).all()
    assert (steps != (np.arange(8) + 1) % 8).all()
    assert ((steps >= 0) & (steps < 8)).all()
    # Of actions other than 0 in the first row, 1 is twice as frequent as 2; in the other row there
    # is no other, and all are as likely.
    for action, share in ((1, 2 / 3), (2, 1 / 3)):
        assert np.mean(false_actions[:, 0, 0] == action) == pytest.approx(share, abs=0.04)
    for action in (0, 1, 2, 4):
        assert np.mean(false_actions[:, 1, 0] == action) == pytest.approx(1 / 4, abs=0.04)
    # A row's do not depend on which other rows are there.
    (alone, _), (both, _) = (
        draw_false_transitions(actions[i], 5, np.array(ids), (1, 0))
        for i, ids in (([1], [4]), ([0, 1], [7, 4]))
    )
    np.testing.assert_array_equal(alone[0], both[1])


# -- In the auxiliary phase --------------------------------------------------------------------


def test_the_metrics_are_means_over_all_states():
    class OfEachState(NormLoss):
        next_state = False

    learner = make_learner(aux_losses={"reward": 1.0, "norm": OfEachState()}, e_aux=1)
    rollout = make_rollout()
    _, (info,), (block,) = policy_phase(learner, rollout)
    module = learner.module[DEFAULT_MODULE_ID].unwrapped()
    with torch.no_grad():
        obs = torch.from_numpy(rollout.obs[rollout.valid])
        features, _ = module._encode(module.pi_encoder, obs, {})
        predicted = module.aux_heads["reward"](features)[:, 0].numpy()
    (metrics,) = aux_phase(learner, [(info, block)])
    error = 0.5 * (predicted - rollout.rewards[rollout.valid]) ** 2
    assert metrics["aux/reward_loss"] == pytest.approx(error.mean(), rel=1e-5)
    assert metrics["aux/norm_loss"] == pytest.approx(features.square().mean().item(), rel=1e-5)
    assert not {"aux/vf_aux_loss", "aux/vf_aux_explained_var"} & metrics.keys()


@pytest.mark.parametrize("micro_batch_size", [1, 5, 1000])
@pytest.mark.parametrize("segment_length", [None, 2])
def test_a_state_is_told_its_next_state(monkeypatch, micro_batch_size, segment_length):
    learner = make_learner(
        SGDLearner,  # one minibatch, so that nothing has moved when the loss is computed
        aux_losses={"value": 1.0, "norm": {"class": NormLoss}},
        e_aux=1,
        micro_batch_size=micro_batch_size,
        segment_length=segment_length,
    )
    rollout = make_rollout()
    _, (info,), (block,) = policy_phase(learner, rollout)
    module = learner.module[DEFAULT_MODULE_ID].unwrapped()
    with torch.no_grad():
        features, _ = module._encode(module.pi_encoder, torch.from_numpy(rollout.obs), {})
        V = module.compute_values({"obs": torch.from_numpy(rollout.obs)}).numpy()
    monkeypatch.setattr(NormLoss, "seen", [])
    aux_phase(learner, [(info, block)])
    seen = NormLoss.seen
    names = seen[0].keys() - {"other_obs"}
    of_states = {name: torch.cat([batch[name] for batch in seen]) for name in names}

    ends = rollout.terminated | rollout.truncated
    has_next = rollout.valid & ~ends
    has_next[:, :-1] &= rollout.valid[:, 1:]
    has_next[:, -1] = False
    row, step = np.nonzero(rollout.valid)
    np.testing.assert_array_equal(of_states["has_next"], has_next[row, step])
    there = has_next[row, step]
    np.testing.assert_allclose(
        of_states["next_features"][there],
        features[row[there], step[there] + 1],
        rtol=1e-4,
        atol=1e-6,
    )
    np.testing.assert_array_equal(of_states["actions"], rollout.actions[row, step])
    np.testing.assert_array_equal(of_states["rewards"], rollout.rewards[row, step])
    np.testing.assert_allclose(of_states["V_presleep"], V[row, step], rtol=1e-4, atol=1e-6)
    _, false_steps = draw_false_transitions(rollout.actions, 4, np.arange(N), (2, 0))
    np.testing.assert_allclose(
        of_states["false_next_features"],
        features[row, false_steps[row, step]],
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize("arch", ["dual", "detach"])
def test_heads_and_the_policy_encoder_move_and_the_value_network_does_not(arch):
    losses = {"reward": 1.0, "dynamics": 1.0, "inverse_dynamics": 1.0}
    learner = make_learner(
        SGDLearner, aux_losses=losses, e_aux=1, vf_true_weight=0, beta_clone=0, arch=arch
    )
    _, (info,), (block,) = policy_phase(learner, make_rollout())
    before = parameters(learner)
    aux_phase(learner, [(info, block)])
    after = parameters(learner)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in moved} == {"pi_encoder", "aux_heads"}
    assert {name.split(".")[1] for name in moved if "aux_heads" in name} == {*losses}


@pytest.mark.parametrize("micro_batch_size", [1, 5])
def test_micro_batches_do_not_change_the_result(micro_batch_size):
    kwargs = {"num_aux_minibatches": 2, "e_aux": 2, "double": True, "aux_losses": LOSSES}
    a, _, metrics = phases(make_learner(SGDLearner, **kwargs), make_rollout())
    b, _, others = phases(
        make_learner(SGDLearner, **kwargs, micro_batch_size=micro_batch_size), make_rollout()
    )
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-9, atol=1e-12, msg=name)
    for got, want in zip(others, metrics, strict=True):
        assert got == pytest.approx(want, rel=1e-6, nan_ok=True)


def test_only_columns_that_a_loss_asks_for_are_stored():
    def stored(**training):
        _, _, (block,) = policy_phase(make_learner(**training), make_rollout())
        return {*block.columns}

    assert stored() == {"V_targ"}
    assert stored(aux_losses={"reward": 1.0}) == {"V_targ", "rewards"}
    assert stored(aux_losses=LOSSES) == {"V_targ", "rewards", "actions", "ended"}


def test_a_weight_of_zero_trains_nothing():
    learner = make_learner(aux_losses={"value": 1.0, "reward": 0.0}, e_aux=1)
    plain = make_learner(e_aux=1)
    for name, p in plain.module[DEFAULT_MODULE_ID].named_parameters():
        p.data.copy_(learner.module[DEFAULT_MODULE_ID].get_parameter(name))
    a, _, _ = phases(learner, make_rollout())
    b, _, _ = phases(plain, make_rollout())
    for name in b:
        assert torch.equal(a[name], b[name]), name


# -- Continuing with other losses --------------------------------------------------------------


def moments(algo):
    """Of the auxiliary Adam, by parameter."""
    learner = algo.learner_group._learner
    optimizer = learner.get_optimizer(DEFAULT_MODULE_ID, "aux")
    names = {p: name for name, p in learner.module[DEFAULT_MODULE_ID].named_parameters()}
    return {names[p]: state["exp_avg"].clone() for p, state in optimizer.state.items()}


def test_a_run_continues_with_other_losses(build, tmp_path, caplog):
    first = build(several(0, aux_losses=LOSSES))
    for _ in range(3):  # an auxiliary phase, and the first iteration of the next phase
        first.train()
    first.save_to_path(tmp_path / "first")

    plain = build(several(0, aux_losses={"value": 1.0}))
    plain.restore_from_path(tmp_path / "first")
    assert "aux_heads.reward.0.weight is left out" in caplog.text
    assert len(only_module(plain).replay) == 1
    before, after = moments(first), moments(plain)
    assert after.keys() == {name for name in before if "aux_heads" not in name}
    for name, moment in after.items():
        assert torch.equal(moment, before[name]), name
    plain.save_to_path(tmp_path / "plain")

    again = build(several(0, aux_losses=LOSSES))
    again.restore_from_path(tmp_path / "plain")
    assert "aux_heads.reward.0.weight is new" in caplog.text
    assert "lack 'actions' for aux_losses: its 1 of n_pi=2 iterations start over" in caplog.text
    assert len(only_module(again).replay) == 0
    for _ in range(2):
        again.train()
    assert moments(again).keys() == before.keys()


# -- What it is for ----------------------------------------------------------------------------


def moving_rollout(seed):
    """States that an action moves in its own direction, and rewards that depend on the state."""
    rollout = make_rollout(seed, rows=64)
    rng = np.random.default_rng(seed)
    rollout.valid[:] = True
    rollout.terminated[:] = rollout.truncated[:] = False
    rollout.final_obs, rollout.final_index = rollout.final_obs[:0], rollout.final_index[:0]
    directions = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, -1, -1]], np.float32)
    moves = directions[rollout.actions].cumsum(1)
    rollout.obs[:] = rng.normal(size=(64, 1, 3)) * 0.1
    rollout.obs[:, 1:] += 0.5 * moves[:, :-1]
    rollout.rewards[:] = rollout.obs[..., 0]
    return rollout


@pytest.mark.parametrize("name", ["reward", "dynamics", "inverse_dynamics"])
def test_it_learns_what_holds_for_other_states(name):
    def of_other_states():
        _, infos, blocks = policy_phase(learner, moving_rollout(seed=1))
        module = learner.trained[DEFAULT_MODULE_ID]
        for loss in module.aux_losses.values():
            loss.weight = 0.0
        metrics = aux_phase(learner, list(zip(infos, blocks, strict=True)), epochs=1, rows=[64])
        for loss in module.aux_losses.values():
            loss.weight = 1.0
        return metrics[0][f"aux/{name}_loss"]

    training = {"aux_losses": {name: 1.0}, "e_aux": 40, "num_aux_minibatches": 8, "lr": 0.0}
    learner = make_learner(**training, aux_lr=3e-3, beta_clone=0.0, vf_true_weight=1e-9)
    before = of_other_states()
    _, infos, blocks = policy_phase(learner, moving_rollout(seed=0))
    aux_phase(learner, list(zip(infos, blocks, strict=True)), rows=[64])
    assert of_other_states() < 0.3 * before


# -- The setting -------------------------------------------------------------------------------


class WrongShape(NormLoss):
    def terms(self, head, batch):
        return super().terms(head, batch).mean()


class NoGradient(NormLoss):
    def terms(self, head, batch):
        return super().terms(head, batch).detach()


class Raises(NormLoss):
    columns = ()

    def terms(self, head, batch):
        return batch["V_targ"] + batch["A"]


class IsNaN(NormLoss):
    def terms(self, head, batch):
        return super().terms(head, batch) * float("nan")


class NoSuper(NormLoss):
    def __init__(self):
        pass


@pytest.mark.parametrize(
    ("cls", "error"),
    [
        (WrongShape, r"aux_losses\['mine'\] returns \[\] for 1 states, and not a term for each"),
        (NoGradient, r"aux_losses\['mine'\] has no gradient"),
        (Raises, r"aux_losses\['mine'\] raises KeyError: 'A'"),
    ],
)
def test_errors_in_a_loss_name_it_before_training_begins(cls, error):
    with pytest.raises(ValueError, match=error):
        make_learner(aux_losses={"value": 1.0, "mine": {"class": cls}})


def test_a_loss_that_is_nan_is_named():
    learner = make_learner(aux_losses={"value": 1.0, "mine": {"class": IsNaN}}, e_aux=1)
    _, (info,), (block,) = policy_phase(learner, make_rollout())
    with pytest.raises(FloatingPointError, match="where mine_loss is nan"):
        aux_phase(learner, [(info, block)])


def test_a_head_of_an_own_module_is_refused():
    class Own(TorchRLModule):
        def setup(self):
            self.heads = nn.ModuleList(nn.Linear(3, n) for n in (4, 1))

        def _forward_train(self, batch, **kwargs):
            pi, vf = (head(batch["obs"]) for head in self.heads)
            return {"action_dist_inputs": pi, "vf_preds": vf[:, 0], "embeddings": batch["obs"]}

        _forward = _forward_train

    with pytest.raises(ValueError, match="Own does not build: derive it from PPGTorchRLModule"):
        make_learner(aux_losses={"reward": 1.0}, module_class=Own)


class KeepsItsActions(RewardLoss):
    """Keeps what it is built with, as many would."""

    def build_head(self, num_features, observation_space, action_space):
        self.num_actions = action_space.n
        return super().build_head(num_features, observation_space, action_space)

    def terms(self, head, batch):
        return super().terms(head, batch) * self.num_actions


def test_the_loss_that_builds_the_head_computes_the_terms():
    make_learner(aux_losses={"mine": {"class": KeepsItsActions}})


def test_false_transitions_need_no_column():
    class Mine(NormLoss):
        columns = ()
        next_state = presleep_values = False
        false_transitions = True

        def terms(self, head, batch):
            return (batch["features"] - batch["false_next_features"]).square().mean(1)

    learner = make_learner(aux_losses={"mine": Mine()}, e_aux=1)
    phases(learner, make_rollout())


def test_actions_of_any_integer_type():
    space = gym.spaces.Discrete(4, dtype=np.int32)
    losses = {"dynamics": {"hidden": 8}, "inverse_dynamics": {"hidden": 8}}
    rollout = make_rollout()
    rollout.actions = rollout.actions.astype(np.int32)
    phases(make_learner(act=space, aux_losses=losses, e_aux=1), rollout)


@pytest.mark.unit
def test_a_weight_a_dict_and_an_object():
    mine = NormLoss(0.1)
    built = build_aux_losses(
        {"value": 1, "reward": {"hidden": 3}, "mine": mine, "other": {"class": OWN}}
    )
    assert [loss.weight for loss in built.values()] == [1.0, 1.0, 0.1, 1.0]
    assert built["reward"].hidden == 3
    assert built["mine"] is mine
    assert type(built["other"]).__name__ == "NormLoss"


@pytest.mark.unit
@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ({}, "aux_losses is a dict of names and weights that is not empty"),
        ("value", "aux_losses is a dict"),
        ({"rewards": 1.0}, r"aux_losses\['rewards'\]: no loss is called so; did you mean 'reward'"),
        ({"value": -1}, r"aux_losses\['value'\]: weight is a non-negative number, not -1"),
        ({"value": float("nan")}, "weight is a non-negative number, not nan"),
        ({"value": True}, "weight is a non-negative number, not True"),
        ({"reward": {"hiden": 3}}, r"aux_losses\['reward'\]: .*hiden"),
        ({"a b": 1.0}, "use letters, digits and underscores"),
        ({"vf": {"class": OWN}}, "can't have the name 'vf'"),
        ({"forward": {"class": OWN}}, "can't have the name 'forward'"),
        (
            {"mine": {"class": "nowhere.Loss"}},
            r"aux_losses\['mine'\]: `class` 'nowhere.Loss' can't",
        ),
        ({"dynamics": {"hidden": 0}}, r"aux_losses\['dynamics'\]: hidden is a whole number"),
        ({"mine": {"class": NoSuper}}, r"NoSuper.__init__\(\) does not call AuxLoss"),
        ({"value": {"target": "now"}}, "target is 'V_targ' or 'presleep', not 'now'"),
        ({"value": {"center": "no"}}, "center is true or false, not 'no'"),
        ({"mine": {"class": "torch.nn.Linear"}}, "a class derived from AuxLoss"),
        ({"mine": {"class": "rllib_ppg.aux_losses.value.ValueLoss"}}, "'value' is the name of"),
    ],
)
def test_wrong_settings(setting, error):
    config = PPGConfig().environment("CartPole-v1").training(aux_losses=setting)
    with pytest.raises(ValueError, match=error):
        config.validate()


@pytest.mark.unit
def test_a_loss_that_the_env_does_not_suit_is_refused():
    config = PPGConfig().environment("Pendulum-v1").training(aux_losses={"inverse_dynamics": 1.0})
    with pytest.raises(ValueError, match=r"aux_losses\['inverse_dynamics'\]: it needs Discrete"):
        config.validate()
