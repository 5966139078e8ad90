"""The `rllib` command, for a script that was installed before the command had its own package."""

from rllib_ppg_cli import main

__all__ = ["main"]
