"""The versions of this package and of others."""

from __future__ import annotations

from importlib.metadata import version

__version__ = "0.2.0"


def versions(*packages: str) -> dict[str, str]:
    """Returns the versions of this package and of others by name."""
    # Not from this package's metadata, which a job that got the package from `rllib submit` lacks.
    return {"rllib-ppg": __version__} | {name: version(name) for name in packages}
