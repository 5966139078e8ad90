"""Networks for the heads of auxiliary losses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from rllib_ppg.setting_values import format_value, is_whole


def check_hidden(hidden: int) -> int:
    """Returns the number of units of a hidden layer; raises ValueError if it is none."""
    if not is_whole(hidden) or not 1 <= hidden < 2**31:
        raise ValueError(f"hidden is a whole number of at least 1, not {format_value(hidden)}")
    return hidden


def mlp(num_inputs: int, hidden: Sequence[int], num_outputs: int) -> nn.Sequential:
    """A network with hidden layers of relu units."""
    sizes = [num_inputs, *hidden]
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], num_outputs))
