"""Both phases of the learner against the same passes in bare loops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from benchmarks.envs import FRAMES
from benchmarks.measuring import DEVICE, SEED, Row, per_second
from benchmarks.throughput.bare_parts import best_bare, random_rollout
from benchmarks.throughput.configs import ppg
from benchmarks.throughput.sizes import Sizes, compare
from rllib_ppg.data.phase_specs import AuxPhase, PolicyPhase
from rllib_ppg.learner import PPGTorchLearner


class Phases:
    """A learner and both of its phases on random frames."""

    def __init__(self, sizes: Sizes, **training: Any):
        config = ppg(sizes, 0, **training)
        spaces = {DEFAULT_MODULE_ID: (FRAMES["observation_space"], FRAMES["action_space"])}
        self.sizes = sizes
        self.learner = PPGTorchLearner(
            config=config, module_spec=config.get_multi_rl_module_spec(spaces=spaces)
        )
        self.learner.build()
        self.rollout = random_rollout(sizes)
        self.stored: list[Any] = []

    def policy(self) -> None:
        """The policy phase of one iteration."""
        rows = self.sizes.rows
        phase = PolicyPhase(
            DEFAULT_MODULE_ID, SEED, [np.arange(rows)], rows, 0, 0, 1.0, rows_per_block=1
        )
        (_, infos), *blocks = self.learner.policy_phase(phase, self.rollout)
        if not self.stored:
            self.stored = [(ray.put(b), 0, info) for b, info in zip(blocks, infos, strict=True)]

    def presleep(self, iterations: int = 1) -> None:
        """Opens the auxiliary phase over so many iterations, all with the same frames."""
        blocks = [(ref, i, info) for i in range(iterations) for ref, _, info in self.stored]
        rows = [self.sizes.rows] * iterations
        self.learner.presleep(AuxPhase(DEFAULT_MODULE_ID, SEED, blocks, rows))

    def aux(self) -> None:
        """The auxiliary phase of one iteration."""
        self.presleep()
        for epoch in range(self.sizes.e_aux):
            self.learner.aux_epoch(DEFAULT_MODULE_ID, epoch)


def phases(sizes: Sizes) -> Iterator[Row]:
    """The learner's phases against the same passes in bare loops, on the same data."""
    ours, S = Phases(sizes), sizes.states
    obs = torch.from_numpy(ours.rollout.obs.reshape(S, 64, 64, 3)).to(DEVICE)
    bare = best_bare(obs)

    def bare_policy() -> None:
        bare.policy_phase(obs, sizes.num_mb, sizes.T)

    def bare_aux() -> None:
        bare.aux_phase(obs, sizes.num_mb, sizes.T, sizes.e_aux)

    times = compare(sizes, bare=bare_policy, ours=ours.policy)
    yield Row.of_times(
        "policy phase: learner / bare torch loop",
        times["bare"],
        times["ours"],
        0.95,
        detail={"bare micro-batch": bare.frames}
        | {f"{k} states/s": per_second(S, t) for k, t in times.items()},
    )
    times = compare(sizes, bare=bare_aux, ours=ours.aux)
    yield Row.of_times(
        "auxiliary phase: learner / bare torch loop",
        times["bare"],
        times["ours"],
        0.95,
        detail={f"{k} states/s": per_second(S * sizes.e_aux, t) for k, t in times.items()},
    )
