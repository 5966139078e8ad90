"""An auxiliary phase as a learner holds it, between `presleep` and its last epoch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rllib_ppg.aux_losses.false_transitions import draw_false_transitions
from rllib_ppg.data.minibatches import Segments
from rllib_ppg.data.phase_specs import AuxPhase
from rllib_ppg.learning.augmented_pass import draw_random_numbers
from rllib_ppg.learning.batches import StateDataset


class OpenAuxPhase(NamedTuple):
    """The states of a phase, and what is drawn for them.

    Attributes:
        spec: What the driver said about it.
        states: The states that this learner trains on.
        segments: How they are cut into minibatches.
        row_ids: Ids of its rows among all rows of the phase, `[n]`.
        actions: Actions of these rows `[n, T, ...]`; None if no loss needs them, or without rows.
        saturated: How many outputs of tanh units are saturated when the phase begins, and how many
            were counted, on all learners.
        metrics: Metrics of each epoch so far.
    """

    spec: AuxPhase
    states: StateDataset
    segments: Segments
    row_ids: np.ndarray
    actions: np.ndarray | None
    saturated: list[float]
    metrics: list[dict[str, float]]

    def draw_augmentation(self, epoch: int) -> None:
        """Draws the random numbers of an epoch's augmentation, for all states."""
        seed = (self.spec.seed, epoch)
        random = draw_random_numbers(self.row_ids, self.segments.num_steps, seed)
        self.states.set_column("random", random)

    def draw_false_transitions(self, num_actions: int, epoch: int) -> None:
        """Draws the transitions of an epoch that did not happen, for all states."""
        if self.actions is None:  # no rows
            return
        n, T = self.actions.shape
        seed = (self.spec.seed, epoch)
        actions, steps = draw_false_transitions(self.actions, num_actions, self.row_ids, seed)
        first_state = T * np.arange(n)[:, None]
        self.states.others["false_next"] = (first_state + steps).ravel()
        self.states.set_column("false_actions", actions.ravel())


def next_states(ended: np.ndarray, valid: np.ndarray, T: int, L: int) -> np.ndarray:
    """For each of the states, in rows of T, the index of the next one of its episode; -1 for none.

    The last state of L steps of a row, an episode's last and masked states have none.
    """
    rows_valid = valid.reshape(-1, T)
    has_next = rows_valid & ~ended.reshape(-1, T)
    has_next[:, :-1] &= rows_valid[:, 1:]
    has_next[:, L - 1 :: L] = has_next[:, -1] = False
    return np.where(has_next.ravel(), np.arange(1, len(valid) + 1), -1)
