"""How much is measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.measuring import in_turn


@dataclass
class Sizes:
    """How much of everything: `rows` of T states, cut into `num_mb` minibatches.

    A comparison takes `rounds` rounds, and until it is sure up to `max_rounds` within `max_s`.
    """

    rounds: int = 3
    max_rounds: int = 9
    max_s: float = math.inf
    rows: int = 16
    T: int = 64
    num_mb: int = 1
    e_aux: int = 1

    @property
    def states(self) -> int:
        """Env steps of an iteration."""
        return self.rows * self.T


QUICK = Sizes(max_rounds=15, max_s=30.0, T=8)


def compare(sizes: Sizes, **fns: Callable[[], Any]) -> dict[str, list[float]]:
    """Seconds of each function, in turn; what is compared with the first is to be sure."""
    return in_turn(sizes.rounds, up_to=sizes.max_rounds, within_s=sizes.max_s, **fns)
