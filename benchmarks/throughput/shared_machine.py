"""A machine that others use at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from benchmarks.measuring import Row, in_turn, per_second
from benchmarks.throughput.configs import ppg
from benchmarks.throughput.sizes import Sizes


@contextmanager
def busy(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Lets processes run that otherwise stand still."""
    for process in processes:
        process.send_signal(signal.SIGCONT)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGSTOP)


def shared_machine(sizes: Sizes) -> Iterator[Row]:
    """A run beside busy processes of others, and beside a second run.

    With k busy processes on c cores, the fair share of a run that uses all cores is c / (c + k).
    """
    sizes = replace(sizes, T=16)  # short iterations, in turn
    # Learner and env runner in processes of their own: this one has imported torch already.
    one, two = (ppg(sizes).learners(num_learners=1).build_algo() for _ in range(2))
    cores = len(os.sched_getaffinity(0))
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    for process in others:
        process.send_signal(signal.SIGSTOP)

    def train(algo: Any, k: int = 0) -> None:
        with busy(others[:k]):
            algo.train()

    def both() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(train, (one, two)))

    try:
        in_turn(1, one=lambda: train(one), two=lambda: train(two))
        few, many = max(cores // 2, 1), cores
        times = in_turn(
            5,
            alone=lambda: train(one),
            few=lambda: train(one, few),
            many=lambda: train(one, many),
            both=both,
        )
    finally:
        for process in others:
            process.kill()
        for algo in (one, two):
            algo.stop()
    detail = {
        f"{k} env steps/s": per_second(sizes.states, times[k]) for k in ("alone", "few", "many")
    }
    for name, k in (("few", few), ("many", many)):
        share = cores / (cores + k)
        yield Row.of_times(
            f"beside {k} busy processes on {cores} cores: throughput / fair share of that alone",
            times["alone"],
            times[name],
            0.8,
            times=1 / share,
            detail=detail,
        )
    yield Row.of_times(
        "two runs side by side: their throughput together / that of one alone",
        times["alone"],
        times["both"],
        0.9,
        times=2,
    )
