"""How a phase's states are cut into minibatches, in the same way for any number of learners.

A minibatch is made of segments: L consecutive steps of one env, whole rows by default. Every
learner draws the same permutation of all segments from the same seed, and works on those that it
holds. The composition of a minibatch so depends on the seed alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


class Segments:
    """The segments of a phase, and the states of them that one learner holds.

    The learner's states are numbered 0.. over its arrays of rows, one after the other.

    Args:
        rows: of each of the learner's arrays, its rows' numbers among all rows of the phase, `[n]`.
        num_rows: number of rows of the phase, over all learners.
        T: steps a row.
        segment_length: steps a segment, L; divides T.
    """

    def __init__(self, rows: Sequence[np.ndarray], num_rows: int, T: int, segment_length: int):
        assert T % segment_length == 0
        per_row = T // segment_length
        self.num_segments = num_rows * per_row
        mine = np.concatenate([*rows, np.empty(0, np.int64)]).astype(np.int64)
        segments = (mine[:, None] * per_row + np.arange(per_row)).ravel()
        # Number of the segment's first state here; -1: another learner holds it.
        self._first_state = np.full(self.num_segments, -1, np.int64)
        self._first_state[segments] = np.arange(len(segments)) * segment_length
        self._steps = np.arange(segment_length)

    def epoch(self, seed: Sequence[int], num_minibatches: int) -> Iterator[np.ndarray]:
        """One epoch over all segments, each in one minibatch.

        Args:
            seed: the same on all learners, and another one for each epoch.
            num_minibatches: number of minibatches to make.

        Yields:
            The numbers of the minibatch's states that this learner holds, ascending; as many
            arrays on each learner, empty ones included.
        """
        order = np.random.default_rng(list(seed)).permutation(self.num_segments)
        for minibatch in np.array_split(order, num_minibatches):
            first = np.sort(self._first_state[minibatch])
            first = first[first >= 0]
            yield (first[:, None] + self._steps).ravel()
