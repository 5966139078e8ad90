"""This package's version, and those of others, for whoever wants to repeat a run."""

from __future__ import annotations

from importlib.metadata import version

__version__ = "0.1.0"


def versions(*packages: str) -> dict[str, str]:
    """Returns the versions of this package and of others, by their names."""
    # Not this one's metadata: it has none where the package was sent along with a job.
    return {"rllib-ppg": __version__} | {name: version(name) for name in packages}
