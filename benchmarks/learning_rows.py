"""Rows of finished learning runs as CSV files under docs/results."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path("docs/results")


def write_rows(path: Path, fields: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a run's CSV, all at once: a run that has one is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    with draft.open("w", newline="") as f:
        f.write(f"# {describe()}\n")
        csv.writer(f).writerows([fields, *rows])
    draft.rename(path)


def read_rows(path: Path) -> list[dict[str, str]]:
    """What `write_rows` has written, by field."""
    with path.open() as f:
        return list(csv.DictReader(line for line in f if not line.startswith("#")))


def describe() -> str:
    """Versions, machine and day of a run."""
    from benchmarks.measuring import machine
    from rllib_ppg._version import versions

    envs = ("mujoco", "MinAtar", "ale_py", "procgen-mirror")
    of = versions("ray", "torch", "gymnasium", "numpy", *envs)
    packages = ", ".join(f"{name} {version}" for name, version in of.items())
    return f"{packages}; 1 of {machine()['cpu']}; {time.strftime('%Y-%m-%d')}"
