"""The installed `rllib` command, run as a user runs it."""

import subprocess
import sys
from pathlib import Path

RLLIB = str(Path(sys.executable).parent / "rllib")


def run(*words, timeout=200, **kwargs):
    """Runs `rllib words...` to its end."""
    return subprocess.run(
        [RLLIB, *map(str, words)], capture_output=True, text=True, timeout=timeout, **kwargs
    )
