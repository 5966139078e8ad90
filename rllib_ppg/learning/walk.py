"""Walks along rows with a recurrent module as it is now, and notes its states on the way.

Shapes: n rows of T steps, in K segments of L; D numbers of a state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rllib_ppg.data.minibatches import segments_per_row
from rllib_ppg.data.rollout import as_states
from rllib_ppg.learning.batches import as_tensor
from rllib_ppg.learning.recurrence import LENGTHS
from rllib_ppg.learning.sequence_batches import cut
from rllib_ppg.learning.trained_module import Batch, TrainedModule
from rllib_ppg.networks.recurrent_state import STATE_AFTER

# Rows are walked side by side, as many as have about so many frames in a segment.
_FRAMES = 2**14


class Walk(NamedTuple):
    """What a walk found.

    Attributes:
        outputs: The module's outputs by name, `[n, T, ...]`.
        starts: States at each segment's start, `[n, K, D]`, by column.
        ends: States after the last step, `[n, D]`.
        after: States after the steps that were asked for.
    """

    outputs: dict[str, Tensor]
    starts: dict[str, Tensor]
    ends: dict[str, Tensor]
    after: dict[str, Tensor]


def walk(
    module: TrainedModule,
    obs: np.ndarray,
    begins: np.ndarray,
    states: Mapping[str, Tensor],
    *outputs: str,
    after: np.ndarray | None = None,
) -> Walk:
    """Walks along rows, a segment at a time.

    States of networks that the outputs do not need stay what they were.

    Args:
        module: The recurrent module.
        obs: Observations `[n, T, ...]`.
        begins: Whether each step is the first of an episode, `[n, T]` bool.
        states: The states that the rows start from, `[n, D]`, by column.
        *outputs: Names of the outputs to compute.
        after: (row, step) of steps with which episodes end, `[k, 2]`.
    """
    after = np.empty((0, 2), np.int64) if after is None else after
    size = max(1, _FRAMES // module.config.steps_per_segment)
    walks = []
    for a in range(0, max(len(obs), 1), size):
        rows = slice(a, a + size)
        mine = (a <= after[:, 0]) & (after[:, 0] < a + size)
        walks.append(
            _walk(
                module,
                obs[rows],
                begins[rows],
                {name: x[rows] for name, x in states.items()},
                outputs,
                after[mine] - np.array([a, 0]),
            )
        )
    # Back in the order that they were asked for.
    order = np.argsort(after[:, 0] // size, kind="stable").argsort(kind="stable")
    found, starts, ends, asked = map(_concatenated, zip(*walks, strict=True))
    return Walk(found, starts, ends, {name: x[order] for name, x in asked.items()})


@torch.no_grad()
def _walk(
    module: TrainedModule,
    obs: np.ndarray,
    begins: np.ndarray,
    states: dict[str, Tensor],
    outputs: Sequence[str],
    after: np.ndarray,
) -> Walk:
    (n, T), L, of = begins.shape, module.config.steps_per_segment, module.recurrence
    assert of is not None
    out: dict[str, list[Tensor]] = {name: [] for name in outputs}
    starts: dict[str, list[Tensor]] = {name: [] for name in states}
    asked = {name: x.new_empty((len(after), x.shape[1])) for name, x in states.items()}
    for k in range(segments_per_row(T, L) if n else 0):
        segment = slice(k * L, min((k + 1) * L, T))
        length = segment.stop - segment.start
        new = torch.from_numpy(begins[:, segment.start, None]).to(module.device)
        states = {name: torch.where(new, of.initial[name], x) for name, x in states.items()}
        for name, x in states.items():
            starts[name].append(x)
        batch = cut(begins[:, segment].ravel(), np.arange(n) * length, states, of)
        frames = as_tensor(as_states(np.ascontiguousarray(obs[:, segment])))
        batch["obs"] = frames.to(module.device)
        found = module.forward(batch, *outputs)
        for name in outputs:
            out[name].append(found[name].unflatten(0, (n, length)))
        # The sequence of each frame; the last one of a row is that of its last frame.
        sequence = np.repeat(np.arange(len(batch[LENGTHS])), batch[LENGTHS]).reshape(n, length)
        here = (segment.start <= after[:, 1]) & (after[:, 1] < segment.stop)
        at = sequence[after[here, 0], after[here, 1] - segment.start]
        for name in states:
            if (of_sequences := found.get(STATE_AFTER[name])) is not None:
                asked[name][torch.from_numpy(here)] = of_sequences[at]
                states = {**states, name: of_sequences[sequence[:, -1]]}
    return Walk(
        {name: torch.cat(parts, 1) for name, parts in out.items() if parts},
        {name: torch.stack(parts, 1) for name, parts in starts.items() if parts},
        states,
        asked,
    )


@torch.no_grad()
def one_step(
    module: TrainedModule, obs: np.ndarray, states: Mapping[str, Tensor], output: str
) -> np.ndarray:
    """An output for single observations `[n, ...]` that follow states `[n, D]`."""
    if not len(obs):
        return np.empty(0, np.float32)
    batch: Batch = {"obs": as_tensor(obs).to(module.device), **states}
    batch[LENGTHS] = torch.ones(len(obs), dtype=torch.int64)
    return module.forward(batch, output)[output].cpu().numpy()


def _concatenated(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
