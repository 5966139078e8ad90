"""Recurrent states that are carried from one rollout of an env to the next.

Shapes: n rows, D numbers of a state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


class CarriedStates:
    """The state after the last row of each env, for its next row."""

    def __init__(self) -> None:
        # By env runner and env: the number of the next rollout, and the state it starts from.
        self._next: dict[tuple[int, int], tuple[int, np.ndarray]] = {}

    def starts(
        self, stream: np.ndarray, begins: np.ndarray, initial: np.ndarray, otherwise: np.ndarray
    ) -> tuple[np.ndarray, int]:
        """The states that rows start from.

        Args:
            stream: `Rollout.stream` of the rows, `[n, 3]`.
            begins: Whether a row begins with an episode, and so with the initial state, `[n]`.
            initial: That state, `[D]`.
            otherwise: States `[n, D]` for rows within an episode whose last row was not here.

        Returns:
            The states `[n, D]`, and for how many rows they are `otherwise`.
        """
        states, unknown = otherwise.copy(), 0
        for i, (runner, env, number) in enumerate(stream.tolist()):
            expected, state = self._next.get((runner, env), (None, None))
            if begins[i]:
                states[i] = initial
            elif number == expected:
                states[i] = state
            else:
                unknown += 1
        return states, unknown

    def keep(self, stream: np.ndarray, states: np.ndarray) -> None:
        """Keeps the states `[n, D]` after these rows."""
        for (runner, env, number), state in zip(stream.tolist(), states, strict=True):
            self._next[runner, env] = (number + 1, state)

    def get_state(self) -> dict[str, Any]:
        """All of them as arrays."""
        if not self._next:
            return {}
        stream = [(*key, number) for key, (number, _) in self._next.items()]
        return {
            "stream": np.array(stream, np.int64),
            "states": np.stack([state for _, state in self._next.values()]),
        }

    def set_states(self, states: Iterable[Mapping[str, Any]]) -> None:
        """Restores what `get_state` returned, of several at once."""
        self._next = {}
        for state in filter(None, states):
            rows = zip(state["stream"].tolist(), state["states"], strict=True)
            self._next |= {(runner, env): (number, x) for (runner, env, number), x in rows}
