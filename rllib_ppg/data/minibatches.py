"""How a phase's states are cut into minibatches, in the same way for any number of learners.

A minibatch is made of segments: L consecutive steps of one env, whole rows by default. Every
learner draws the same numbers from the same seed, and works on those segments that it holds. The
composition of a minibatch so depends on the seed alone.

Samples are stratified: of M consecutive segments, each of the M minibatches gets one. Learners hold
ranges of rows, and so have equal parts of every minibatch; with a plain permutation of 8 rows
each, one of two learners would on average wait for the other during a fifth of its time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


def interleave_row_ids(counts: Sequence[int]) -> list[np.ndarray]:
    """Numbers the rows of several groups so that each stretch has its share of every group.

    The groups are the env runners of an iteration, or the iterations of an auxiliary phase. The
    first halves of all groups have the first half of the numbers, and so on. Each learner holds a
    range of numbers (`shard_cuts`), and so the same part of each group.

    Args:
        counts: number of rows of each group.

    Returns:
        The numbers of each group's rows, `[counts[g]]`, ascending.
    """
    position = np.concatenate([(np.arange(n) + 0.5) / n for n in counts])
    numbers = np.empty(len(position), np.int64)
    numbers[np.argsort(position, kind="stable")] = np.arange(len(position))
    return np.split(numbers, np.cumsum(counts)[:-1])


def shard_cuts(numbers: np.ndarray, num_rows: int, num_shards: int) -> list[int]:
    """Where one group's rows are cut so that each learner gets its range of all numbers.

    Args:
        numbers: of the group's rows, ascending (`interleave_row_ids`).
        num_rows: of all groups.
        num_shards: number of learners.

    Returns:
        `num_shards + 1` positions, from 0 to the number of the group's rows.
    """
    firsts = np.arange(num_shards + 1) * num_rows / num_shards
    return [int(cut) for cut in np.searchsorted(numbers, firsts)]


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
        # Number of the segment's first state here; -1: another learner holds it, or nobody, as
        # of the last one.
        self._first_state = np.full(self.num_segments + 1, -1, np.int64)
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
        # Strata of as many neighbouring segments as there are minibatches, which get one each.
        strata = -(-self.num_segments // num_minibatches)
        order = np.arange(strata * num_minibatches).reshape(strata, num_minibatches)
        order[order >= self.num_segments] = -1  # nobody's
        np.random.default_rng(list(seed)).permuted(order, axis=1, out=order)
        for minibatch in order.T:
            first = np.sort(self._first_state[minibatch])
            first = first[first >= 0]
            yield (first[:, None] + self._steps).ravel()
