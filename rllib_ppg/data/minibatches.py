"""How a phase's states are cut into minibatches, in the same way for any number of learners.

A minibatch is made of segments: L consecutive steps of one env, whole rows by default. The last one
of a row is shorter if L does not divide T. Every learner draws the same segment ids from the same
seed and uses the segments that it holds, so the composition of a minibatch depends on the seed
alone.

Sampling is stratified: of M consecutive segments, each of the M minibatches gets one. Learners hold
ranges of rows, so each has an equal part of every minibatch. With a plain permutation and 8 rows
each, one of two learners would wait for the other a fifth of the time on average.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


def interleave_row_ids(counts: Sequence[int]) -> list[np.ndarray]:
    """Numbers the rows of several groups so that each range of ids has its share of every group.

    The groups are the env runners of an iteration, or the iterations of an auxiliary phase. The
    first halves of all groups have the first half of the ids, and so on. Each learner holds a
    range of ids (`shard_cuts`), and so the same part of each group.

    Args:
        counts: Number of rows of each group.

    Returns:
        Row ids of each group, `[counts[g]]`, ascending.
    """
    position = np.concatenate([(np.arange(n) + 0.5) / n for n in counts])
    row_ids = np.empty(len(position), np.int64)
    row_ids[np.argsort(position, kind="stable")] = np.arange(len(position))
    return np.split(row_ids, np.cumsum(counts)[:-1])


def shard_cuts(row_ids: np.ndarray, num_rows: int, num_shards: int) -> list[int]:
    """Where to cut one group's rows so that each learner gets its range of all ids.

    Args:
        row_ids: Ids of the group's rows, ascending (`interleave_row_ids`).
        num_rows: Number of rows of all groups.
        num_shards: Number of learners.

    Returns:
        `num_shards + 1` positions, from 0 to the number of the group's rows.
    """
    firsts = np.arange(num_shards + 1) * num_rows / num_shards
    return [int(cut) for cut in np.searchsorted(row_ids, firsts)]


def shard_row_ids(rows: Sequence[Sequence[int]]) -> list[list[np.ndarray]]:
    """Row ids of every shard.

    Args:
        rows: For each group, the number of its rows that each learner gets.

    Returns:
        For each learner, the row ids of its shard of each group.
    """
    shards = [
        np.split(row_ids, np.cumsum(counts)[:-1])
        for row_ids, counts in zip(interleave_row_ids([*map(sum, rows)]), rows, strict=True)
    ]
    return [list(of_learner) for of_learner in zip(*shards, strict=True)]


class Segments:
    """The segments of a phase, and which of their states one learner holds.

    The learner's states are numbered from 0 over its arrays of rows, one after the other.

    Attributes:
        num_segments: Number of segments of the phase.
        num_steps: Steps of a row, T.

    Args:
        row_ids: For each of the learner's arrays, the ids of its rows among all rows, `[n]`.
        num_rows: Number of rows of the phase, over all learners.
        T: Steps of a row.
        segment_length: Steps of a segment, L.
    """

    def __init__(self, row_ids: Sequence[np.ndarray], num_rows: int, T: int, segment_length: int):
        self.num_steps = T
        per_row = segments_per_row(T, segment_length)
        self.num_segments = num_rows * per_row
        mine = np.concatenate([*row_ids, np.empty(0, np.int64)]).astype(np.int64)
        segments = (mine[:, None] * per_row + np.arange(per_row)).ravel()
        # Index of each segment's first state here. -1: another learner holds the segment. The last
        # entry stands for the gaps of an uneven epoch, which nobody holds.
        self._first_state = np.full(self.num_segments + 1, -1, np.int64)
        rows, k = np.divmod(np.arange(len(segments)), per_row)
        self._first_state[segments] = rows * T + k * segment_length
        self._T, self._L = T, segment_length

    def epoch(self, seed: Sequence[int], num_minibatches: int) -> Iterator[np.ndarray]:
        """One epoch over all segments, with each segment in one minibatch.

        Args:
            seed: The same for all learners, and different for each epoch.
            num_minibatches: Number of minibatches to make.

        Yields:
            Indices of the minibatch's states that this learner holds, ascending. Every learner
            gets the same number of arrays, some of which may be empty.
        """
        # One stratum holds as many neighbouring segments as there are minibatches; each minibatch
        # gets one of them.
        strata = -(-self.num_segments // num_minibatches)
        order = np.arange(strata * num_minibatches).reshape(strata, num_minibatches)
        order[order >= self.num_segments] = -1  # a gap
        np.random.default_rng(list(seed)).permuted(order, axis=1, out=order)
        for minibatch in order.T:
            first = np.sort(self._first_state[minibatch])
            first = first[first >= 0]
            yield states_of_segments(first, self._T, self._L)


def segments_per_row(T: int, L: int) -> int:
    """Number of segments of L steps in a row of T, K."""
    return -(-T // L)


def states_of_segments(first: np.ndarray, T: int, L: int) -> np.ndarray:
    """Indices of the states of segments, given those of their first states, in rows of T."""
    steps = first[:, None] + np.arange(L)
    if T % L:
        return steps[steps < (first // T + 1)[:, None] * T]
    return steps.ravel()
