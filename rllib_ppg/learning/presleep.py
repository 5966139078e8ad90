"""The pass over a phase's states before its auxiliary epochs, with the networks as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns
from ray.rllib.utils.annotations import override
from torch import Tensor

from rllib_ppg.data.replay import ReplayBlock
from rllib_ppg.data.rollout import as_states, first_steps
from rllib_ppg.learning.carried_states import CarriedStates
from rllib_ppg.learning.recurrence import Recurrence
from rllib_ppg.learning.trained_module import TrainedModule
from rllib_ppg.learning.walk import walk

INPUTS, V = Columns.ACTION_DIST_INPUTS, Columns.VF_PREDS


def presleep_pass(module: TrainedModule) -> PresleepPass:
    """The pass that a module needs."""
    if module.recurrence is None:
        return PresleepPass(module)
    return RecurrentPresleepPass(module, module.recurrence)


class PresleepPass:
    """Goes through the blocks of a phase, in the order of time."""

    def __init__(self, module: TrainedModule):
        self._module = module

    def outputs(self, block: ReplayBlock) -> dict[str, Tensor]:
        """Inputs of the action distribution, and the values if a loss needs them, `[S_k, ...]`."""
        obs = as_states(block.obs)
        found = {INPUTS: torch.cat(self._module.action_dist_inputs(obs))}
        if self._module.needs_presleep_values:
            found[V] = torch.from_numpy(self._module.values(obs)).to(self._module.device)
        return found

    def for_dataset(self) -> dict[str, Any]:
        """What the dataset of these states needs beside columns."""
        return {}


class RecurrentPresleepPass(PresleepPass):
    """Notes the recurrent states that segments start from.

    Each row starts from the state after the env's row before it, as the networks are now, so no
    state is older than the phase.
    """

    def __init__(self, module: TrainedModule, recurrence: Recurrence):
        super().__init__(module)
        self._layouts = recurrence.layouts
        self._carried = {name: CarriedStates() for name in self._layouts}
        self._starts = {name: [x[None][:0]] for name, x in recurrence.initial.items()}
        self._begins = [np.empty(0, bool)]

    @override(PresleepPass)
    def outputs(self, block: ReplayBlock) -> dict[str, Tensor]:
        """As `PresleepPass.outputs`, with the values that the value network's states need."""
        stream, row_begins = block.columns["stream"], block.columns["begins"]
        states = {}
        for name, layout in self._layouts.items():
            start, _ = self._carried[name].starts(
                stream, row_begins, layout.initial, block.columns[name]
            )
            states[name] = torch.from_numpy(start).to(self._module.device)
        begins = first_steps(row_begins, block.columns["ended"], block.valid)
        found = walk(self._module, block.obs, begins, states, INPUTS, V)
        for name in states:
            self._carried[name].keep(stream, found.ends[name].cpu().numpy())
            self._starts[name].append(found.starts[name].flatten(0, 1))
        self._begins.append(begins.ravel())
        return {name: x.flatten(0, 1) for name, x in found.outputs.items()}

    @override(PresleepPass)
    def for_dataset(self) -> dict[str, Any]:
        states = {name: torch.cat(parts) for name, parts in self._starts.items()}
        return {"begins": np.concatenate(self._begins), "states": states}
