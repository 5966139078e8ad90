"""Walks along rows with a recurrent module as it is now, and notes its states on the way.

Shapes: n rows of T steps, in K segments of L; D numbers of a state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from torch import Tensor

from rllib_ppg.data.minibatches import segments_per_row
from rllib_ppg.data.rollout import as_states
from rllib_ppg.learning.batches import as_tensor
from rllib_ppg.learning.recurrence import LENGTHS
from rllib_ppg.learning.sequence_batches import cut
from rllib_ppg.learning.trained_module import Batch, TrainedModule
from rllib_ppg.networks.recurrent_state import STATE_AFTER

# Rows are walked side by side, as many as have about so many frames in a segment.
_FRAMES = 2**13


class Walk(NamedTuple):
    """What a walk found.

    Attributes:
        outputs: The module's outputs by name, `[n, T, ...]`.
        starts: States at each segment's start, `[n, K, D]`, by column.
        ends: States after the last step, `[n, D]`.
        after: States after the steps that were asked for, `[k, D]`.
    """

    outputs: dict[str, Tensor]
    starts: dict[str, Tensor]
    ends: dict[str, Tensor]
    after: dict[str, Tensor]


@torch.no_grad()
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
        *outputs: Which to compute: inputs of the action distribution, values or both.
        after: (row, step) of steps with which episodes end, `[k, 2]`.
    """
    assert module.recurrence is not None
    (n, T), L = begins.shape, module.config.steps_per_segment
    after = np.empty((0, 2), np.int64) if after is None else after
    of_one = {
        Columns.ACTION_DIST_INPUTS: module.placeholder["pi_old"],
        Columns.VF_PREDS: module.placeholder["V"],
    }
    found = Walk(
        {name: of_one[name].new_empty((n, T, *of_one[name].shape[1:])) for name in outputs},
        {name: x.new_empty((n, segments_per_row(T, L), x.shape[1])) for name, x in states.items()},
        {name: x.clone() for name, x in states.items()},
        {name: x.new_empty((len(after), x.shape[1])) for name, x in states.items()},
    )
    size = max(1, _FRAMES // L)
    for a in range(0, n, size):
        rows = slice(a, min(a + size, n))
        for k, t in enumerate(range(0, T, L)):
            _walk_segment(module, obs, begins, rows, slice(t, min(t + L, T)), k, after, found)
    return found


def _walk_segment(
    module: TrainedModule,
    obs: np.ndarray,
    begins: np.ndarray,
    rows: slice,
    steps: slice,
    k: int,
    after: np.ndarray,
    found: Walk,
) -> None:
    """Walks along segment `k` of some rows, from the states in `found.ends`, and fills `found`."""
    assert module.recurrence is not None
    first = begins[rows, steps]
    shape = first.shape
    new = torch.from_numpy(first[:, :1]).to(module.device)
    for name, initial in module.recurrence.initial.items():
        start = torch.where(new, initial, found.ends[name][rows])
        found.starts[name][rows, k] = found.ends[name][rows] = start
    starts = {name: x[rows, k] for name, x in found.starts.items()}
    batch = cut(first.ravel(), np.arange(shape[0]) * shape[1], starts, module.recurrence)
    frames = as_tensor(as_states(np.ascontiguousarray(obs[rows, steps])))
    batch["obs"] = frames.to(module.device)
    out = module.forward(batch, *found.outputs)
    for name, x in found.outputs.items():
        x[rows, steps] = out[name].unflatten(0, shape)
    # A row ends with the sequence of its last frame, and so does an episode.
    sequence_of = np.repeat(np.arange(len(batch[LENGTHS])), batch[LENGTHS]).reshape(shape)
    row, step = (after - [rows.start, steps.start]).T
    here = (row >= 0) & (row < shape[0]) & (step >= 0) & (step < shape[1])
    for name in starts:
        if STATE_AFTER[name] in out:
            states_after = out[STATE_AFTER[name]]
            found.ends[name][rows] = states_after[sequence_of[:, -1]]
            of_steps = states_after[sequence_of[row[here], step[here]]]
            found.after[name][np.flatnonzero(here)] = of_steps


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
