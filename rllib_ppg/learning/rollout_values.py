"""What a module's value function says about a rollout.

Shapes: n rows of T steps, in K segments; D numbers of a recurrent state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from torch import Tensor

from rllib_ppg.data.rollout import Rollout, as_states
from rllib_ppg.learning.trained_module import TrainedModule
from rllib_ppg.learning.walk import one_step, walk
from rllib_ppg.networks.recurrent_state import STATE_IN, VF_STATE_IN

V = Columns.VF_PREDS


class RolloutValues(NamedTuple):
    """Values of a rollout's observations.

    Attributes:
        V: Of `obs`, `[n, T]`.
        last: Of `last_obs`, `[n]`.
        final: Of `final_obs`, one for each.
        states: Recurrent states at the start of each segment, `[n, K, D]` by column; {} of modules
            without a memory.
        unknown: Rows within an episode that the value network begins without a memory of it.
    """

    V: np.ndarray
    last: np.ndarray
    final: np.ndarray
    states: dict[str, Tensor]
    unknown: int


def rollout_values(module: TrainedModule, rollout: Rollout) -> RolloutValues:
    """Values of all observations, each with the recurrent state of its moment.

    The value network's own states go on from the env's last rollout, and are kept for the next.
    """
    if module.recurrence is None:
        values = module.values(as_states(rollout.obs)).reshape(rollout.valid.shape)
        last, final = module.values(rollout.last_obs), module.values(rollout.final_obs)
        return RolloutValues(values, last, final, {}, 0)
    of_rows, unknown = {STATE_IN: rollout.state_in[:, 0]}, 0
    if module.vf_states is not None:
        initial = module.recurrence.layouts[VF_STATE_IN].initial
        of_rows[VF_STATE_IN], unknown = module.vf_states.starts(
            rollout.stream, rollout.begins, initial, np.tile(initial, (len(rollout), 1))
        )
    states = {name: torch.from_numpy(x).to(module.device) for name, x in of_rows.items()}
    found = walk(module, rollout.obs, rollout.first(), states, V, after=rollout.final_index)
    # The policy's are those that it acted with.
    starts = found.starts | {STATE_IN: torch.from_numpy(rollout.state_in).to(module.device)}
    if module.vf_states is not None:
        module.vf_states.keep(rollout.stream, found.ends[VF_STATE_IN].cpu().numpy())
    return RolloutValues(
        found.outputs[V].cpu().numpy(),
        one_step(module, rollout.last_obs, found.ends, V),
        one_step(module, rollout.final_obs, found.after, V),
        starts,
        unknown,
    )


def for_dataset(rollouts: Sequence[Rollout], values: Sequence[RolloutValues]) -> dict[str, Any]:
    """What a dataset of the rollouts' states needs beside columns, `TrainedModule.dataset`."""
    if not values or not values[0].states:
        return {}
    states = {
        name: torch.cat([v.states[name].flatten(0, 1) for v in values]) for name in values[0].states
    }
    begins = [rollout.first().ravel() for rollout in rollouts]
    return {"begins": np.concatenate(begins), "states": states}


def for_replay(rollout: Rollout, values: RolloutValues) -> dict[str, np.ndarray]:
    """What the replay list holds of a row of a module with a memory, `[n, ...]` by column."""
    if not values.states:
        return {}
    starts = {name: x[:, 0].cpu().numpy() for name, x in values.states.items()}
    return {"stream": rollout.stream, "begins": rollout.begins, **starts}
