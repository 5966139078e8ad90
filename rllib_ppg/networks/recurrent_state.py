"""The states of recurrent networks as arrays of numbers.

In RLlib a state is a dict of arrays, perhaps nested. Env runners, replay blocks and checkpoints
hold it as one vector, the arrays of the dict side by side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import tree
from ray.rllib.core.columns import Columns
from torch import Tensor

# The states that a sequence begins with, of the networks that act and of a value network of its
# own; and those after it.
STATE_IN = Columns.STATE_IN
STATE_OUT = Columns.STATE_OUT
VF_STATE_IN = "vf_state_in"
VF_STATE_OUT = "vf_state_out"
STATE_AFTER = {STATE_IN: STATE_OUT, VF_STATE_IN: VF_STATE_OUT}


class StateLayout:
    """How a state is laid out in a vector of D numbers.

    Args:
        initial: RLlib's state at the start of an episode; {} of networks without a state.

    Attributes:
        initial: That state, `[D]` float32.
    """

    def __init__(self, initial: Any):
        self._tree = tree.map_structure(torch.as_tensor, initial)
        leaves = tree.flatten(self._tree)
        self._sizes = [leaf.numel() for leaf in leaves]
        parts = [leaf.detach().cpu().float().numpy().ravel() for leaf in leaves]
        self.initial = np.concatenate([*parts, np.empty(0, np.float32)])

    @property
    def size(self) -> int:
        """D."""
        return len(self.initial)

    def unflatten(self, states: Tensor) -> Any:
        """States `[B, D]` as RLlib has them."""
        leaves = tree.flatten(self._tree)
        parts = states.split(self._sizes, dim=1)
        return tree.unflatten_as(
            self._tree,
            [
                part.unflatten(1, tuple(leaf.shape) or (1,)).to(leaf.dtype)
                for part, leaf in zip(parts, leaves, strict=True)
            ],
        )


def flatten_states(states: Any) -> Tensor:
    """RLlib's states, arrays `[B, ...]`, as `[B, D]` float32."""
    return torch.cat([leaf.flatten(1).float() for leaf in tree.flatten(states)], dim=1)


def state_layouts(module: Any) -> dict[str, StateLayout]:
    """The layouts of a module's states, by the name of the column that holds them.

    A module that learns has a second one if its value network has a state of its own.
    """
    layouts = {}
    if module.is_stateful():
        layouts[STATE_IN] = StateLayout(module.get_initial_state())
        of_values: Any = getattr(module, "get_initial_vf_state", dict)()
        if of_values:
            layouts[VF_STATE_IN] = StateLayout(of_values)
    return layouts
