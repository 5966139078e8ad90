"""Networks for the heads of auxiliary losses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def check_hidden(hidden: int) -> int:
    """Returns the number of units of a hidden layer; raises ValueError if it is none."""
    if not isinstance(hidden, int) or isinstance(hidden, bool) or hidden < 1:
        raise ValueError(f"hidden is a whole number of at least 1, not {hidden!r}")
    return hidden


def mlp(num_inputs: int, hidden: Sequence[int], num_outputs: int) -> nn.Sequential:
    """A network with hidden layers of relu units."""
    sizes = [num_inputs, *hidden]
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], num_outputs))
