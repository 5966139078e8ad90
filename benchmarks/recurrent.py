"""The policy phase of a learner with LSTMs against a bare torch loop that does the same.

    python -m benchmarks.recurrent

The bare loop has the same networks, data and minibatches, cut into sequences where episodes begin,
and nothing around them: no Ray, no checks, no metrics.
A figure is the bare loop's time over the learner's, the median of rounds in turn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

from benchmarks.measuring import SEED, in_turn, machine, ratio
from rllib_ppg import PPGConfig
from rllib_ppg.data.phase_specs import PolicyPhase
from rllib_ppg.data.rollout import Rollout
from rllib_ppg.learner import PPGTorchLearner
from rllib_ppg.networks.impala_cnn import ImpalaCNN

ACTIONS, EPOCHS, MINIBATCHES = 6, 2, 8
# Envs, steps of a row, steps of a segment, the cell, and the mean length of an episode.
VECTORS = {"rows": 64, "T": 128, "L": 32, "cell": 128, "episode": 50, "obs": (8,)}
LONG = {**VECTORS, "L": 128, "episode": 1000}
IMAGES = {"rows": 16, "T": 64, "L": 32, "cell": 256, "episode": 100, "obs": (64, 64, 3)}
CHANNELS, DENSE = (8, 16, 16), 256


def rollout_of(case: dict[str, Any]) -> Rollout:
    """Random steps of episodes that end now and then."""
    rng = np.random.default_rng(SEED)
    N, T, shape = case["rows"], case["T"], case["obs"]
    images = len(shape) == 3

    def obs(*lead: int) -> np.ndarray:
        if images:
            return rng.integers(0, 256, (*lead, *shape), np.uint8)
        return rng.normal(size=(*lead, *shape)).astype(np.float32)

    return Rollout(
        obs=obs(N, T),
        actions=rng.integers(0, ACTIONS, (N, T)),
        logp=np.full((N, T), -np.log(ACTIONS), np.float32),
        rewards=rng.normal(size=(N, T)).astype(np.float32),
        terminated=rng.random((N, T)) < 1 / case["episode"],
        truncated=np.zeros((N, T), bool),
        valid=np.ones((N, T), bool),
        state_in=np.zeros((N, -(-T // case["L"]), 2 * case["cell"]), np.float32),
        begins=np.zeros(N, bool),
        stream=np.stack([np.zeros(N), np.arange(N), np.zeros(N)], 1).astype(np.int64),
        last_obs=obs(N),
        final_obs=obs(0),
        final_index=np.empty((0, 2), np.int64),
    )


def learner_of(case: dict[str, Any]) -> PPGTorchLearner:
    """A learner with the case's networks."""
    images = len(case["obs"]) == 3
    space = gym.spaces.Box(0, 255, case["obs"], np.uint8) if images else (
        gym.spaces.Box(-np.inf, np.inf, case["obs"])
    )  # fmt: skip
    config = (
        PPGConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=case["rows"])
        .env_runners(rollout_fragment_length=case["T"])
        .rl_module(
            model_config={
                "use_lstm": True,
                "lstm_cell_size": case["cell"],
                "fcnet_hiddens": [64],
                "impala_channels": CHANNELS,
                "impala_dense": DENSE,
            }
        )
        .training(segment_length=case["L"], e_pi=EPOCHS, e_v=EPOCHS, num_minibatches=MINIBATCHES)
    )
    spaces = {DEFAULT_MODULE_ID: (space, gym.spaces.Discrete(ACTIONS))}
    spec = config.get_multi_rl_module_spec(spaces=spaces)
    learner = PPGTorchLearner(config=config, module_spec=spec)
    learner.build()
    return learner


class Network(nn.Module):
    """An encoder, an LSTM and a head."""

    def __init__(self, case: dict[str, Any], outputs: int):
        super().__init__()
        if len(case["obs"]) == 3:
            self.encoder: nn.Module = ImpalaCNN(case["obs"], CHANNELS, DENSE)
            size = DENSE
        else:
            self.encoder, size = nn.Sequential(nn.Linear(*case["obs"], 64), nn.Tanh()), 64
        self.lstm = nn.LSTM(size, case["cell"])
        self.head = nn.Linear(case["cell"], outputs)

    def forward(self, obs: Tensor, lengths: list[int]) -> Tensor:
        """Outputs of sequences of these lengths, one after the other."""
        parts = self.encoder(obs).split(lengths)
        packed, _ = self.lstm(pack_sequence(parts, enforce_sorted=False))
        return self.head(torch.cat(unpack_sequence(packed)))


class Bare:
    """The bare loop on the states of a rollout."""

    def __init__(self, case: dict[str, Any], rollout: Rollout):
        self.pi, self.vf = Network(case, ACTIONS), Network(case, 1)
        parameters = [*self.pi.parameters(), *self.vf.parameters()]
        self.adam = torch.optim.Adam(parameters, lr=5e-4, fused=True)
        N, T, self.L = case["rows"], case["T"], case["L"]
        self.obs = torch.from_numpy(rollout.obs.reshape(N * T, *case["obs"]))
        self.actions = torch.from_numpy(rollout.actions.ravel())
        self.ended = torch.from_numpy(rollout.terminated.ravel())
        self.row_ends = torch.zeros(N * T, dtype=torch.bool)
        self.row_ends[T - 1 :: T] = True

    def minibatches(self) -> Iterator[tuple[Tensor, list[int]]]:
        """Indices of each minibatch's states, and the lengths of their sequences."""
        segments = torch.randperm(len(self.obs) // self.L)
        for chosen in segments.chunk(MINIBATCHES):
            index = (chosen.sort().values[:, None] * self.L + torch.arange(self.L)).flatten()
            ends = self.ended[index]
            ends[self.L - 1 :: self.L] = True
            yield index, ends.nonzero().flatten().diff(prepend=torch.tensor([-1])).tolist()

    @torch.no_grad()
    def values(self) -> Tensor:
        """V of all states."""
        ends = (self.ended | self.row_ends).nonzero().flatten()
        return self.vf(self.obs, ends.diff(prepend=torch.tensor([-1])).tolist())

    def policy_phase(self) -> None:
        """The passes of an iteration's policy phase."""
        V_targ = self.values().squeeze(-1)
        A = V_targ - V_targ.mean()
        for _ in range(EPOCHS):
            for index, lengths in self.minibatches():
                obs = self.obs[index]
                logp = self.pi(obs, lengths).log_softmax(-1)
                of_actions = logp.gather(1, self.actions[index, None]).squeeze(-1)
                ratio, a = (of_actions - of_actions.detach()).exp(), A[index]
                L_clip = torch.min(ratio * a, ratio.clamp(0.8, 1.2) * a).mean()
                entropy = -(logp.exp() * logp).sum(-1).mean()
                V = self.vf(obs, lengths).squeeze(-1)
                loss = 0.5 * (V - V_targ[index]).square().mean() - L_clip - 0.01 * entropy
                self.adam.zero_grad()
                loss.backward()
                self.adam.step()


def compare(case: dict[str, Any]) -> dict[str, Any]:
    """Times of both, and their ratio."""
    rollout, learner = rollout_of(case), learner_of(case)
    bare, rows = Bare(case, rollout), case["rows"]
    phase = PolicyPhase(
        DEFAULT_MODULE_ID, SEED, [np.arange(rows)], rows, 0, 0, 1.0, rows_per_block=0
    )

    def ours() -> None:
        learner.policy_phase(phase, rollout)

    in_turn(1, bare=bare.policy_phase, ours=ours)
    times = in_turn(7, bare=bare.policy_phase, ours=ours)
    states = rows * case["T"] * EPOCHS
    per_second = {name: round(states / float(np.median(t))) for name, t in times.items()}
    return {"learner / bare": round(ratio(times["bare"], times["ours"]), 2), **per_second}


def main() -> None:
    """See the module."""
    argparse.ArgumentParser(description=__doc__.split("\n", 1)[0]).parse_args()
    print(json.dumps(machine()), flush=True)
    cases = {"vectors": VECTORS, "vectors, whole rows, long episodes": LONG, "images": IMAGES}
    for name, case in cases.items():
        print(name, json.dumps(compare(case)), flush=True)


if __name__ == "__main__":
    main()
