"""Modules with a memory: what the learner computes, and what becomes of their states."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ray.rllib.core.columns import Columns
from torch.distributions import kl_divergence

from rllib_ppg import AuxLoss
from tests.support.learners import (
    ACT,
    IMAGES,
    OBS,
    REAL,
    N,
    SGDLearner,
    T,
    aux_phase,
    make_learner,
    make_rollout,
    parameters,
    policy_phase,
)
from tests.support.references import (
    distribution,
    mean_gradients,
    reference_module,
    targets_of_values,
)

H = 5
LSTM = {"use_lstm": True, "lstm_cell_size": H}
GRU = {**LSTM, "recurrent_cell": "gru"}


# -- A phase, written out in float64 ---------------------------------------------------------------


def first_steps(r):
    """Which steps are the first of an episode, `[N, T]`, by the rules of gymnasium's autoreset."""
    first = np.zeros((len(r), T), bool)
    for n in range(len(r)):
        first[n, 0] = r.begins[n]
        for t in range(1, T):
            ended = r.terminated[n, t - 1] or r.truncated[n, t - 1]
            was_reset = not r.valid[n, t - 1]  # a step that a NEXT_STEP env spent on its reset
            is_reset = not r.valid[n, t]
            first[n, t] = was_reset or (ended and not is_reset)
    return first


def lstm_or_gru(core, x, state):
    """One step of torch's documented equations."""
    i = core.weight_ih_l0 @ x + core.bias_ih_l0
    h = core.weight_hh_l0 @ state[-H:] + core.bias_hh_l0
    if isinstance(core, torch.nn.LSTM):  # the state is (c, h)
        into, forget, cell, out = (i + h).chunk(4)
        c = forget.sigmoid() * state[:H] + into.sigmoid() * cell.tanh()
        return torch.cat([c, out.sigmoid() * c.tanh()])
    (ir, iz, inew), (hr, hz, hnew) = i.chunk(3), h.chunk(3)
    z = (iz + hz).sigmoid()
    return (1 - z) * (inew + (ir + hr).sigmoid() * hnew).tanh() + z * state


class Network:
    """An encoder with its core, one step of one env at a time."""

    def __init__(self, module, encoder):
        self.module, self.encoder = module, encoder
        self.initial = torch.zeros(H if isinstance(encoder.core, torch.nn.GRU) else 2 * H).double()

    def step(self, obs, state):
        obs = torch.tensor(obs)[None]
        inputs = self.module._network_inputs(obs)
        [x] = self.encoder.tokenizer({Columns.OBS: inputs})["encoder_out"]
        state = lstm_or_gru(self.encoder.core, x, state)
        return state[-H:], state

    def row(self, r, first, n, states, L):
        """Features of a row's steps, `[T, H]`; back-propagation ends at the given states.

        Args:
            states: The state at each segment's start, None to go on from the step before.
        """
        features, state = [], None
        for t in range(T):
            if t % L == 0 and states[n][t // L] is not None:
                state = states[n][t // L].detach()
            if first[n, t]:
                state = self.initial
            feature, state = self.step(r.obs[n, t], state)
            features.append(feature)
        return torch.stack(features), state


def networks(module):
    pi = Network(module, module.pi_encoder)
    return pi, Network(module, module.vf_encoder) if module.arch == "dual" else pi


def values_and_states(module, r, starts, L):
    """Values as `targets_of_values` takes them, states at segments' starts, and after the rows."""
    _, net = networks(module)
    first, values = first_steps(r), np.zeros((len(r), T))
    last, final, states, ends = np.zeros(len(r)), {}, [], []
    finals = {tuple(i): o for i, o in zip(r.final_index, r.final_obs, strict=True)}
    with torch.no_grad():
        for n in range(len(r)):
            state, of_row = torch.tensor(starts[n]).double(), []
            for t in range(T):
                if first[n, t]:
                    state = net.initial
                if t % L == 0:
                    of_row.append(state)
                feature, state = net.step(r.obs[n, t], state)
                values[n, t] = module.vf(feature)
                if (n, t) in finals:
                    final[n, t] = float(module.vf(net.step(finals[n, t], state)[0]))
            last[n] = module.vf(net.step(r.last_obs[n], state)[0])
            states.append(of_row)
            ends.append(state)
    return (values, last, final), states, ends


def outputs(module, r, pi_states, vf_states, L, aux_phase=False):
    """What the heads give for the valid states of a rollout, in its order."""
    first, (pi_net, vf_net) = first_steps(r), networks(module)
    pi, vf = ([net.row(r, first, n, states, L)[0] for n in range(len(r))]
              for net, states in ((pi_net, pi_states), (vf_net, vf_states)))  # fmt: skip
    pi, vf = torch.stack(pi)[r.valid], torch.stack(vf)[r.valid]
    if module.arch == "detach":
        vf = vf.detach()
    V, V_aux = module.vf(vf).squeeze(-1), module.vf_aux(pi).squeeze(-1)
    return {"inputs": module.pi(pi), "V": V, "V_aux": V_aux}


def recurrent_rollout(seed, L, size, number=1, **spaces):
    """A rollout whose rows begin within episodes and at their start, with random states.

    The first one is of envs that reset in the step of an episode's end, the second one of envs
    that take another step for it.
    """
    rng = np.random.default_rng(seed)
    r = make_rollout(seed, **spaces)
    r.begins, r.valid[:] = rng.random(N) < 0.3, True
    if number == 2:
        r.final_obs, r.final_index = r.final_obs[:0], r.final_index[:0]
        for t in range(1, T):
            r.valid[:, t] = ~((r.terminated | r.truncated)[:, t - 1] & r.valid[:, t - 1])
        r.terminated &= r.valid
        r.truncated &= r.valid
    r.stream = np.array([(1, n, number) for n in range(N)])
    first = first_steps(r)
    r.state_in = rng.normal(0, 0.5, (N, -(-T // L), size)).astype(np.float32)
    for k in range(r.state_in.shape[1]):
        r.state_in[first[:, k * L], k] = 0
    return r


def segment_states(r, L):
    return [[torch.tensor(s).double() for s in row] for row in r.state_in]


def learner_of(cell, L, **kwargs):
    return make_learner(
        SGDLearner, double=True, micro_batch_size=2, model_config=cell,
        segment_length=None if L == T else L, **kwargs,
    )  # fmt: skip


def assert_close(learner, module):
    for name, p in module.named_parameters():
        torch.testing.assert_close(parameters(learner)[name], p, rtol=1e-5, atol=1e-6, msg=name)


CASES = [
    ("dual", LSTM, T, OBS, ACT),
    ("dual", GRU, 3, OBS, REAL),
    ("dual", LSTM, 3, IMAGES, ACT),
    ("detach", LSTM, 4, OBS, REAL),
    ("shared", GRU, T, OBS, ACT),
]


@pytest.mark.parametrize(("arch", "cell", "L", "obs", "act"), CASES)
def test_policy_phase_gradient(arch, cell, L, obs, act):
    learner = learner_of(
        cell, L, obs=obs, act=act, arch=arch, entropy_coeff=0.03, vf_loss_coeff=0.7
    )
    size = H if cell is GRU else 2 * H
    carried = np.zeros((N, size))
    for number in (1, 2):  # the value network's states go on in the second iteration
        r = recurrent_rollout(number, L, size, number, obs=obs, act=act)
        module, before = reference_module(learner), parameters(learner)
        starts = carried if arch == "dual" else r.state_in[:, 0]
        of_values, vf_states, ends = values_and_states(module, r, starts, L)
        carried = np.stack([end.numpy() for end in ends])
        _, A, V_targ = targets_of_values(r, r.rewards.astype(np.float64), *of_values)
        A = (A - A[r.valid].mean()) / (A[r.valid].std() + 1e-8)
        pi_states = segment_states(r, L)
        out = outputs(module, r, pi_states, vf_states if arch == "dual" else pi_states, L)
        pi = distribution(out["inputs"], act)
        log_r = pi.log_prob(torch.tensor(r.actions[r.valid]))
        log_r = log_r - torch.tensor(r.logp[r.valid]).double()
        adv = torch.tensor(A[r.valid])
        clipped = torch.minimum(log_r.exp() * adv, log_r.exp().clamp(0.8, 1.2) * adv)
        mse = (out["V"] - torch.tensor(V_targ[r.valid])) ** 2
        loss = -clipped.mean() - 0.03 * pi.entropy().mean() + 0.7 * 0.5 * mse.mean()
        gradients = mean_gradients(module, loss)
        metrics, _, (block,) = policy_phase(learner, r)
        np.testing.assert_allclose(block.columns["V_targ"], V_targ, rtol=1e-5, atol=1e-6)
        assert (
            metrics.get("num_vf_states_lost", 0)
            == (arch == "dual" and number == 1) * (~r.begins).sum()
        )
        after = parameters(learner)
        for name, g in gradients.items():
            step = before[name] - after[name]
            want = torch.zeros_like(step) if g is None else g
            torch.testing.assert_close(step, want, rtol=1e-5, atol=1e-6, msg=name)


def refreshed(module, net, rollouts, start, L):
    """States at segments' starts with the networks as they are, walking from rollout to rollout."""
    found, states = [], [torch.tensor(s).double() for s in start]
    with torch.no_grad():
        for r in rollouts:
            first, of_rollout = first_steps(r), []
            for n in range(len(r)):
                of_row = []
                for t in range(T):
                    if first[n, t]:
                        states[n] = net.initial
                    if t % L == 0:
                        of_row.append(states[n])
                    _, states[n] = net.step(r.obs[n, t], states[n])
                of_rollout.append(of_row)
            found.append(of_rollout)
    return found


@pytest.mark.parametrize(("arch", "cell", "L", "obs", "act"), CASES)
def test_auxiliary_phase_gradient(arch, cell, L, obs, act):
    learner = learner_of(cell, L, obs=obs, act=act, arch=arch, e_aux=2, beta_clone=0.3)
    size = H if cell is GRU else 2 * H
    rollouts = [recurrent_rollout(i, L, size, i, obs=obs, act=act) for i in (1, 2)]
    stored = []
    for i, r in enumerate(rollouts):
        _, (info,), (block,) = policy_phase(learner, r)
        stored.append((replace(info, rows=info.rows + i * N), block))
    module, size = reference_module(learner), np.zeros((N, size))
    pi_net, vf_net = networks(module)
    pi_states = refreshed(module, pi_net, rollouts, rollouts[0].state_in[:, 0], L)
    vf_states = refreshed(module, vf_net, rollouts, size, L) if arch == "dual" else pi_states
    V_targ = [block.columns["V_targ"][block.valid] for _, block in stored]
    V_targ = torch.tensor(np.concatenate(V_targ)).double()

    def out():
        parts = [
            outputs(module, r, pi, vf, L)
            for r, pi, vf in zip(rollouts, pi_states, vf_states, strict=True)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    with torch.no_grad():
        pi_old = distribution(out()["inputs"], act)
    expected = []
    for _ in range(2):
        o = out()
        kl = kl_divergence(pi_old, distribution(o["inputs"], act)).mean()
        aux = 0.5 * ((o["V_aux"] - V_targ) ** 2).mean()
        vf = 0.5 * ((o["V"] - V_targ) ** 2).mean()
        gradients = mean_gradients(module, aux + 0.3 * kl + vf)
        with torch.no_grad():
            for name, p in module.named_parameters():
                p -= 0 if gradients[name] is None else gradients[name]
        expected.append({"aux/vf_aux_loss": aux, "aux/clone_kl": kl, "aux/vf_loss": vf})
    metrics = aux_phase(learner, stored, rows=[2 * N])  # in one minibatch
    assert_close(learner, module)
    for got, want in zip(metrics, expected, strict=True):
        for name, value in want.items():
            assert got[name] == pytest.approx(value.item(), rel=1e-5, abs=1e-7), name


@pytest.mark.parametrize("arch", ["dual", "detach"])
def test_learners_and_env_runners_without_rows(arch):
    """An env runner with fewer envs than there are learners has no rows for some of them."""
    r = recurrent_rollout(1, 3, 2 * H)
    cut = r.split([0, 0, N, N])
    whole, parts = (learner_of(LSTM, 3, arch=arch, e_aux=1) for _ in range(2))
    metrics, _, _ = policy_phase(whole, r)
    expected, _, _ = policy_phase(parts, *cut)
    assert metrics == expected
    assert_close(parts, reference_module(whole))
    losses = {"value": 1.0, "inverse_dynamics": 1.0}
    for model_config in (LSTM, {}):
        without = make_learner(arch=arch, aux_losses=losses, model_config=model_config)
        assert aux_phase(without, [], rows=[N])[-1]["aux/clone_kl"] == 0


class Reconstruction(AuxLoss):
    """A user's loss of the observations themselves."""

    def build_head(self, num_features, observation_space, action_space):
        return torch.nn.Linear(num_features, *observation_space.shape)

    def terms(self, head, batch):
        return ((head(batch["features"]) - batch["obs"]) ** 2).mean(1)


def test_losses_get_the_observations_of_transitions():
    losses = {"value": 1.0, "mine": Reconstruction(1.0)}
    learner = make_learner(aux_losses=losses, e_aux=1, segment_length=3, model_config=LSTM)
    r = recurrent_rollout(2, 3, 2 * H, number=2)
    assert not r.valid.all()
    _, infos, blocks = policy_phase(learner, r)
    [metrics] = aux_phase(learner, list(zip(infos, blocks, strict=True)), rows=[N])
    assert metrics["aux/mine_loss"] > 0
