"""What a phase should compute, written out in float64 without the package's code.

Where results are compared, the networks are float64 too. Advantages and value targets stay float32,
so that results agree to a few of its roundings (2**-24 = 6e-8 each), on every CPU.
"""

import copy

import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from torch.distributions import Categorical, Independent, Normal

from tests.support.learners import ACT, T

RTOL, ATOL = 1e-6, 1e-7


def distribution(inputs, act):
    """Written by torch, not by RLlib."""
    if act is ACT:
        return Categorical(logits=inputs)
    mean, log_std = inputs.chunk(2, -1)
    return Independent(Normal(mean, log_std.exp()), 1)


def reference_module(learner):
    return copy.deepcopy(learner.module[DEFAULT_MODULE_ID]).double()


def reference_targets(module, r, rewards, gamma=0.9, lambda_=0.8):
    """V_targ and advantages by recursion over single steps, in float64."""

    def V(obs):
        obs = torch.tensor(obs)
        with torch.no_grad():
            inputs = obs if obs.dtype == torch.uint8 else obs.double()
            return module.compute_values({Columns.OBS: inputs}).numpy()

    values = np.stack([V(row) for row in r.obs])
    final = {tuple(i): V(o[None])[0] for i, o in zip(r.final_index, r.final_obs, strict=True)}
    return targets_of_values(r, rewards, values, V(r.last_obs), final, gamma, lambda_)


def targets_of_values(r, rewards, values, last, final, gamma=0.9, lambda_=0.8):
    """The same, given the values of `obs`, of `last_obs` and, by (row, step), of `final_obs`."""
    A = np.zeros(values.shape)
    for n in range(len(r)):
        follow = 0.0
        for t in reversed(range(T)):
            nxt = values[n, t + 1] if t + 1 < T else last[n]
            if (n, t) in final:
                nxt = final[n, t]
            if r.terminated[n, t]:
                nxt = 0.0
            if r.terminated[n, t] or r.truncated[n, t]:
                follow = 0.0
            follow = rewards[n, t] + gamma * nxt - values[n, t] + gamma * lambda_ * follow
            A[n, t] = follow
    return values, A, A + values


def mean_gradients(module, loss):
    module.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad for name, p in module.named_parameters()}


def assert_moved_by(before, after, gradients):
    for name, g in gradients.items():
        step = before[name] - after[name]
        if g is None:
            assert torch.equal(before[name], after[name]), name
        else:
            torch.testing.assert_close(step, g, rtol=RTOL, atol=ATOL, msg=name)
