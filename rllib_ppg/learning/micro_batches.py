"""Micro-batches computed side by side, each by one thread from its first layer to its last.

torch would divide each layer among the threads, which then wait for each other in every layer; if
another program has one of the CPUs, all wait for the thread that waits for it. Here threads wait
for each other once a gradient step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch

X = TypeVar("X")
Y = TypeVar("Y")


class MicroBatchThreads:
    """Threads that compute micro-batches side by side.

    The function must not draw random numbers, or change what its other calls read.

    Args:
        num_threads: Number of threads; with 1, the calling thread computes everything.

    Attributes:
        in_turn: Whether the calling thread computes everything.
    """

    def __init__(self, num_threads: int):
        self._num_threads = num_threads
        self.in_turn = num_threads == 1
        self._pool = _single_threaded_workers(num_threads) if num_threads > 1 else None

    def map(self, fn: Callable[[X], Y], batches: Iterable[X], count: int) -> Iterator[Y]:
        """`fn` of each of `count` micro-batches, in their order, whichever is ready first.

        Results that are added up in this order do not depend on the number of threads.
        """
        if self._pool is None or count == 1:  # torch divides a single one among its own threads
            return map(fn, batches)
        return map_ahead(self._pool, fn, batches, 2 * self._num_threads)


def map_ahead(pool: Executor, fn: Callable[[X], Y], items: Iterable[X], ahead: int) -> Iterator[Y]:
    """`map` in a pool that is up to `ahead` items ahead of the caller."""
    futures: deque[Future[Y]] = deque()
    for item in items:
        futures.append(pool.submit(fn, item))
        if len(futures) == ahead:
            yield futures.popleft().result()
    for future in futures:
        yield future.result()


def _single_threaded_workers(num_threads: int) -> ThreadPoolExecutor:
    """A pool whose threads compute a layer alone, while torch's threads elsewhere stay as many."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="micro_batches")
    all_begun = Barrier(num_threads)

    def begin() -> None:
        torch.get_num_threads()  # the first call in a thread resets its number
        torch.set_num_threads(1)
        all_begun.wait()

    for begun in [pool.submit(begin) for _ in range(num_threads)]:
        begun.result()
    torch.set_num_threads(before)  # the last call also counts for threads that start later
    return pool
