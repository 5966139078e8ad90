"""Figures as ratios of things that are run in turn, with how sure they are."""

from __future__ import annotations

import json
import math
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import ray
import torch

SEED = 0
GPUS = int(torch.cuda.is_available())
DEVICE = "cuda" if GPUS else "cpu"

# A figure is sure if its interval reaches no further than this, relative to the figure.
SURE = 0.05


def seconds(fn: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    fn()
    if GPUS:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turn(
    rounds: int,
    *,
    up_to: int | None = None,
    within_s: float = math.inf,
    **fns: Callable[[], Any],
) -> dict[str, list[float]]:
    """Seconds of each function, called in turn: A B A B ...

    Args:
        rounds: Number of rounds.
        up_to: With this, more rounds follow until the ratios to the first function are sure, but
            no more than this in all.
        within_s: No such round begins later than this.
        **fns: The functions.
    """
    times: dict[str, list[float]] = {name: [] for name in fns}
    first, *others = times.values()

    def more(n: int) -> bool:
        if n < rounds:
            return True
        if n >= (up_to or rounds) or time.perf_counter() > begun + within_s:
            return False
        return not all(is_sure(paired_ratios(first, other)) for other in others)

    begun = time.perf_counter()
    while more(len(first)):
        for name, fn in fns.items():
            times[name].append(seconds(fn))
    return times


def paired_ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """A ratio for each round."""
    return [a / b for a, b in zip(over, under, strict=True)]


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of the paired ratios."""
    return statistics.median(paired_ratios(over, under))


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median is with 90 % confidence; of fewer than five values, their range."""
    if len(values) < 5:
        return min(values), max(values)
    from scipy.stats import quantile_test  # which the GPU's machine lacks (benchmarks/gpu)

    low, high = quantile_test(values, p=0.5).confidence_interval(0.9)
    return float(low), float(high)


def is_sure(values: Sequence[float]) -> bool:
    """Whether the median of the values is sure."""
    low, high = median_interval(values)
    return high - low <= 2 * SURE * statistics.median(values)


def per_second(count: int, times: Sequence[float]) -> float:
    """Count a second, of the median time."""
    return round(count / statistics.median(times), 1)


@dataclass
class Row:
    """One figure.

    Attributes:
        name: What is compared.
        value: The figure; None where this machine can't tell.
        target: What it is to be.
        at_least: Whether `value` is to be at least or at most the target.
        interval: Where a measured figure is with 90 % confidence.
        detail: The absolute figures behind it.
    """

    name: str
    value: float | None
    target: float | None = None
    at_least: bool = True
    interval: tuple[float, float] | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_times(
        cls,
        name: str,
        over: Sequence[float],
        under: Sequence[float],
        target: float | None = None,
        *,
        times: float = 1.0,
        detail: dict[str, Any] | None = None,
    ) -> Row:
        """The median of the paired ratios of two functions' seconds, `times` a factor."""
        ratios = [times * r for r in paired_ratios(over, under)]
        interval = median_interval(ratios)
        return cls(name, statistics.median(ratios), target, interval=interval, detail=detail or {})

    @property
    def verdict(self) -> str:
        """One of "met", "not met", "too noisy" and, without a target or a figure, ""."""
        if self.value is None or self.target is None:
            return ""
        if self.interval is not None:
            low, high = self.interval
            if low < self.target < high and high - low > 2 * SURE * self.value:
                return "too noisy"
        better = self.value >= self.target if self.at_least else self.value <= self.target
        return "met" if better else "not met"


def start_ray(**kwargs: Any) -> None:
    """A Ray of its own, with CPUs enough for all that is built at once."""
    ray.init(
        address="local", num_cpus=16, num_gpus=4 * GPUS, include_dashboard=False,
        log_to_driver=False, logging_level="ERROR", **kwargs,
    )  # fmt: skip


def machine() -> dict[str, Any]:
    """What the figures are of."""
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((x.split(":")[1].strip() for x in cpuinfo if "model name" in x), "unknown")
    return {
        "cpu": f"{os.cpu_count()} cores, {cpu}, {torch.backends.cpu.get_cpu_capability()}",
        "gpu": torch.cuda.get_device_name() if GPUS else None,
        "python": platform.python_version(),
        **{name: version(name) for name in ("ray", "torch", "numpy", "gymnasium", "rllib-ppg")},
        "seed": SEED,
        "date": time.strftime("%Y-%m-%d"),
    }


def write(path: pathlib.Path, rows: list[Row], quick: bool) -> None:
    """Writes the rows; others of the same machine and day stay."""
    head = machine() | {"quick": quick}
    new = {row.name: asdict(row) | {"verdict": row.verdict} for row in rows}
    old = json.loads(path.read_text()) if path.exists() else {}
    if all(old.get(key) == value for key, value in head.items()):
        new = {row["name"]: row for row in old["rows"]} | new
    path.write_text(json.dumps({**head, "rows": [*new.values()]}, indent=1) + "\n")
