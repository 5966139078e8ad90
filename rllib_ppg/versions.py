"""Versions, for those who want to repeat a run or a measurement."""

from __future__ import annotations

from importlib.metadata import version

import rllib_ppg


def versions(*packages: str) -> dict[str, str]:
    """Returns the versions of this package and of others, by their names."""
    # Not this one's metadata, which it lacks where it was sent along with a job.
    return {"rllib-ppg": rllib_ppg.__version__} | {name: version(name) for name in packages}
